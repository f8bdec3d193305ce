"""The benchmark of rules: resumable, its oracle, its table, and what a step costs."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import prior_step, strength
from benchmarks.strength_problems import Problem, names, problem
from benchmarks.strength_stack import train_stacked
from benchmarks.strength_table import against, cells, details, number, summary, with_tables
from softeq import SoftLinear, Vector
from softeq.errors import SofteqError
from softeq.groups import Z


def tiny(seed=0):
    rep, wide = Vector(Z(4)), (2 * Vector)(Z(4))
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed))

    def build(constraint):
        torch.manual_seed(seed)
        layers = (SoftLinear(a, b, constraint=constraint) for a, b in ((rep, wide), (wide, rep)))
        return nn.Sequential(next(layers), nn.Tanh(), next(layers))

    return Problem(
        build=build, x=x, y=x.roll(1, 1), held=(x[:4], x[:4].roll(1, 1)), loss=torch.nn.functional.mse_loss,
        error=lambda model: float(torch.nn.functional.mse_loss(model(x), x.roll(1, 1)).detach()), likelihood="gaussian",
        steps=12, batch=8, lr=1e-2, grid=(1.0, 100.0), decays=(0.1, 1.0), clip=1.0,
        action=lambda g: (lambda v: v.roll(1, 1), lambda v: v.roll(1, 1)),
    )  # fmt: skip


@pytest.fixture
def tiny_family(monkeypatch):
    monkeypatch.setattr(strength, "problem", lambda name, seed: tiny(seed))
    monkeypatch.setattr(strength, "names", lambda family: ["tiny"])


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_a_killed_run_goes_on_where_it_was(tmp_path, tiny_family):
    out, said = tmp_path / "new" / "strength.jsonl", []
    assert strength.run_all(out, families=["z6"], seeds=1, limit=3, say=said.append) == 3
    with out.open("a") as file:
        file.write('{"problem": "tiny", "se')  # a line that was being written
    strength.run_all(out, families=["z6"], seeds=1, say=said.append)
    assert strength.run_all(out, families=["z6"], seeds=1, say=said.append) == 0
    records = strength.read(out)
    assert sorted(r["arm"] for r in records) == sorted(strength.arms(tiny()))
    assert all(r["error"] >= 0 for r in records)
    assert next(r for r in records if r["arm"] == "mackay")["precisions"]
    assert next(r for r in records if r["arm"] == "halving")["chosen"]


@pytest.mark.parametrize("arms", [["hard"], ["none@0.1", "none@1"], ["soft@1", "soft@100"]])
def test_networks_trained_at_once_are_those_trained_one_by_one(arms):
    together = train_stacked({seed: tiny(seed) for seed in (0, 3)}, arms)
    assert set(together) == {(seed, arm) for seed in (0, 3) for arm in arms}
    for (seed, arm), found in together.items():
        alone = strength.train(tiny(seed), arm, seed)
        assert found["error"] == pytest.approx(alone["error"], rel=1e-4)
        assert found["held_loss"] == pytest.approx(alone["held_loss"], rel=1e-4)


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_compiled_steps_are_the_eager_ones(tmp_path, tiny_family, capsys):
    fast, slow = (strength.train(tiny(), "mackay", 0, compiled=compiled) for compiled in (True, False))
    assert fast["error"] == pytest.approx(slow["error"], rel=1e-4)
    assert (fast["compiled"], "compiled" in slow) == (True, False)
    assert "compiled" not in strength.train(tiny(), "remul", 0, compiled=True)
    out = tmp_path / "strength.jsonl"
    strength.main(["--family", "z6", "--seeds", "1", "--out", str(out), "--compile", "--arm", "hard"])
    assert strength.read(out)[0]["compiled"]
    with pytest.raises(SystemExit):
        strength.main(["--family", "images", "--out", str(out), "--compile"])
    assert "z6 and inertia alone" in capsys.readouterr().err


def test_the_oracle_is_the_best_by_test_error_and_arms_are_compared_with_it_by_seed():
    def line(arm, seed, error, problem="z6/n100/e0"):
        return {"problem": problem, "seed": seed, "arm": arm, "error": error}

    errors = {
        "hard": (3.0, 3.0),
        "none@1": (2.0, 4.0),
        "soft@1": (1.0, 2.0),
        "soft@10": (4.0, 4.0),
        "mackay": (0.5, 2.0),
    }
    records = [line(arm, seed, error) for arm, both in errors.items() for seed, error in enumerate(both)]
    (cell,) = cells(records)
    assert (cell.oracle, cell.against) == ("soft@1", 4)
    assert cell.over("soft@1").value == 1
    assert cell.over("mackay").value == pytest.approx(0.5**0.5)
    assert cell.over("mackay", "hard").n == 2
    assert "| z6/n100 | `mackay` | 1, 2 | 0.71 | 0.71 | met | yes |  |" in summary(records)
    assert "| z6/n100 | `hard` | 1, 2 | 2.12 | 2.12 | no | yes |" in summary(records)
    assert "soft@1 of 4: 1.5" in details(records)
    assert cells([r for r in records if r["arm"] != "hard"]) == []
    assert cells([*records, line("soft@100", 0, math.nan), line("soft@100", 1, math.nan)])[0].oracle == "soft@1"


def two_families():
    """Whole and broken ends of two families; mackay is above hard and none on the second alone."""
    errors = {"hard": 2.0, "none@1": 3.0, "none@10": 9.0, "soft@1": 1.0, "soft@10": 4.0, "mackay": 0.9}
    return [
        {"problem": f"z6/{size}/{end}", "seed": seed, "arm": arm, "error": error * far * (1 + 0.1 * seed + noise)}
        for k, (arm, error) in enumerate(errors.items())
        for size in ("n100", "n1000")
        for end in ("e0", "e1")
        for seed in range(4)
        for far in [(5.0 if end == "e0" else 6.0) if (arm, size) == ("mackay", "n1000") else 1.0]
        for noise in [0.01 * ((seed + k) % 3)]
    ]


def images():
    """Arms on one classifier."""
    return [
        {"problem": "images/n1000/turned", "seed": seed, "arm": arm, "error": error + 0.001 * seed}
        for arm, error in {"hard": 0.2, "none@1": 0.3, "soft@1": 0.25, "mackay": 0.208, "dual": 0.22}.items()
        for seed in (0, 1)
    ]


def test_numbers_of_the_tables_can_be_asked_for():
    records, both = two_families(), ["z6/n100", "z6/n1000"]
    first, second = (number(records, [one], "mackay", "mean") for one in both)
    assert f"z6/n100 | `mackay` | 2, 4 | {first:.2f} | " in summary(records)
    assert f"z6/n1000 | `mackay` | 2, 4 | {second:.2f} | " in summary(records)
    assert number(records, both, "mackay", "mean") == pytest.approx((first * second) ** 0.5)
    assert number(records, both, "mackay", "worst") == against(records, "z6/n1000/e1", "mackay").value
    assert number(records, both, "mackay", "least") == pytest.approx(first)
    assert [number(records, [one], "mackay", what) for what in ("met", "worse") for one in both] == [1, 0, 0, 1]
    assert (number(records, both, "mackay", "met"), number(records, both, "hard", "worse")) == (1, 0)
    assert number(records, both, "mackay", "worst", "hard") == pytest.approx(2.7, rel=0.05)


def test_p_of_one_problem_is_by_holm_over_its_row():
    records = two_families()
    (cell,) = (c for c in cells(records) if c.name == "z6/n100/e1")
    alone = cell.over("mackay", "none@1")
    pair = against(records, "z6/n100/e1", "mackay", "none")
    assert (pair.value, pair.low, pair.n) == (alone.value, alone.low, 4)
    assert alone.p < pair.p <= 2 * alone.p * (1 + 1e-9)  # hard and mackay; none is not compared with itself
    assert against(records, "z6/n100/e1", "none", "none").p == 1
    assert against(records, "z6/n100/e1", "none").value == cell.over("none@1").value


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: number(r, ["z6/n100", "inertia/n200"], "mackay", "mean"), "in each of"),
        (lambda r: number(r, ["z6/n100"], "absent", "mean"), "expected records of 'absent'"),
        (lambda r: number(r, ["z6/n100"], "mackay", "best"), "got 'best'"),
        (lambda r: number(r, ["z6/n100"], "mackay", "met", "hard"), "against the oracle"),
        (lambda r: number(r + images(), ["z6/n100", "images/n1000"], "mackay", "worst"), "ratios and differences"),
        (lambda r: against(r, "z6/n100/e0.1", "mackay"), "z6/n100/e0.1 has no 'mackay'"),
        (lambda r: against(r, "z6/n100/e0", "absent", "hard"), "compared with hard"),
    ],
)
def test_what_the_records_do_not_hold_is_said(ask, message):
    with pytest.raises(SofteqError, match=message):
        ask(two_families())


def test_classifiers_are_compared_by_differences():
    text = summary(images())
    assert "`mackay` | 1, 2 | +0.008 | +0.008 | met | worse |" in text
    assert "`dual` | 1, 2 | +0.020 | +0.020 | no | worse |" in text


@pytest.mark.parametrize("name", [names(family)[1] for family in ("z6", "inertia")])
def test_problems_have_what_the_comparison_needs(name):
    one = problem(name, 0)
    assert len(one.held[0]) == len(one.x) // 5
    assert not torch.equal(one.x[:4], one.held[0][:4])
    models = {kind: one.build(kind) for kind in ("soft", "hard", "none")}
    assert models["hard"](one.x[:3]).shape == one.y[:3].shape
    first, second = one.build("soft").state_dict(), one.build("soft").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert one.error(models["hard"]) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_molecules_are_trained_on_energies_and_forces(monkeypatch):
    for needed in ("e3nn", "ase", "tblite"):
        pytest.importorskip(needed)
    from softeq.experiments.molecules import field

    monkeypatch.setattr(field, "SIZES", {"short": field.SIZES["smoke"]})  # a few frames of short walks
    given = dataclasses.replace(problem("molecules/n200/0.02", 0), steps=2, batch=2)
    for arm in ("hard", "soft@10", "variational", "validation"):
        found = strength.train(given, arm, 0)
        assert 0 < found["error"] < math.inf
        assert 0 < found["held_loss"] < math.inf


def test_breaking_is_what_the_name_says():
    whole, broken = problem("z6/n100/e0", 1), problem("z6/n100/e1", 1)
    assert torch.equal(whole.x, broken.x)
    assert not torch.equal(whole.y, broken.y)


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_the_command_and_the_cost(tmp_path, tiny_family, capsys):
    from benchmarks.__main__ import main

    out = tmp_path / "strength.jsonl"
    assert main(["strength", "--family", "z6", "--seeds", "1", "--out", str(out)]) == 0
    assert "| tiny | " in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == len({json.loads(line)["arm"] for line in out.read_text().splitlines()})
    report = prior_step.run(quick=True, channels=8, rows=8, blocks=1, block_seconds=0.0)
    assert {row.arm for row in report.rows} == set(prior_step.ARMS)
    assert all(row.ratio.median > 0 for row in report.rows if row.ratio)


def test_the_page_has_the_tables_of_the_records():
    page = Path(strength.__file__).parents[1] / strength.PAGE
    text = page.read_text()
    renewed = with_tables(text, strength.read(strength.RECORDS))
    assert renewed == text, f"run: python -m benchmarks strength --limit 0 --docs {strength.PAGE}"
    with pytest.raises(ValueError, match="markers"):
        with_tables("no tables", [])
