"""The first comparison: complete configurations, fair arms, and every variant runs."""

import json
import math
from dataclasses import replace

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.data.inertia import inertia_data
from softeq.experiments.engine import record
from softeq.experiments.physics import comparisons as physics
from softeq.experiments.physics import problems
from softeq.experiments.physics.comparisons import (
    CHOSEN_FIELDS,
    EXPERIMENTS,
    PROBLEM,
    SWEEP,
    VARIANTS,
    Size,
    configure,
    hyperparameters,
    run,
)

TINY = {
    "inertia": Size(1, (60, 20, 40), 24, 2, 4, 2),
    "pendulum": Size(1, (20, 10, 10), 24, 1, 2, 1, systems=40),
}


def tiny(name, variant, seed=0):
    problem = PROBLEM[name]
    return configure(replace(problem, sizes={"tiny": TINY[problem.kind]}), "tiny", variant, seed)


def ignore(done, total):
    pass


def test_the_experiments_and_variants_are_those_of_the_contract():
    assert set(EXPERIMENTS) == {
        "inertia",
        "modified-inertia",
        "misspecified-inertia",
        "spring-pendulum",
        "windy-pendulum",
        "modified-inertia-precision",
    }
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
        assert set(experiment.presets) == {"smoke", "default", "paper"}
        assert set(experiment.published) <= set(experiment.variants)
        if not name.endswith("-precision"):
            assert experiment.variants == VARIANTS
            assert experiment.presets["paper"] == 10


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_configurations_are_complete_and_survive_json(name):
    experiment = EXPERIMENTS[name]
    for variant in experiment.variants:
        config = experiment.configure("smoke", variant, 3)
        encoded = record.encode(config)
        assert json.loads(json.dumps(encoded)) == encoded
        assert config["seed"] == 3
        assert {"problem", "network", "fit", "device", "dtype"} <= set(config)
        assert set(CHOSEN_FIELDS) <= set(config["fit"])


@pytest.mark.parametrize("name", PROBLEM)
@pytest.mark.parametrize("variant", ["hard", "soft", "none", "none-matched", "none-augmented"])
def test_every_tuned_arm_has_its_choice_and_where_it_comes_from(name, variant):
    assert set(hyperparameters(PROBLEM[name], variant)) == set(CHOSEN_FIELDS)
    assert physics.read_chosen(physics.CHOSEN)[name][variant]["source"]


def test_arms_differ_only_in_what_they_say():
    configs = {v: tiny("modified-inertia", v) for v in VARIANTS}
    assert configs["hard"]["network"]["constraint"] == "hard"
    assert configs["soft"]["network"] == configs["hard"]["network"] | {"constraint": "soft"}
    assert configs["soft-published"]["network"] == configs["soft"]["network"] | {"published": True}
    assert configs["none-augmented"]["network"] == configs["none"]["network"]
    assert [v for v in VARIANTS if configs[v]["fit"]["augment"]] == ["none-augmented"]
    for config in configs.values():
        assert config["problem"] == configs["soft"]["problem"]
        for shared in ("epochs", "batch_size", "validate_every"):
            assert config["fit"][shared] == configs["soft"]["fit"][shared]


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
    config = EXPERIMENTS[name].configure("paper", "soft-published", 0)
    expected = {"lr": 3e-3, "schedule": "constant", "shrinkage": "penalty"}
    expected |= {"residual_decay": residual, "equivariant_decay": equivariant, "augment": False}
    assert config["fit"].items() >= expected.items()
    n_train = config["problem"]["sizes"][0]
    assert config["residual_precision"] == pytest.approx(2 * n_train * residual)
    assert config["equivariant_precision"] == pytest.approx(2 * n_train * equivariant)


def test_paper_preset_has_the_papers_sizes():
    inertia = EXPERIMENTS["inertia"].configure("paper", "none", 0)
    assert inertia["network"] == {"kind": "mlp", "channels": 384, "layers": 3}
    assert inertia["problem"]["sizes"] == [1000, 1000, 1000]
    assert (inertia["fit"]["epochs"], inertia["fit"]["batch_size"]) == (300, 500)
    assert EXPERIMENTS["modified-inertia"].configure("paper", "none", 0)["fit"]["epochs"] == 500
    pendulum = EXPERIMENTS["windy-pendulum"].configure("paper", "none", 0)
    assert pendulum["network"] == {"kind": "mlp", "channels": 128, "layers": 3}
    assert (pendulum["fit"]["epochs"], pendulum["problem"]["systems"]) == (1000, 5000)


def test_sweep_changes_the_residual_decay_alone():
    experiment = EXPERIMENTS["modified-inertia-precision"]
    soft = PROBLEM["modified-inertia"]
    base = configure(soft, "smoke", "soft", 0)
    for variant, power in zip(SWEEP, range(-3, 4), strict=True):
        config = experiment.configure("smoke", variant, 0)
        assert config["fit"] == base["fit"] | {"residual_decay": 10.0**power}
        assert config["network"] == base["network"]
        assert config["residual_precision"] == pytest.approx(2000 * 10.0**power)


@pytest.mark.parametrize("name", ["inertia", "misspecified-inertia", "spring-pendulum"])
def test_matched_network_has_the_soft_ones_parameters(name):
    counts = {}
    for variant in ("soft", "none-matched"):
        config = tiny(name, variant)
        counts[variant] = sum(p.numel() for p in problems.build_model(config).parameters())
    assert counts["none-matched"] == pytest.approx(counts["soft"], rel=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["modified-inertia", "misspecified-inertia", "windy-pendulum"])
def test_every_variant_runs_and_reports_every_column(name, variant):
    metrics = run(tiny(name, variant), ignore)
    record.encode(metrics)
    wanted = {c.key for c in EXPERIMENTS[name].columns} | {"train_mse", "test_mse_transformed", "validation_mse"}
    missing = {"weight_defect_mean"} if variant.startswith("none") else set()
    assert wanted - set(metrics) == missing
    for key in wanted - missing:
        assert math.isfinite(metrics[key]), key
    if variant == "hard":
        assert metrics["equivariance_error"] < 1e-4
        assert metrics["weight_defect_mean"] < 1e-4


def test_a_run_is_repeatable_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (run(tiny("inertia", "none-augmented"), ignore) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    del first["seconds_per_step"], second["seconds_per_step"]
    assert first == second
    assert run(tiny("inertia", "none-augmented", seed=1), ignore)["test_mse"] != first["test_mse"]


def test_all_variants_of_a_seed_share_their_data():
    tasks = [problems.build_task(tiny("modified-inertia", v, seed=2)) for v in ("hard", "none")]
    assert torch.equal(tasks[0].data.x_test, tasks[1].data.x_test)
    assert torch.equal(tasks[0].data.y_test, inertia_data(2, modified=True, sizes=(60, 20, 40)).y_test)


def test_misspecified_inertia_has_the_data_of_inertia():
    right, wrong = (problems.build_task(tiny(name, "none")) for name in ("inertia", "misspecified-inertia"))
    assert torch.equal(right.data.y_train, wrong.data.y_train)
    assert (right.group.name, wrong.group.name) == ("O(3)", "SL(3)")


@pytest.mark.parametrize("name", ["spring-pendulum", "windy-pendulum"])
def test_the_pendulums_truth_is_its_data(name):
    task = problems.build_task(tiny(name, "none"))
    truth = task.truth(task.data.x_test.double()).float()
    torch.testing.assert_close(truth, task.data.y_test, atol=1e-3, rtol=0)


def test_divergence_is_a_result():
    config = tiny("inertia", "none")
    config["fit"] |= {"lr": 1e30, "epochs": 20}
    metrics = run(config, ignore)
    assert math.isnan(metrics["test_mse"])
    assert metrics["diverged_at_step"] >= 1


def test_nothing_chosen_for_a_variant(tmp_path, monkeypatch):
    path = tmp_path / "chosen.json"
    path.write_text(json.dumps({"inertia": {"soft": {"lr": 0.1}}}))
    monkeypatch.setattr(physics, "CHOSEN", path)
    for variant in ("soft", "hard"):
        with pytest.raises(SofteqValueError, match=rf"inertia, variant {variant}.*experiments.tune inertia"):
            configure(PROBLEM["inertia"], "smoke", variant, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "heat"}, "kind: expected inertia or pendulum, got 'heat'"),
        ({"group": "SU(2)"}, r"group: expected one of O\(3\).*SU\(2\)"),
    ],
)
def test_unknown_problem_or_group(change, message):
    config = tiny("inertia", "none")
    config["problem"] |= change
    with pytest.raises(SofteqValueError, match=message):
        problems.build_task(config)


def test_unknown_network():
    config = tiny("inertia", "none")
    config["network"]["kind"] = "tree"
    with pytest.raises(SofteqValueError, match="expected mlp or emlp, got 'tree'"):
        problems.build_model(config)


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
    assert (tmp_path / "figure.png").stat().st_size > 5000
