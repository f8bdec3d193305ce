import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record, registry
from softeq.experiments.training import tune
from softeq.experiments.training.comparison import Comparison, Domain, Lists, Size


def errors(arm, f, axes):
    """By label, the errors of three seeds."""
    found = {}
    for trial in tune.crossed(**axes):
        values = {"lr": trial["lr"], **(trial["prior"] or {})}
        found[tune.label(arm, trial)] = [f(**values) + shift for shift in (0.0, 0.01, -0.01)]
    return found


AXES = {"lr": (1.0, 10.0), "residual": (1.0, 10.0, 100.0)}


def test_labels_come_back():
    trial = {"lr": 1e-3, "prior": {"residual": 2.0, "equivariant": 1e-7}}
    assert tune.parsed(tune.label("soft-grid", trial)) == ("soft-grid", trial)
    assert tune.parsed(tune.label("none", {"lr": 0.1, "prior": None})) == ("none", {"lr": 0.1, "prior": None})
    with pytest.raises(SofteqValueError, match="trial: expected a label"):
        tune.parsed("hard")


def test_the_least_mean_error_wins_and_divergence_never():
    found = errors("soft-grid", lambda lr, residual: abs(residual - 10) + lr, AXES)
    assert tune.winner("soft-grid", AXES, found) == {"lr": 1.0, "prior": {"residual": 10.0}}
    found[tune.label("soft-grid", {"lr": 1.0, "prior": {"residual": 10.0}})][2] = math.nan
    assert tune.winner("soft-grid", AXES, found) == {"lr": 1.0, "prior": {"residual": 1.0}}
    with pytest.raises(SofteqError, match="all trials diverged"):
        tune.winner("soft-grid", AXES, {name: [math.nan] * 3 for name in found})


def test_a_list_grows_where_the_error_still_falls_and_only_there():
    found = errors("soft-grid", lambda lr, residual: abs(math.log10(residual) - 1) + 10 / lr, AXES)
    assert tune.extended("soft-grid", AXES, found) == {"lr": (1.0, 10.0, 100.0), "residual": AXES["residual"]}
    found = errors("soft-grid", lambda lr, residual: math.log10(residual) + lr, AXES)
    grown = tune.extended("soft-grid", AXES, found)
    assert grown["residual"] == (0.1, 1.0, 10.0, 100.0)
    assert grown["lr"] == (0.1, 1.0, 10.0)


def test_a_flat_edge_is_left_and_said_to_be_one():
    noisy = {}
    for k, (name, values) in enumerate(errors("soft-grid", lambda lr, residual: 1.0 + lr, AXES).items()):
        noisy[name] = [v + 0.1 * ((7 * k + 3 * s) % 5) for s, v in enumerate(values)]
    best = tune.winner("soft-grid", AXES, noisy)["prior"]["residual"]
    if best in (1.0, 100.0):
        assert "flat towards the edge of residual" in tune.ending("soft-grid", AXES, noisy)
    interior = errors("soft-grid", lambda lr, residual: abs(residual - 10) + lr, {**AXES, "lr": (0.1, 1.0, 10.0)})
    axes = {**AXES, "lr": (0.1, 1.0, 10.0)}
    assert "lr" in tune.ending("soft-grid", axes, interior)
    flat = {name: [1.0, 1.0, 1.0] for name in noisy}
    assert tune.extended("soft-grid", AXES, flat) == AXES
    assert "flat" in tune.ending("soft-grid", AXES, flat)


def test_the_better_third_at_the_first_seed_is_run_at_all():
    found = errors("soft-grid", lambda lr, residual: residual + lr, {**AXES, "lr": (1.0, 2.0, 3.0, 4.0)})
    axes = {**AXES, "lr": (1.0, 2.0, 3.0, 4.0)}
    names = tune.finalists("soft-grid", axes, {name: values[:1] for name, values in found.items()})
    assert [tune.parsed(name)[1] for name in names] == [
        {"lr": lr, "prior": {"residual": 1.0}} for lr in axes["lr"]
    ]  # 4 of 12
    few = {"lr": (1.0, 2.0, 3.0, 4.0)}
    some = errors("none", lambda lr: lr, few)
    first = tune.label("none", {"lr": 1.0, "prior": None})
    assert len(tune.finalists("none", few, some)) == 3
    some[first][0] = math.nan
    assert first not in tune.finalists("none", few, some)


def test_no_finalist_never_wins_and_is_no_flat_neighbour():
    axes = {"lr": (1.0, 2.0, 3.0, 4.0)}
    found = errors("none", lambda lr: 10 + 0 * lr, axes)
    names = list(found)
    found[names[3]] = found[names[3]][:1]
    found[names[3]][0] = 0.0
    assert tune.winner("none", axes, found)["lr"] != 4.0
    found = {name: [10.0, 10.0, 10.0] for name in names}
    assert tune.extended("none", axes, found) == axes
    found[names[1]] = [10.0]
    assert tune.extended("none", axes, found)["lr"][0] == 0.5


def test_where_every_trial_was_run_at_every_seed_the_better_third_has_the_same_winner():
    """Five arms were tuned so: what the shorter rule would have chosen from their records."""
    records = record.read(Path(__file__).parents[3] / "results" / "tuning-modified-inertia.jsonl")
    errors = tune.errors_of(records, "default")
    chosen = json.loads(tune.CHOSEN.read_text())["modified-inertia"]["default"]
    complete = 0
    for arm, choice in chosen.items():
        axes = {key: tuple(values) for key, values in choice["lists"].items()}
        names = [tune.label(arm, trial) for trial in tune.crossed(**axes)]
        if all(len(errors[label]) == tune.SEEDS for label in names):
            last = tune.finalists(arm, axes, errors)
            short = {label: errors[label] if label in last else errors[label][:1] for label in names}
            assert tune.winner(arm, axes, short) == {"lr": choice["lr"], "prior": choice["prior"]}
            complete += 1
    assert complete >= 5


def test_a_single_value_is_no_edge():
    axes = {"lr": (1.0, 2.0, 3.0), "equivariant": (5.0,)}
    found = errors("hard", lambda lr, equivariant: abs(lr - 2), axes)
    assert tune.extended("hard", axes, found) == axes
    assert tune.ending("hard", axes, found) == "interior"


@pytest.fixture
def comparison(line):
    def build(config, task):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            return torch.nn.Linear(3, 1).double()

    return Comparison(
        name="line",
        summary="",
        arms=("none", "none-augmented"),
        domain=Domain(lambda config, point: line(seed=config["seed"]), build, lambda size, variant: {}),
        sizes={"smoke": Size(1, {}, {}, {"steps": 6, "batch_size": 40, "validate_every": 3})},
        lists=Lists((1e-3, 1e-2)),
        columns=(),
    )


def test_tuning_runs_every_trial_on_its_own_seeds_and_writes_what_won(comparison, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "comparison", lambda name: comparison)
    monkeypatch.setattr(tune, "ROUNDS", 3)
    path = tmp_path / "chosen.json"
    found = tune.tune("line", "smoke", out=tmp_path, chosen=path, arms=["none"])
    records = record.read(tmp_path / "tuning-line.jsonl")
    assert {r["config"]["seed"] for r in records} == {1000, 1001, 1002}
    assert not any("test_mse" in r["metrics"] for r in records)
    # The larger the rate the better so far: the list has grown until the rounds were over or it was no edge.
    assert found["none"]["lists"]["lr"][:2] == [1e-3, 1e-2]
    assert len(found["none"]["lists"]["lr"]) == 4
    assert json.loads(path.read_text())["line"]["smoke"]["none"] == found["none"]
    held = len(records)
    tune.tune("line", "smoke", out=tmp_path, chosen=path, arms=["none"])
    assert len(record.read(tmp_path / "tuning-line.jsonl")) == held, "resumed"
    with pytest.raises(SofteqValueError, match="unknown preset 'big'"):
        tune.tune("line", "big", out=tmp_path, chosen=path)
    with pytest.raises(SofteqValueError, match="unknown arm that chooses 'hard'"):
        tune.tune("line", "smoke", out=tmp_path, chosen=path, arms=["hard"])


def test_an_arm_with_the_settings_of_another_is_tuned_only_when_it_is_named(comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(
        registry, "comparison", lambda name: dataclasses.replace(comparison, arms=("none", "none-matched"))
    )
    monkeypatch.setattr(tune, "ROUNDS", 1)
    path = tmp_path / "chosen.json"
    assert list(tune.tune("line", "smoke", out=tmp_path, chosen=path)) == ["none"]
    assert list(tune.tune("line", "smoke", out=tmp_path, chosen=path, arms=["none-matched"])) == ["none-matched"]


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert tune.main(["no-such", "--out", str(tmp_path)]) == 2
    assert "unknown comparison 'no-such'" in capsys.readouterr().err


def test_points_count_alike():
    metrics = {"points": {"a": {"validation_error": 1.0}, "b": {"validation_error": 3.0}}}
    records = [{"preset": "smoke", "variant": "x", "seed": s, "metrics": metrics} for s in (1, 0)]
    assert tune.errors_of(records, "smoke") == {"x": [2.0, 2.0]}
    assert tune.errors_of(records, "paper") == {}


def test_where_variants_carry_a_number_of_samples_the_middle_one_is_tuned():
    comparison = registry.comparison("md-ethanol")
    (trial, *_) = comparison.lists.trials(tune.parse("hard").arm)
    experiment = tune.tuning_experiment(comparison, "hard", (trial,))
    config = experiment.configure("default", experiment.variants[0], 1)
    assert config["data"]["samples"] == 200
    assert config["seed"] == 1001
    assert config["trials"] == [trial]
    assert config["tuning"]
