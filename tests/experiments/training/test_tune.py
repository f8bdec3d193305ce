"""Tuning: equal budgets, the lowest validation error wins, records resume."""

import json
from dataclasses import replace

import pytest

from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.physics.comparisons import CHOSEN_FIELDS, PROBLEM, Size
from softeq.experiments.training import tune
from softeq.experiments.training.fit import FitSettings

INERTIA = PROBLEM["inertia"]


def records(errors, preset="paper"):
    return [
        record.make("tuning-inertia", preset, label, 0, config={}, metrics={"validation_mse": e}, provenance={})
        for label, e in errors.items()
    ]


def errors_of(variant, values, shrinkage="penalty"):
    return dict(zip(tune.labels(INERTIA, variant, shrinkage), values, strict=True))


@pytest.mark.parametrize("name", PROBLEM)
@pytest.mark.parametrize("variant", tune.ARMS)
def test_every_variant_has_the_same_number_of_different_trials(name, variant):
    trials = tune.grid(PROBLEM[name], variant)
    expected = 10 if name.endswith("pendulum") else 6
    assert len(trials) == expected
    assert len({json.dumps(t, sort_keys=True) for t in trials}) == expected
    for trial in trials:
        assert set(trial) == set(CHOSEN_FIELDS)
        FitSettings(**trial)


def test_trials_use_seeds_of_their_own():
    config = tune.EXPERIMENTS["tuning-inertia"].configure("paper", "soft-penalty#0", 0)
    assert config["seed"] == 1000
    assert config["fit"]["residual_decay"] == tune.grid(INERTIA, "soft")[0]["residual_decay"]


def test_shrinkage_is_of_the_soft_network_alone():
    assert {t["shrinkage"] for t in tune.grid(INERTIA, "soft", "proximal")} == {"proximal"}
    assert {t["shrinkage"] for t in tune.grid(INERTIA, "hard", "proximal")} == {"penalty"}


def test_the_lowest_finite_validation_error_wins():
    errors = errors_of("hard", [5.0, 4.0, float("nan"), 0.5, float("inf"), 2.0])
    chosen = tune.choose(INERTIA, "paper", records(errors), "penalty")
    assert list(chosen) == ["hard"]
    trial = tune.labels(INERTIA, "hard")["hard#3"]
    assert {k: chosen["hard"][k] for k in CHOSEN_FIELDS} == trial
    assert chosen["hard"]["source"] == "hard#3: validation MSE 0.5, best of 6, preset paper, seed 1000"


def test_an_unfinished_variant_is_not_chosen():
    errors = errors_of("hard", range(1, 7))
    del errors["hard#4"]
    assert tune.choose(INERTIA, "paper", records(errors), "penalty") == {}


def test_other_presets_and_the_other_shrinkage_do_not_count():
    better = errors_of("soft", [0.1] * 6, "proximal")
    penalty = errors_of("soft", [3, 2, 1, 4, 5, 6])
    held = records(better | penalty) + records(errors_of("soft", [0.01] * 6), preset="smoke")
    chosen = tune.choose(INERTIA, "paper", held, "penalty")
    assert chosen["soft"]["shrinkage"] == "penalty"
    assert chosen["soft"]["source"].startswith("soft-penalty#2: validation MSE 1")


def test_all_diverged():
    with pytest.raises(SofteqError, match="inertia, none: all 6 trials diverged"):
        tune.choose(INERTIA, "paper", records(errors_of("none", [float("nan")] * 6)), "penalty")


def test_writing_keeps_the_other_entries(tmp_path):
    path = tmp_path / "chosen.json"
    path.write_text(json.dumps({"inertia": {"hard": {"lr": 1}, "soft": {"lr": 2}}, "windy-pendulum": {"none": {}}}))
    tune.write_chosen(path, INERTIA, {"soft": {"lr": 3}})
    expected = {"inertia": {"hard": {"lr": 1}, "soft": {"lr": 3}}, "windy-pendulum": {"none": {}}}
    assert json.loads(path.read_text()) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["chosen.json"]


def test_a_tuning_runs_resumes_and_writes_its_choice(tmp_path, monkeypatch, capsys):
    small = replace(INERTIA, sizes={"smoke": Size(1, (30, 30, 30), 4, 1, 3, 1)})
    monkeypatch.setitem(tune.PROBLEM, "inertia", small)
    monkeypatch.setitem(tune.EXPERIMENTS, "tuning-inertia", tune.tuning_experiment(small))
    arguments = ["inertia", "--preset", "smoke", "--variants", "none", "--out", str(tmp_path)]
    arguments += ["--chosen", str(tmp_path / "chosen.json")]
    assert tune.main(arguments) == 0
    held = record.read(tmp_path / "tuning-inertia.jsonl")
    assert sorted(r["variant"] for r in held) == [f"none#{i}" for i in range(6)]
    best = min(held, key=lambda r: r["metrics"]["validation_mse"])
    chosen = json.loads((tmp_path / "chosen.json").read_text())["inertia"]["none"]
    assert chosen.items() >= {k: best["config"]["fit"][k] for k in CHOSEN_FIELDS}.items()
    capsys.readouterr()
    assert tune.main(arguments) == 0
    assert "in 0 s" not in capsys.readouterr().out
    assert len(record.read(tmp_path / "tuning-inertia.jsonl")) == 6


def test_a_users_mistake_is_one_line_and_exit_code_two(tmp_path, capsys):
    target = tmp_path / "file"
    target.write_text("")
    assert tune.main(["inertia", "--preset", "smoke", "--out", str(target)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: cannot write to the output folder")
