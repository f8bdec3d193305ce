"""Every comparison that there is: complete and fair configurations; and what a comparison does with its parts."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.engine import record, registry
from softeq.experiments.engine.work import check_configs
from softeq.experiments.training import chosen as chosen_file
from softeq.experiments.training import comparison as module
from softeq.experiments.training.arms import arm, parse
from softeq.experiments.training.comparison import Comparison, Domain, Lists, Size, flattened
from softeq.experiments.training.loop import LoopSettings
from softeq.experiments.training.tune import tuning_experiment

COMPARISONS = registry.comparisons()
HELD = ("fashion-mnist", "inertia", "misspecified-inertia", "modified-inertia", "modified-inertia-ablation", "qm9")
"""With records under the protocol, and configurations that do not depend on which data are installed."""
LISTS = Lists((1.0, 2.0), residual=(3.0, 4.0), equivariant=(5.0, 6.0, 7.0), plain=(8.0,), start={"lr": 2.0})


def configured(name, preset, variant):
    try:
        return COMPARISONS[name].configure(preset, variant, 3)
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", COMPARISONS)
def test_configurations_are_complete_and_survive_json(name):
    comparison = COMPARISONS[name]
    for preset in comparison.sizes:
        for variant in (*comparison.variants[:2], *comparison.variants[-2:]):
            config = configured(name, preset, variant)
            encoded = record.encode(config)
            assert json.loads(json.dumps(encoded)) == encoded
            assert encoded == record.encode(configured(name, preset, variant)), "the same each time"
            LoopSettings(**config["training"], lr=1.0)
            assert config["seed"] == 3
            single = len(config["trials"]) == 1
            holds = single and comparison.sizes[preset].costs and config["training"].get("schedule") == "plateau"
            assert config["protocol"] == (module.PROTOCOL if holds else 0)
            config["training"]["steps"] = config["trials"][0]["lr"] = None  # a run may do what it likes to its own
            assert record.encode(configured(name, preset, variant)) == encoded


@pytest.mark.parametrize("name", COMPARISONS)
def test_arms_differ_in_what_they_say_alone(name):
    comparison = COMPARISONS[name]
    own = {"protocol", "arm", "rule", "augment", "trials", "network", "points", "data"}
    for preset in comparison.sizes:
        configs = [configured(name, preset, variant) for variant in comparison.variants]
        shared = [{k: v for k, v in config.items() if k not in own} for config in configs]
        for config in shared:
            if comparison.sizes[preset].costs:  # the same compute instead of the same number of steps
                by_cost = ("steps", "validate_every")
                config["training"] = {k: v for k, v in config["training"].items() if k not in by_cost}
            assert config == shared[0]
        for config, variant in zip(configs, comparison.variants, strict=True):
            assert config["rule"] == parse(variant).arm.rule_name


@pytest.mark.parametrize("name", COMPARISONS)
def test_arms_that_choose_have_as_many_trials(name):
    comparison = COMPARISONS[name]
    counts = {
        variant: len(comparison.lists.trials(parse(variant).arm))
        for variant in comparison.variants
        if parse(variant).arm.rule_name == "fixed" and parse(variant).arm.name not in comparison.fixed
    }
    if name == "soften":  # plain and frozen have no prior: learning rates alone
        counts = {v: n for v, n in counts.items() if parse(v).arm.constraint == "soft"}
    assert len(set(counts.values())) == 1, counts


@pytest.mark.parametrize("name", COMPARISONS)
def test_no_run_of_a_large_preset_has_a_fixed_length(name):
    for preset, size in COMPARISONS[name].sizes.items():
        assert size.training.get("schedule") == ("plateau" if preset != "smoke" else None)
        assert (size.training.get("equal_steps") is None) == (preset == "smoke")


@pytest.mark.parametrize("name", [name for name, one in COMPARISONS.items() if one.sizes["default"].costs])
def test_every_arm_has_the_same_compute_and_no_less_than_three_quarters_of_the_patience(name):
    size = COMPARISONS[name].sizes["default"]
    dearest, cap = max(size.costs.values()), size.training["steps"]
    for variant in COMPARISONS[name].variants:
        training = configured(name, "default", variant)["training"]
        cost = size.costs.get(parse(variant).arm.name, dearest)
        assert cap - cost < training["steps"] * cost <= cap + 1e-9
        looks = training["validate_every"] * cost / (size.training["validate_every"] * dearest)
        low, high = (0.75, 1.5) if size.whole_looks else (0.99, 1.01)
        assert low <= looks <= high, f"{variant}: patience is in compute too"


def test_lists_concern_the_pathways_that_an_arm_has():
    assert LISTS.axes(arm("hard")) == {"lr": (1.0, 2.0), "equivariant": (5.0, 6.0, 7.0)}
    assert LISTS.axes(arm("soft-grid")) == {"lr": (1.0, 2.0), "equivariant": (6.0,), "residual": (3.0, 4.0)}
    assert LISTS.axes(arm("none")) == {"lr": (1.0, 2.0), "residual": (8.0,)}
    learned = dataclasses.replace(arm("soft"), rule="variational")
    assert LISTS.axes(learned) == {"lr": (1.0, 2.0)}
    assert LISTS.first(arm("soft-grid")) == {"lr": 2.0, "prior": {"equivariant": 6.0, "residual": 4.0}}
    assert len(LISTS.trials(arm("hard"))) == 6


def toy(line, **changes):
    """A comparison on the toy task at two points, or at one without a name."""

    def build(config, task):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            return torch.nn.Linear(3, 1).double()

    training = {"steps": 4, "batch_size": 20, "validate_every": 2}
    how = {
        "name": "toy",
        "summary": "",
        "arms": ("none", "none-augmented"),
        "domain": Domain(lambda config, point: line(seed=len(point["name"])), build, lambda size, variant: {}),
        "sizes": {"smoke": Size(2, {}, {}, training)},
        "lists": Lists((1e-3, 1e-2), plain=(0.1, 10.0)),
        "columns": (),
    }
    return Comparison(**{**how, **changes})


def test_a_run_trains_every_trial_and_tells_of_the_whole(line):
    comparison, told = toy(line), []
    metrics = comparison.run(comparison.configure("smoke", "none", 0), lambda done, total: told.append((done, total)))
    assert len(metrics["trials"]) == 4
    assert metrics["test_mse"] > 100
    assert told[-1] == (16, 16)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_run_over_points_has_every_number_at_each(line):
    domain = dataclasses.replace(toy(line).domain, points=lambda size, variant: [{"name": "a"}, {"name": "bb"}])
    comparison = toy(line, domain=domain)
    metrics = comparison.run(comparison.configure("smoke", "none", 0), lambda done, total: None)
    assert list(metrics["points"]) == ["a", "bb"]
    assert metrics["test_mse@a"] == metrics["points"]["a"]["test_mse"] != metrics["test_mse@bb"]
    assert metrics["parameters"] == 4
    assert flattened({"x": {"parameters": 1, "ok": True, "f": math.inf}})["f@x"] == math.inf


def test_what_tuning_chose_is_the_only_trial(line, monkeypatch, tmp_path):
    path = tmp_path / "chosen.json"
    monkeypatch.setattr(chosen_file, "CHOSEN", path)
    comparison = toy(line)
    assert len(comparison.configure("smoke", "none", 0)["trials"]) == 4
    chosen_file.write_chosen(path, "toy", "smoke", {"none": {"lr": 0.5, "prior": {"residual": 7.0}, "ending": "x"}})
    assert comparison.configure("smoke", "none", 0)["trials"] == [{"lr": 0.5, "prior": {"residual": 7.0}}]
    assert len(comparison.configure("smoke", "none-augmented", 0)["trials"]) == 4
    wide = toy(line, sizes={"paper": dataclasses.replace(comparison.sizes["smoke"], tuned_at="smoke")})
    assert wide.configure("paper", "none", 0)["trials"] == [{"lr": 0.5, "prior": {"residual": 7.0}}]
    assert len(wide.configure("paper", "none-augmented", 0)["trials"]) == 4
    beside = toy(line, name="toy-ablation", tuned_as="toy")
    assert beside.configure("smoke", "none", 0)["trials"] == [{"lr": 0.5, "prior": {"residual": 7.0}}]
    one = toy(line, sizes={"smoke": dataclasses.replace(comparison.sizes["smoke"], trials="one")})
    assert one.configure("smoke", "none-augmented", 0)["trials"] == [{"lr": 1e-2, "prior": {"residual": 10.0}}]


def test_a_configuration_names_the_protocol_where_it_holds_and_nowhere_else(line, monkeypatch, tmp_path):
    path = tmp_path / "chosen.json"
    monkeypatch.setattr(chosen_file, "CHOSEN", path)
    short = {"steps": 4, "batch_size": 20, "validate_every": 2}
    plateau = Size(2, {}, {}, {**short, "schedule": "plateau"}, costs={"none": 1.0})
    sizes = {
        "default": plateau,
        "of one trial": dataclasses.replace(plateau, trials="one"),
        "of equal steps": dataclasses.replace(plateau, costs={}),
        "of fixed length": dataclasses.replace(plateau, training=short),
    }
    fixed = {"soft-published": lambda size: {"lr": 1.0, "prior": None}}
    comparison = toy(line, arms=("none", "none-augmented", "soft-published"), sizes=sizes, fixed=fixed)
    trial = {"lr": 0.5, "prior": None}
    assert [comparison.configure(name, "none", 0)["protocol"] for name in sizes] == [0, 0, 0, 0], "not tuned"
    for name in sizes:
        chosen_file.write_chosen(path, "toy", name, {"none": trial})
    expected = [module.PROTOCOL, module.PROTOCOL, 0, 0]
    assert [comparison.configure(name, "none", 0)["protocol"] for name in sizes] == expected
    assert [comparison.configure(name, "soft-published", 0)["protocol"] for name in sizes] == expected
    assert comparison.configure("default", "none-augmented", 0)["protocol"] == 0
    assert comparison.configure("default", "none-augmented", 1000, trials=(trial,))["protocol"] == module.PROTOCOL


@pytest.mark.parametrize("name", HELD)
def test_what_is_recorded_under_the_protocol_can_be_gone_on_with(name):
    path = Path(__file__).parents[3] / "results" / f"{name}.jsonl"
    held = [r for r in record.read(path) if r["config"].get("protocol") == module.PROTOCOL]
    assert held
    for r in {(r["preset"], r["variant"]): r for r in held}.values():
        pair = {(r["variant"], r["seed"]): r["config"]}
        check_configs(registry.get(name), r["preset"], {r["variant"]}, pair)


def test_a_key_that_configurations_gained_parts_no_records_from_todays(line):
    old, trial = toy(line), {"lr": 1e-3, "prior": None}
    new = toy(line, options=lambda size, variant: {"clipped": False}, grown={"clipped": False})
    before, now = ([one.experiment(), tuning_experiment(one, "none", (trial,))] for one in (old, new))
    for was, experiment in zip(before, now, strict=True):
        variant = experiment.variants[0]
        held = {(variant, 0): was.configure("smoke", variant, 0)}
        check_configs(experiment, "smoke", {variant}, held)
        with pytest.raises(SofteqValueError, match="clipped: 'absent' there"):
            check_configs(dataclasses.replace(experiment, grown={}), "smoke", {variant}, held)


def test_an_arm_has_the_settings_of_the_one_that_it_follows_until_it_is_tuned_itself(line, monkeypatch, tmp_path):
    path = tmp_path / "chosen.json"
    monkeypatch.setattr(chosen_file, "CHOSEN", path)
    comparison = toy(line, arms=("none", "none-matched", "none-augmented"))
    follows, own = {"lr": 0.5, "prior": {"residual": 7.0}}, {"lr": 0.25, "prior": None}
    assert len(comparison.configure("smoke", "none-matched", 0)["trials"]) == 4
    chosen_file.write_chosen(path, "toy", "smoke", {"none": follows})
    assert comparison.configure("smoke", "none-matched", 0)["trials"] == [follows]
    assert len(comparison.configure("smoke", "none-augmented", 0)["trials"]) == 4
    chosen_file.write_chosen(path, "toy", "smoke", {"none-matched": own})
    assert comparison.configure("smoke", "none-matched", 0)["trials"] == [own]


def test_a_precision_in_the_name_takes_the_place_of_the_chosen_one():
    trials = COMPARISONS["modified-inertia-precision"].configure("default", "soft-grid@1e3", 0)["trials"]
    assert [trial["prior"]["residual"] for trial in trials] == [1000.0]


def test_unknown_variants_are_refused(line):
    with pytest.raises(SofteqValueError, match="variant: expected one of none, none-augmented, got 'hard'"):
        toy(line).configure("smoke", "hard", 0)
    with pytest.raises(SofteqValueError, match="arm: expected one of"):
        toy(line).configure("smoke", "sofft", 0)


def test_a_declaration_that_cannot_be_trained_is_refused(line):
    wrong = toy(line, sizes={"smoke": Size(1, {}, {}, {"steps": 0, "batch_size": 1})})
    with pytest.raises(SofteqValueError, match="steps"):
        wrong.configure("smoke", "none", 0)
