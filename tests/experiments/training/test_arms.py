import itertools
import json

import pytest

from softeq import strength
from softeq.errors import SofteqValueError
from softeq.experiments.engine import registry
from softeq.experiments.training import arms, tune
from softeq.experiments.training import comparison as declarations
from softeq.experiments.training.arms import ALIASES, ARMS, arm, parse


def test_every_arm_is_drawn_in_a_way_of_its_own_and_has_a_rule():
    for a, b in itertools.combinations(ARMS.values(), 2):
        assert (a.colour, a.marker) != (b.colour, b.marker), f"{a.name} and {b.name} look alike"
    assert all(a.rule_name in {*strength.RULES, "published"} for a in ARMS.values())
    assert all(a.constraint in ("hard", "soft", "none") for a in ARMS.values())
    assert arm("soft").rule_name == strength.DEFAULT


def test_every_variant_of_every_comparison_is_an_arm():
    for name, comparison in registry.comparisons().items():
        for variant in comparison.variants:
            found = parse(variant)
            assert variant.startswith(found.arm.name), name
            assert (found.samples in comparison.samples) == bool(comparison.samples)


def test_names_are_taken_apart():
    found = parse("none-augmented-200")
    assert (found.arm.name, found.samples, found.precision) == ("none-augmented", 200, None)
    found = parse("soft-grid@1e3")
    assert (found.arm.name, found.samples, found.precision) == ("soft-grid", None, 1000.0)
    assert parse("hard+field-50").arm is ARMS[ALIASES["hard+field"]]


@pytest.mark.parametrize("name", ["sofft", "soft@x", "", "-200", "soft-grid@", "hard-1.5"])
def test_what_is_no_variant(name):
    with pytest.raises(SofteqValueError, match="expected"):
        parse(name)


@pytest.fixture
def everywhere(monkeypatch):
    """``soft-new``, an arm that every comparison with soft layers has."""
    new = arms.Arm("soft-new", "another rule", "soft", arms.GREY, "p", rule="mackay", everywhere=True)
    monkeypatch.setattr(arms, "ARMS", {**ARMS, "soft-new": new})
    monkeypatch.setattr(declarations, "ARMS", arms.ARMS)


def test_the_arm_of_a_new_rule_is_one_line_and_stands_in_every_comparison_with_soft_layers(everywhere):
    for name, one in registry.comparisons().items():
        variants = [v for v in one.variants if v.startswith("soft-new")]
        assert len(variants) == ("soft" in one.arms) * max(1, len(one.samples)), name
        for variant in variants:
            assert one.configure("smoke", variant, 0)["rule"] == "mackay", name


@pytest.mark.parametrize("asked", [None, ["soft-new"]])
def test_the_arm_of_a_new_rule_is_tuned_as_the_others_are(everywhere, monkeypatch, tmp_path, asked):
    tuned = []

    def tune_arm(comparison, preset, arm, out, **how):
        tuned.append(arm)
        trial = comparison.lists.trials(parse(arm).arm)[0]
        config = tune.tuning_experiment(comparison, arm, (trial,)).configure(preset, tune.label(arm, trial), 0)
        return {"rule": config["rule"]}

    monkeypatch.setattr(tune, "tune_arm", tune_arm)
    found = tune.tune("inertia", "smoke", out=tmp_path, chosen=tmp_path / "chosen.json", arms=asked)
    assert found["soft-new"] == {"rule": "mackay"}
    assert tuned == asked or {"hard", "soft"} < set(tuned)
    assert "soft-new" in json.loads((tmp_path / "chosen.json").read_text())["inertia"]["smoke"]
