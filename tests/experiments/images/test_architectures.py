"""cnn-vs-vit: complete and fair configurations, runs that repeat themselves, and what a record holds."""

import json
import math

import pytest
import torch

from softeq.errors import MissingExtraError
from softeq.experiments.data.images import DATASETS, LabelledImages
from softeq.experiments.engine import record, registry
from softeq.experiments.images import architectures, cifar10
from softeq.experiments.images.architectures import (
    EXPERIMENTS,
    NETWORKS,
    OUTPUTS,
    SIZES,
    STENCILS,
    build_network,
    configure,
    epoch_of,
    run,
    settings_of,
    tried_rates,
)
from softeq.experiments.images.checkpoints import QUANTITIES
from softeq.experiments.training.comparison import PROTOCOL
from softeq.experiments.training.loop import LoopSettings, Training
from softeq.experiments.training.pace import Pace
from softeq.experiments.training.trials import Trained
from softeq.measure.motion.flows import FLOWS

EXPERIMENT = EXPERIMENTS["cnn-vs-vit"]


def ignore(done, total):
    pass


def toy_images(name, sizes, generator, dtype):
    """Bright quarters: the class is the quarter, two bits; learnable in a few steps."""
    splits = []
    for n, drawn in zip(sizes, (generator, generator, torch.Generator().manual_seed(9)), strict=True):
        y = torch.randint(4, (n,), generator=drawn)
        x = torch.randn(n, 1, 28, 28, generator=drawn, dtype=dtype)
        for image, label in zip(x, y.tolist(), strict=True):
            row, column = divmod(label, 2)
            image[0, 14 * row : 14 * (row + 1), 14 * column : 14 * (column + 1)] += 2
        splits += [x, y]
    return LabelledImages(name, *splits, mean=0.5, std=0.25)


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr(architectures, "default_dataset", lambda: "mnist-5000")
    monkeypatch.setattr(cifar10, "load_images", toy_images)


def tiny(variant, seed=0, **changes):
    config = configure("smoke", variant, seed)
    config["data"]["sizes"] = [40, 20, 8]
    config["training"] |= {"batch_size": 20}
    config["measurement"] |= {"images": 2, "epochs": [0], "stencils": ["bspline", "reference"]}
    return config | {"device": "cpu"} | changes


def test_it_is_known_by_name_and_has_what_the_command_line_needs():
    assert registry.get("cnn-vs-vit") is EXPERIMENT
    assert set(EXPERIMENT.presets) == {"smoke", "default", "paper"}
    assert min(EXPERIMENT.presets["default"], EXPERIMENT.presets["paper"]) >= 10
    assert EXPERIMENT.protocol == PROTOCOL
    for family in ("cnn", "vit"):
        assert sum(variant.startswith(f"{family}-") for variant in EXPERIMENT.variants) >= 3


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("data", DATASETS)
def test_configurations_are_complete_survive_json_and_differ_in_the_network_alone(preset, data, monkeypatch):
    monkeypatch.setattr(architectures, "default_dataset", lambda: data)
    configs = [configure(preset, variant, 3) for variant in NETWORKS]
    networks = [config.pop("network") for config in configs]
    assert all(config == configs[0] for config in configs)
    assert len({json.dumps(network) for network in networks}) == len(NETWORKS)
    encoded = record.encode(configs[0])
    assert json.loads(json.dumps(encoded)) == encoded
    assert configs[0]["data"]["name"] == data
    assert (configs[0]["seed"], configs[0]["dtype"]) == (3, "float32")
    assert configs[0]["protocol"] == (0 if preset == "smoke" else PROTOCOL)
    assert configs[0]["training"]["schedule"] == "plateau"
    assert 0 in configs[0]["measurement"]["epochs"]
    assert set(STENCILS) == {"bspline", "central", "reference"}


def test_configuring_does_not_share_what_a_run_may_change():
    first = configure("smoke", "vit-4", 0)
    first["network"]["dim"] = 4
    first["measurement"]["stencils"].clear()
    assert configure("smoke", "vit-4", 0)["network"]["dim"] == 48
    assert configure("smoke", "vit-4", 0)["measurement"]["stencils"] == list(STENCILS)


def test_without_a_data_set_there_is_nothing_to_configure(monkeypatch):
    def absent():
        raise MissingExtraError("no images to train on")

    monkeypatch.setattr(architectures, "default_dataset", absent)
    with pytest.raises(MissingExtraError, match="no images to train on"):
        configure("smoke", "vit-4", 0)


@pytest.mark.parametrize("variant", NETWORKS)
def test_networks_are_built_alike_every_time_and_leave_torchs_generator_alone(variant):
    before = torch.get_rng_state()
    first, second, other = (build_network(tiny(variant, seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert 2e4 < sum(p.numel() for p in first.parameters()) < 2e5  # of one order of magnitude


@pytest.mark.parametrize(("variant", "dtype"), [("cnn-resnet", "float32"), ("vit-7", "float64")])
def test_a_run_measures_before_and_after_and_keeps_what_was_tried(variant, dtype):
    steps = []
    config = tiny(variant, dtype=dtype, target_accuracy=0.0)
    metrics = run(config, lambda done, total: steps.append((done, total)))
    record.encode(metrics)
    # Two trials of one epoch, then two epochs, two steps each; and the end, which may come before the cap.
    assert steps == [*((i, 8) for i in range(1, 9)), (8, 8)]
    assert [c["epoch"] for c in metrics["checkpoints"]] == [0, 2]
    assert metrics["matched_epoch"] == 0
    assert metrics["flows"] == list(FLOWS)
    for checkpoint in metrics["checkpoints"]:
        for stencil in ("bspline", "reference"):
            for output in OUTPUTS:
                entry = checkpoint["lee"][stencil][output]
                assert set(entry) == set(QUANTITIES)
                assert all(len(v) == 9 and min(v) > 0 and max(v) < math.inf for v in entry.values())
    assert [trial["lr"] for trial in metrics["trials"]] == config["learning_rates"]
    assert metrics["learning_rate"] in config["learning_rates"]
    assert [step for step, _ in metrics["validation_errors"]] == [2, 4]
    assert metrics["validation_errors"][-1][1] == pytest.approx(1 - metrics["checkpoints"][-1]["validation_accuracy"])
    assert (metrics["epochs"], metrics["steps"], metrics["stopped"]) == (2, 4, "steps")
    assert metrics["learning_rate_at_edge"] == 1  # of two
    assert metrics["test_accuracy"] == metrics["checkpoints"][-1]["test_accuracy"]
    wanted = {c.key for c in EXPERIMENT.columns} - {"translation_lee_central"}
    assert all(math.isfinite(metrics[key]) for key in wanted)


def test_the_best_rates_of_the_trials_are_trained_at_full_length_and_validation_data_choose():
    config = tiny("cnn-max", learning_rates=[1e-9, 1e-3, 1e20], finalists=2)
    config["measurement"] |= {"stencils": ["bspline"], "outputs": ["logits"]}
    metrics = run(config, ignore)
    first, second = metrics["finals"]
    trials = {trial["lr"]: trial["validation_error"] for trial in metrics["trials"]}
    assert trials[first["lr"]] <= trials[second["lr"]]
    assert {first["lr"], second["lr"]} == {1e-9, 1e-3}
    best = min(metrics["finals"], key=lambda one: one["validation_error"])
    assert (metrics["learning_rate"], metrics["validation_error"]) == (best["lr"], best["validation_error"])
    assert metrics["learning_rate_at_edge"] == int(best["lr"] == 1e-9)
    assert first["steps"] == second["steps"] == 4


def test_a_run_repeats_itself_and_another_seed_is_another_run():
    def comparable(seed):
        config = tiny("vit-stem", seed)
        config["measurement"] |= {"stencils": ["bspline"], "outputs": ["logits"]}
        metrics = run(config, ignore)
        for trial in (*metrics["trials"], *metrics["finals"]):
            del trial["seconds_per_step"]
        return {key: value for key, value in metrics.items() if "seconds" not in key}

    before = torch.get_rng_state()
    first = comparable(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == comparable(0)
    assert first["train_losses"] != comparable(1)["train_losses"]


def test_divergence_is_a_result():
    config = tiny("cnn-max", learning_rates=[1e20], target_accuracy=2.0)
    metrics = run(config, ignore)
    assert metrics["diverged_at_step"] >= 1
    assert math.isnan(metrics["test_accuracy"])
    assert math.isnan(metrics["translation_lee_bspline"])
    assert metrics["trials"][0]["diverged_at_step"] >= 1
    assert metrics["matched_epoch"] is None
    assert [c["epoch"] for c in metrics["checkpoints"]] == [0]
    record.encode(metrics)


def test_a_training_ends_at_its_plateau_within_an_epoch_and_the_last_epoch_is_measured_there():
    config = tiny("vit-stem", learning_rates=[1e-12], epochs=9, warmup_epochs=0.1, target_accuracy=2.0)
    config["training"] |= {"patience": 1}  # nothing is learnt at this rate: the second validation shows it
    config["measurement"] |= {"stencils": ["bspline"], "outputs": ["logits"]}
    steps = []
    metrics = run(config, lambda done, total: steps.append((done, total)))
    assert (metrics["steps"], metrics["stopped"], metrics["epochs"]) == (6, "plateau", 3)
    assert [c["epoch"] for c in metrics["checkpoints"]] == [0, 3]
    assert steps[-1] == (20, 20)  # 18 of the cap, and one trial
    config["training"] |= {"batch_size": 14}  # three steps an epoch: six, and two of the fall
    metrics = run(config, ignore)
    assert (metrics["steps"], metrics["epochs"]) == (8, 2.6667)
    assert [c["epoch"] for c in metrics["checkpoints"]] == [0, 2.6667]
    assert metrics["test_accuracy"] == metrics["checkpoints"][-1]["test_accuracy"]


def test_a_trial_is_the_training_under_another_cap_with_the_same_warm_up_and_no_test():
    config = configure("default", "vit-4", 0)
    whole, trial = (settings_of(config, 157, trial=short) for short in (False, True))
    assert {key for key in whole if whole[key] != trial[key]} == {"steps", "warmup", "equal_steps"}
    assert (whole["steps"], trial["steps"], trial["equal_steps"]) == (40 * 157, 4 * 157, None)
    rates = [[Pace(LoopSettings(**how, lr=1.0)).rate(step) for step in range(3 * 157)] for how in (whole, trial)]
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0][155] < 1.0 == rates[0][157]


@pytest.mark.gpu
def test_a_run_on_a_gpu():
    metrics = run(tiny("vit-stem", device="cuda", target_accuracy=0.0), ignore)
    assert math.isfinite(metrics["test_accuracy"])
    assert math.isfinite(metrics["translation_ratio_bspline"])


def test_epochs():
    assert [epoch_of(step, 3) for step in (0, 3, 8)] == [0, 1, 2.6667]
    assert all(isinstance(epoch_of(step, 3), int) for step in (0, 3))


@pytest.mark.parametrize(
    ("best", "extensions", "rates"),
    [
        (3e-3, 3, [1e-3, 3e-3, 1e-2]),
        (1e-2, 3, [1e-3, 3e-3, 1e-2, 0.033333]),
        (0.1, 3, [1e-3, 3e-3, 1e-2, 0.033333, 0.11111, 0.37036]),
        (0.1, 1, [1e-3, 3e-3, 1e-2, 0.033333]),
        (1e-3, 3, [0.00033333, 1e-3, 3e-3, 1e-2]),
        (1e-2, 0, [1e-3, 3e-3, 1e-2]),
    ],
)
def test_a_list_of_rates_grows_where_its_best_stands_at_an_edge(best, extensions, rates):
    def attempt(lr):
        error = abs(math.log(lr / best))
        return Trained(torch.nn.Identity(), {"lr": lr, "prior": None}, Training(validations=[(1, error)]))

    trials = tried_rates(attempt, (1e-3, 3e-3, 1e-2), extensions)
    assert [one.trial["lr"] for one in trials] == pytest.approx(rates, rel=1e-4)
    assert len(tried_rates(attempt, (1e-3,), extensions)) == 1
