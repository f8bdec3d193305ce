"""rotation and translation: fair and complete configurations, what a run keeps, and what is refused."""

import json
import math

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine import record, registry
from softeq.experiments.images import dial as images
from softeq.experiments.images import run as image_run
from softeq.experiments.images.dial import ARMS, DIALS, EXPERIMENTS, SIZES, VARIANTS, configure, headers
from softeq.experiments.images.run import build_model, repeated, run

KINDS = ("rotation", "translation")


def ignore(done, total):
    pass


def toy_images(name, sizes, generator, dtype):
    """Bars whose length is the class: learnable in a few steps."""
    splits = []
    for n, drawn in zip(sizes, (generator, generator, torch.Generator().manual_seed(9)), strict=True):
        y = torch.randint(10, (n,), generator=drawn)
        x = 0.05 * torch.rand(n, 1, 28, 28, generator=drawn, dtype=dtype)
        for image, label in zip(x, y.tolist(), strict=True):
            image[0, 8:14, 6 : 8 + label] = 1
        splits += [(x - 0.5) / 0.25, y]
    return LabelledImages(name, *splits, mean=0.5, std=0.25)


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr(images, "datasets", lambda kind: ("fashion-mnist", "mnist-5000")[: KINDS.index(kind) + 1])
    monkeypatch.setattr(image_run, "load_images", toy_images)
    image_run._images.cache_clear()
    yield
    image_run._images.cache_clear()


def tiny(kind, variant, seed=0, points=1, **changes):
    config = configure(kind, "smoke", variant, seed)
    config["points"] = config["points"][-points:]
    config["sizes"] = {name: [20, 10, 8] for name in config["sizes"]}
    return config | {"rows_per_epoch": 45} | changes


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_known_by_name(kind):
    experiment = registry.get(kind)
    assert experiment is EXPERIMENTS[kind]
    assert set(experiment.presets) == {"smoke", "default", "paper"}
    assert experiment.presets["default"] >= 5
    assert len(VARIANTS) == 3 * len(ARMS)


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_variants_differ_in_constraint_augmentation_and_trials_alone_and_have_as_many_trials(kind, preset):
    configs = [configure(kind, preset, f"{arm}-1000", 3) for arm in ARMS]
    encoded = record.encode(configs[0])
    assert json.loads(json.dumps(encoded)) == encoded
    assert len({len(config["trials"]) for config in configs}) == 1
    for config, (constraint, augment) in zip(configs, ARMS.values(), strict=True):
        assert config["network"].pop("constraint") == constraint
        assert config.pop("augment") is augment
        priors = [trial["prior"] for trial in config.pop("trials")]
        assert all((prior is None) != (constraint == "soft") for prior in priors)
    assert all(config == configs[0] for config in configs)


def test_the_dial_goes_from_nothing_to_everything_and_then_breaks():
    for points in DIALS.values():
        assert points[0].reach == points[0].breaking == 0
        order = [(point.breaking, point.reach) for point in points]
        assert order == sorted(order)
        assert points[-1].breaking == 1
    assert {point.reach for point in DIALS["rotation"]} == {0, 45, 90, 180}
    names = [point["name"] for point in configure("translation", "default", "soft-200", 0)["points"]]
    assert names == list(headers("translation"))
    assert {p["reach"] for p in configure("translation", "default", "soft-200", 0)["points"]} == {0, 4}


def test_sizes_are_those_of_the_name_and_no_more_than_there_are():
    assert configure("translation", "default", "none-5000", 0)["sizes"] == {
        "fashion-mnist": [5000, 1000, 2000],
        "mnist-5000": [3500, 500, 1000],
    }
    assert configure("rotation", "default", "none-augmented-200", 0)["sizes"] == {"fashion-mnist": [200, 1000, 2000]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arm", ARMS)
def test_a_run_keeps_every_trial_and_the_numbers_of_the_best(kind, arm):
    steps = []
    config = tiny(kind, f"{arm}-1000", points=2)
    metrics = run(config, lambda done, total: steps.append((done, total)))
    record.encode(metrics)
    assert steps == [(i, 8) for i in range(1, 9)]  # 2 points x 2 trials x 1 epoch of 40 rows in batches of 20
    assert list(metrics["points"]) == [point["name"] for point in config["points"]]
    for name, found in metrics["points"].items():
        reached = [trial["validation_accuracies"][-1] for trial in found["trials"]]
        assert reached[found["chosen"]] == max(reached)
        assert [trial["prior"] is None for trial in found["trials"]] == [arm != "soft"] * 2
        assert found["training_images"] == 20
        for key in ("accuracy", "moved_accuracy", "defect", "lee", "lee_ratio"):
            assert metrics[f"{key}@{name}"] == found[key]
            assert math.isfinite(found[key])
        assert found["defect"] == pytest.approx(
            sum(found["weight_defect"].values()) / len(found["weight_defect"]), rel=1e-4
        )
        assert (found["defect"] < 1e-6) == (arm == "hard")
        assert found["lee"] > 0


@pytest.mark.parametrize("arm", ["soft", "none-augmented"])
def test_a_run_repeats_itself_and_another_seed_is_another_run(arm):
    def comparable(seed):
        metrics = run(tiny("translation", f"{arm}-200", seed), ignore)
        trials = [trial for point in metrics["points"].values() for trial in point["trials"]]
        numbers = {key: value for key, value in metrics.items() if key != "points"}
        return numbers, [trial["train_losses"] for trial in trials]

    before = torch.get_rng_state()
    first = comparable(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == comparable(0)
    assert first[1] != comparable(1)[1]


def test_the_prior_holds_a_soft_network_to_its_constraint():
    def defect(residual):
        trial = {"lr": 1e-2, "weight_decay": 0.0, "prior": {"equivariant": 0.1, "residual": residual}}
        config = tiny("translation", "soft-200", trials=[trial], rows_per_epoch=400)
        return run(config, ignore)["defect@mnist-5000-shifted-all"]

    assert defect(1e4) < 0.5 * defect(1e-3)


def test_augmentation_and_float64():
    plain, moved = (run(tiny("rotation", f"{arm}-200", dtype="float64"), ignore) for arm in ("none", "none-augmented"))
    losses = [m["points"]["180-all"]["trials"][0]["train_losses"] for m in (plain, moved)]
    assert losses[0] != losses[1]
    assert build_model(tiny("rotation", "none-200", dtype="float64")).head[-1].weight.dtype == torch.float64


def test_divergence_is_a_result_and_never_chosen():
    wild = {"lr": 1e30, "weight_decay": 0.0, "prior": None}
    tame = {"lr": 1e-3, "weight_decay": 0.0, "prior": None}
    both = run(tiny("translation", "none-200", trials=[wild, tame], rows_per_epoch=80), ignore)
    point = both["points"]["mnist-5000-shifted-all"]
    assert point["chosen"] == 1
    assert point["trials"][0]["diverged_at_step"] >= 1
    lost = run(tiny("translation", "none-200", trials=[wild], rows_per_epoch=80), ignore)
    assert math.isnan(lost["accuracy@mnist-5000-shifted-all"])
    record.encode(lost)


def test_epochs_are_of_like_length():
    data = toy_images("x", (20, 4, 4), torch.Generator(), torch.float32)
    assert len(repeated(data, 100).x_train) == 100
    assert len(repeated(data, 59).x_train) == 40
    assert len(repeated(data, 10).x_train) == 20
    assert torch.equal(repeated(data, 40).y_train[20:], data.y_train)


def test_what_is_unknown_or_missing(monkeypatch):
    with pytest.raises(SofteqValueError, match=r"variant: expected one of hard-200, .*got 'soft-300'"):
        configure("rotation", "smoke", "soft-300", 0)
    with pytest.raises(SofteqValueError, match="kind: expected one of rotation, translation, got 'scale'"):
        configure("scale", "smoke", "soft-200", 0)
    config = tiny("rotation", "hard-200")
    config["points"][0]["reach"] = 270.0
    with pytest.raises(SofteqValueError, match="reach: expected an angle from 0 to 180 degrees, got 270"):
        run(config, ignore)
    with pytest.raises(SofteqValueError, match="dtype: expected the name of one of torch's types, got 'float31'"):
        run(tiny("rotation", "hard-200", dtype="float31"), ignore)


def test_without_a_data_set_there_is_nothing_to_configure(monkeypatch):
    monkeypatch.undo()

    def absent():
        raise MissingExtraError("no images to train on")

    monkeypatch.setattr(images, "default_dataset", absent)
    for kind in KINDS:
        with pytest.raises(MissingExtraError, match="no images to train on"):
            configure(kind, "smoke", "soft-200", 0)


def test_data_sets_are_what_is_installed(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(images, "default_dataset", lambda: "mnist-5000")
    monkeypatch.setattr(images, "fashion_mnist_folder", lambda: None)
    assert images.datasets("rotation") == images.datasets("translation") == ("mnist-5000",)
    monkeypatch.setattr(images, "default_dataset", lambda: "fashion-mnist")
    monkeypatch.setattr(images, "fashion_mnist_folder", lambda: tmp_path)
    assert images.datasets("rotation") == ("fashion-mnist",)
    assert images.datasets("translation") == ("fashion-mnist", "mnist-5000")
