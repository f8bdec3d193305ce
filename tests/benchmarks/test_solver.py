"""The solver benchmark: both workers' answers, and what is said where emlp cannot be had; nothing here is timed."""

import sys
from pathlib import Path

import pytest

from benchmarks import cases, emlp_environment, solver
from benchmarks.emlp_environment import EmlpUnavailableError, emlp_python
from benchmarks.softeq_worker import solve

RANKS = dict(zip(cases.PAIRS, [3, 2, 3, 15, 15, 64, 15, 625, 1024], strict=True))


@pytest.mark.parametrize(("case", "rank"), RANKS.items())
def test_ranks_that_theory_gives(case, rank):
    measured, ranks = solve(case)
    assert ranks == [rank]
    assert set(measured) == {"seconds", "cpu_seconds", "memory_mib"}
    assert measured["seconds"] > 0


def test_the_bases_of_the_network_are_those_that_it_builds():
    assert solve(cases.NETWORK_BASES, channels=30)[1] == solve(cases.NETWORK_BUILT, channels=30)[1]


@pytest.mark.slow
def test_a_worker_answers_from_a_process_of_its_own(tmp_path):
    case = next(iter(cases.PAIRS))
    answer = solver.measure(Path(sys.executable), "benchmarks.softeq_worker", case, SOFTEQ_CACHE=str(tmp_path))
    assert answer["ranks"] == [3]
    assert answer["import_seconds"] > 0
    assert not list(tmp_path.iterdir()), "so small a basis is solved faster than a file is proven"


def test_a_worker_that_fails_is_reported_with_its_last_line():
    with pytest.raises(RuntimeError, match=r"no_such_worker.*exit code 1.*No module named"):
        solver.measure(Path(sys.executable), "benchmarks.no_such_worker", "O(3)")


def fake(seconds, ranks=(3,)):
    return {"seconds": seconds, "cpu_seconds": seconds, "memory_mib": 4.0, "import_seconds": 1.0, "ranks": list(ranks)}


def test_ranks_that_differ_are_an_error():
    measured = {solver.EMLP: [fake(1.0, [4])], solver.COLD: [fake(1.0)], solver.WARM: [fake(1.0)]}
    with pytest.raises(RuntimeError, match=r"ranks differ.*\[3\].*emlp \[4\]"):
        solver.check_ranks("a pair", measured)


def by_arm(report):
    return {row.arm: row for row in report.rows if row.case == next(iter(cases.PAIRS))}


def test_run_says_in_one_line_that_emlp_is_missing_and_goes_on(monkeypatch):
    def missing(*, install):
        raise EmlpUnavailableError("emlp cannot be installed: offline")

    monkeypatch.setattr(solver, "emlp_python", missing)
    monkeypatch.setattr(solver, "measure", lambda *_, **__: fake(0.5))
    report = solver.run(quick=True)
    assert report.remarks == ["emlp cannot be installed: offline; softeq is measured alone"]
    assert set(by_arm(report)) == {solver.COLD, solver.WARM}
    assert by_arm(report)[solver.COLD].ratio is None
    assert report.tables[0].row_count == 2


def test_ratios_say_how_many_times_faster_than_emlp(monkeypatch):
    def measured(python, module, case, **_):
        return fake(8.0 if module.endswith("emlp_worker") else 0.5)

    monkeypatch.setattr(solver, "emlp_python", lambda *, install: Path("python"))
    monkeypatch.setattr(solver, "measure", measured)
    rows = by_arm(solver.run(quick=True))
    assert rows[solver.COLD].ratio.median == 16
    assert rows[solver.COLD].twin == solver.EMLP
    assert rows[solver.COLD].more["memory_ratio_median"] == 1
    assert rows[solver.EMLP].ratio is None


def test_an_environment_with_these_requirements_is_used_as_it_is(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    (tmp_path / "softeq-emlp-requirements.txt").write_text(emlp_environment.REQUIREMENTS.read_text())
    assert emlp_python(tmp_path, install=False) == python
    (tmp_path / "softeq-emlp-requirements.txt").write_text("emlp==0.1\n")
    with pytest.raises(EmlpUnavailableError, match="is not there yet: run"):
        emlp_python(tmp_path, install=False)


def test_an_environment_that_cannot_be_made_says_why(tmp_path, monkeypatch):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho warning >&2\necho 'no network' >&2\nexit 3\n")
    uv.chmod(0o755)
    monkeypatch.setattr(emlp_environment.shutil, "which", lambda _: str(uv))
    with pytest.raises(EmlpUnavailableError, match=r"^emlp cannot be installed: uv: no network$"):
        emlp_python(tmp_path / "new")


@pytest.mark.slow
@pytest.mark.parametrize("case", [cases.NETWORK_BASES, *cases.PAIRS])
def test_ranks_agree_with_emlp(case):
    try:
        python = emlp_python(install=False)
    except EmlpUnavailableError as error:
        pytest.skip(str(error))
    assert solver.measure(python, "benchmarks.emlp_worker", case)["ranks"] == solve(case)[1]


def test_channels_are_spread_over_the_ranks_as_emlp_does():
    assert cases.Uniform("SO(3)", 3).counts == [70, 23, 7, 2]
    assert cases.Uniform("O(2)", 2).counts == [48, 24, 12, 6, 2, 1]
    for case in cases.SUITE.values():
        sizes = [count * case.dimension**rank for rank, count in enumerate(case.counts)]
        assert sum(sizes) == 256
