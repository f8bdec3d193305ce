"""The benchmark of rules: resumable, its oracle, its table, and what a step costs."""

import json

import pytest
import torch

from benchmarks import prior_step, strength
from benchmarks.strength_problems import Problem, names, problem
from softeq import SoftLinear, Vector
from softeq.groups import Z


def tiny():
    rep = Vector(Z(4))
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    return Problem(
        build=lambda constraint: SoftLinear(rep, rep, constraint=constraint),
        x=x, y=x.roll(1, 1), held=(x[:4], x[:4].roll(1, 1)), loss=torch.nn.functional.mse_loss,
        error=lambda model: float(torch.nn.functional.mse_loss(model(x), x.roll(1, 1)).detach()), likelihood="gaussian",
        steps=12, batch=8, lr=1e-2, grid=(1.0, 10.0), decays=(0.1,),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(strength, "problem", lambda name, seed: tiny())
    monkeypatch.setattr(strength, "names", lambda family: ["tiny"])
    out, said = tmp_path / "new" / "strength.jsonl", []
    assert strength.run_all(out, families=["z6"], seeds=1, limit=3, say=said.append) == 3
    with out.open("a") as file:
        file.write('{"problem": "tiny", "se')  # a line that was being written
    wanted = len(strength.arms(tiny()))
    assert strength.run_all(out, families=["z6"], seeds=1, say=said.append) == wanted - 3
    assert strength.run_all(out, families=["z6"], seeds=1, say=said.append) == 0
    records = strength.read(out)
    assert [r["arm"] for r in records] == strength.arms(tiny())
    assert all(r["error"] >= 0 for r in records)
    assert next(r for r in records if r["arm"] == "mackay")["precisions"]
    held = {"problem": "tiny", "seed": 0, "arm": "validation:held=1"}
    assert strength.train(tiny(), held["arm"], 0)["error"] >= 0


def test_the_oracle_is_the_best_by_test_error_and_ratios_are_to_it():
    def line(arm, seed, error):
        return {"problem": "p", "seed": seed, "arm": arm, "error": error}

    errors = {
        "hard": (3.0, 3.0),
        "none@1": (2.0, 4.0),
        "soft@1": (1.0, 2.0),
        "soft@10": (4.0, 4.0),
        "mackay": (0.5, 3.0),
    }
    records = [line(arm, seed, error) for arm, both in errors.items() for seed, error in enumerate(both)]
    found = strength.ratios_to_oracle(records)
    assert found["p", "soft@1"] == [1, 1]
    assert found["p", "mackay"] == [0.5, 1.5]
    assert "| p | 2 | soft@1: 1.5 | 2.25 |  | 1.00 |  |" in strength.markdown(records)
    assert strength.ratios_to_oracle([r for r in records if r["arm"] != "hard"]) == {}


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


def test_breaking_is_what_the_name_says():
    whole, broken = problem("z6/n100/e0", 1), problem("z6/n100/e1", 1)
    assert torch.equal(whole.x, broken.x)
    assert not torch.equal(whole.y, broken.y)


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_the_command_and_the_cost(tmp_path, monkeypatch, capsys):
    from benchmarks.__main__ import main

    monkeypatch.setattr(strength, "problem", lambda name, seed: tiny())
    monkeypatch.setattr(strength, "names", lambda family: ["tiny"])
    out = tmp_path / "strength.jsonl"
    assert main(["strength", "--family", "z6", "--seeds", "1", "--out", str(out)]) == 0
    assert "| tiny | 1 | " in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == len({json.loads(line)["arm"] for line in out.read_text().splitlines()})
    report = prior_step.run(quick=True, channels=8, rows=8, blocks=1, block_seconds=0.0)
    assert {row.arm for row in report.rows} == set(prior_step.ARMS)
    assert all(row.ratio.median > 0 for row in report.rows if row.ratio)
