"""All groups beside emlp: what is in the table where emlp is missing, slow, or of another opinion; nothing is timed."""

from pathlib import Path

import pytest

from benchmarks import solver_suite
from benchmarks.emlp_environment import EmlpUnavailableError
from benchmarks.softeq_worker import solve
from benchmarks.solver import COLD, EMLP, TookTooLongError


def fake(seconds, rank=5):
    return {"seconds": seconds, "ranks": [rank]}


@pytest.fixture
def run(monkeypatch):
    """Run two groups with what emlp hands back given, or raised."""

    def go(theirs, installed=True):
        def measure(python, module, case, **_):
            if module.endswith("softeq_worker"):
                return fake(0.5)
            if isinstance(theirs, Exception):
                raise theirs
            return theirs

        def python(*, install):
            if not installed:
                raise EmlpUnavailableError("emlp cannot be installed: offline")
            return Path("python")

        monkeypatch.setattr(solver_suite, "measure", measure)
        monkeypatch.setattr(solver_suite, "emlp_python", python)
        return solver_suite.run(quick=True)

    return go


def cells(report):
    return [str(next(iter(column.cells))) for column in report.tables[0].columns]


def test_how_many_times_faster_than_emlp(run):
    report = run(fake(8.0))
    assert [row.arm for row in report.rows] == [EMLP, COLD] * 2
    assert report.rows[1].ratio.median == 16
    assert cells(report)[2:] == ["5", "8.00", "500", "16.0"]
    assert not [remark for remark in report.remarks if "DIFFER" in remark]


def test_emlp_at_its_limit_is_a_bound(run):
    report = run(TookTooLongError("too long"))
    assert [row.arm for row in report.rows] == [COLD] * 2
    assert cells(report)[3:] == ["> 30", "500", "> 60.0"]


def test_ranks_that_differ_are_said_and_lose_nothing(run):
    report = run(fake(8.0, rank=4))
    assert len([remark for remark in report.remarks if "THE RANKS DIFFER: softeq [5], emlp [4]" in remark]) == 2
    assert len(report.rows) == 4


def test_without_emlp_softeq_is_measured_alone(run):
    report = run(None, installed=False)
    assert report.remarks == ["emlp cannot be installed: offline; softeq is measured alone"]
    assert cells(report)[3:] == ["-", "500", "-"]


def test_a_worker_that_fails_is_an_error(run):
    with pytest.raises(RuntimeError, match="exit code 1"):
        run(RuntimeError("ended with exit code 1"))


def test_the_worker_knows_the_groups():
    measured, (rank,) = solve("Z(6), 256 channels")
    assert rank == 18286
    assert measured["seconds"] > 0
