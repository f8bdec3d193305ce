"""The first comparison: the published arm, the new arms, and every variant runs."""

import math

import pytest
import torch

from softeq.experiments.engine import record
from softeq.experiments.physics.comparisons import ABLATION, COMPARISONS, EXPERIMENTS, SWEEP
from softeq.models.dynamics import PUBLISHED

from .tiny_configs import tiny


def run(name, variant, seed=0, **changes):
    return COMPARISONS[name].run(tiny(name, variant, seed) | changes, lambda done, total: None)


def test_the_experiments_and_arms_are_those_of_the_protocol():
    assert set(EXPERIMENTS) == {
        "inertia",
        "modified-inertia",
        "misspecified-inertia",
        "spring-pendulum",
        "windy-pendulum",
        "modified-inertia-precision",
        "modified-inertia-ablation",
    }
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
        assert set(experiment.presets) == {"smoke", "default", "paper"}
        assert set(experiment.published) <= set(experiment.variants)
        if not name.endswith(("-precision", "-ablation")):
            wanted = {"hard", "hard-matched", "soft", "soft-grid", "soft-projected", "soft-published", "none"}
            assert {*wanted, "none-matched", "none-augmented"} <= set(experiment.variants)
            assert experiment.presets["paper"] == experiment.presets["default"] == 10
    assert {"hard-true", "hard+cause", "none-augmented-true"} <= set(EXPERIMENTS["modified-inertia"].variants)


@pytest.mark.parametrize(
    ("name", "residual", "equivariant"),
    [
        ("inertia", 1e2, 1e-3),
        ("modified-inertia", 0.1, 1e-5),
        ("misspecified-inertia", 1e-5, 1e-5),
        ("spring-pendulum", 1.0, 1e-4),
        ("windy-pendulum", 0.1, 1e-5),
    ],
)
def test_the_published_arm_is_the_published_setting(name, residual, equivariant):
    config = EXPERIMENTS[name].configure("smoke", "soft-published", 0)
    n = COMPARISONS[name].sizes["paper"].data["sizes"][0]
    assert config["trials"] == [
        {"lr": 3e-3, "prior": {"equivariant": pytest.approx(2 * n * equivariant), "residual": 2 * n * residual}}
    ]
    assert config["rule"] == "published"
    assert config["network"]["published"]


def test_arms_are_what_their_names_say():
    configs = {v: tiny("modified-inertia", v) for v in COMPARISONS["modified-inertia"].variants}
    networks = {v: config["network"] for v, config in configs.items()}
    assert networks["hard"] == networks["soft"] | {"constraint": "hard"}
    assert networks["soft-projected"] == networks["soft"] | {"projected": True}
    assert networks["hard-true"] == networks["hard"] | {"group": "O2eR3"}
    assert networks["hard+cause"] == networks["hard"] | {"cause": [0.0, 0.0, 1.0]}
    assert networks["hard-matched"]["channels"] > networks["hard"]["channels"]
    assert networks["none-augmented"] == networks["none"]
    augmented = {v: config["augment"] for v, config in configs.items() if config["augment"]}
    assert augmented == {"none-augmented": "assumed", "none-augmented-true": "true"}


def test_the_ablation_changes_one_part_of_the_published_set_up_at_a_time():
    configs = {v: tiny("modified-inertia-ablation", v) for v in ABLATION}
    published = configs["soft-published"]
    lacking = {"published+start": "start", "published+scale": "scale", "published+bilinear": "bilinear"}
    for variant, part in lacking.items():
        kept = [name for name in PUBLISHED if name != part]
        network = published["network"] | {"published": kept}
        assert configs[variant] == published | {"arm": variant, "network": network}
    assert configs["published+prior"] == published | {"arm": "published+prior", "rule": "fixed"}


def test_paper_preset_has_the_papers_sizes():
    inertia = EXPERIMENTS["inertia"].configure("paper", "none", 0)
    assert inertia["network"]["channels"] == 384
    assert inertia["data"]["sizes"] == [1000, 1000, 1000]
    assert (inertia["training"]["equal_steps"], inertia["training"]["batch_size"]) == (600, 500)
    pendulum = EXPERIMENTS["windy-pendulum"].configure("paper", "none", 0)
    assert pendulum["network"]["channels"] == 128
    assert (pendulum["training"]["equal_steps"], pendulum["data"]["systems"]) == (1000, 5000)


def test_the_sweep_changes_the_residual_precision_alone():
    experiment = EXPERIMENTS["modified-inertia-precision"]
    base = EXPERIMENTS["modified-inertia"].configure("smoke", "soft-grid", 0)
    for variant, power in zip(SWEEP, range(7), strict=True):
        config = experiment.configure("smoke", variant, 0)
        (trial,), (was,) = config.pop("trials"), base["trials"]
        assert config == {k: v for k, v in base.items() if k != "trials"}
        assert trial == was | {"prior": was["prior"] | {"residual": 10.0**power}}


@pytest.mark.parametrize("name", ["modified-inertia", "misspecified-inertia", "windy-pendulum"])
def test_every_variant_runs_and_reports_every_column(name):
    for variant in EXPERIMENTS[name].variants:
        metrics = run(name, variant)
        record.encode(metrics)
        wanted = {c.key for c in EXPERIMENTS[name].columns} | {"train_mse", "test_mse_transformed", "validation_error"}
        missing = {"weight_defect_mean"} if variant.startswith("none") else set()
        missing |= {"test_mse_equal_steps"}  # at smoke there is no such step, which is no divergence
        assert wanted - set(metrics) == missing
        for key in wanted - missing:
            assert math.isfinite(metrics[key]), (variant, key)
        if variant == "hard":
            assert metrics["equivariance_error"] < 1e-4
            assert metrics["weight_defect_mean"] < 1e-4


def test_a_run_is_repeatable_and_leaves_torchs_generator_alone():
    def comparable(seed):
        metrics = run("inertia", "none-augmented", seed)
        for one in (metrics, metrics["trials"][0]):
            del one["seconds_per_step"]
        del metrics["training_seconds"]
        return record.encode(metrics)

    before = torch.get_rng_state()
    first = comparable(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == comparable(0)
    other = comparable(1)
    assert all(other[key] != first[key] for key in ("test_mse", "validation_error", "equivariance_error"))


def test_the_sweeps_figure_is_drawn_from_its_records(tmp_path):
    pytest.importorskip("matplotlib")
    experiment = EXPERIMENTS["modified-inertia-precision"]
    records = [
        record.make(
            experiment.name,
            "smoke",
            v,
            0,
            config=experiment.configure("smoke", v, 0),
            metrics={"test_mse": 1.0 + i},
            provenance={},
        )
        for i, v in enumerate(experiment.variants)
    ]
    experiment.plot(records, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


# Of a rule without weight noise: noise is drawn in eigenvectors, whose signs are rounding's.
@pytest.mark.parametrize(("variant", "rule"), [("soft", "mackay"), ("none-augmented", "fixed")])
def test_compiled_steps_are_the_eager_ones(variant, rule):
    how = {"rule": rule, "dtype": "float64"}
    fast, slow = (run("modified-inertia", variant, compiled=compiled, **how) for compiled in (True, False))
    assert fast["trials"][0]["train_losses"] == pytest.approx(slow["trials"][0]["train_losses"], rel=1e-9)
    assert fast["test_mse"] == pytest.approx(slow["test_mse"], rel=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "variant", "rule"),
    [
        ("inertia", "soft", "mackay"),
        ("inertia", "soft", "validation"),
        ("inertia", "soft", "remul"),
        ("inertia", "soft-projected", "fixed"),
        ("inertia", "none-augmented", "fixed"),
        ("spring-pendulum", "soft", "fixed"),
    ],
)
def test_a_gpu_gives_what_a_cpu_gives(name, variant, rule):
    there, here = (run(name, variant, device=device, dtype="float64", rule=rule) for device in ("cuda", "cpu"))
    assert there["trials"][0]["train_losses"] == pytest.approx(here["trials"][0]["train_losses"], rel=1e-6)
    for key in ("test_mse", "test_mse_moved", "equivariance_error"):
        assert there[key] == pytest.approx(here[key], rel=1e-5)
    record.encode(there)
