"""rotation and translation: the dial, what a run keeps, and what is refused."""

import math

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine import record, registry
from softeq.experiments.images import dial as images
from softeq.experiments.images import dial_task
from softeq.experiments.images.cifar10 import build_network
from softeq.experiments.images.dial import ARMS, COMPARISONS, EXPERIMENTS, headers

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
    monkeypatch.setattr(dial_task, "load_images", toy_images)
    dial_task._images.cache_clear()
    yield
    dial_task._images.cache_clear()


def configure(kind, preset, variant, seed=0):
    return COMPARISONS[kind].configure(preset, variant, seed)


def tiny(kind, variant, seed=0, points=1, steps=4, **changes):
    config = configure(kind, "smoke", variant, seed)
    config["points"] = config["points"][-points:]
    for point in config["points"]:
        point["sizes"] = [20, 10, 8]
    config["training"] |= {"steps": steps, "validate_every": 2}
    return config | changes


def run(config, progress=ignore):
    return COMPARISONS[config["data"]["kind"]].run(config, progress)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_known_by_name(kind):
    assert registry.get(kind) is EXPERIMENTS[kind]
    assert EXPERIMENTS[kind].presets["default"] >= 5
    assert len(EXPERIMENTS[kind].variants) == 3 * len(ARMS)


def test_a_run_goes_over_the_points_of_the_tables():
    names = [point["name"] for point in configure("translation", "default", "soft-200")["points"]]
    assert names == list(headers("translation"))
    assert {p["reach"] for p in configure("translation", "default", "soft-200")["points"]} == {0, 4}


def test_sizes_are_those_of_the_name_and_no_more_than_there_are():
    points = configure("translation", "default", "none-5000")["points"]
    assert {p["data"]: p["sizes"] for p in points} == {
        "fashion-mnist": [5000, 1000, 2000],
        "mnist-5000": [3500, 500, 1000],
    }
    points = configure("rotation", "default", "none-augmented-200")["points"]
    assert {tuple(p["sizes"]) for p in points} == {(200, 1000, 2000)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_keeps_the_numbers_of_every_point(kind):
    for arm in ARMS:
        config = tiny(kind, f"{arm}-1000", points=2)
        metrics = run(config)
        record.encode(metrics)
        assert list(metrics["points"]) == [point["name"] for point in config["points"]]
        for name, found in metrics["points"].items():
            for key in ("accuracy", "moved_accuracy", "defect", "lee", "lee_ratio"):
                assert metrics[f"{key}@{name}"] == found[key]
                assert math.isfinite(found[key])
            layers = found["weight_defect"].values()
            assert found["defect"] == pytest.approx(sum(layers) / len(layers), rel=1e-4)
            assert (found["defect"] < 1e-6) == (arm == "hard")


def test_a_run_repeats_itself_and_another_seed_is_another_run():
    def losses(seed):
        metrics = run(tiny("translation", "none-augmented-200", seed))
        return [trial["train_losses"] for point in metrics["points"].values() for trial in point["trials"]]

    before = torch.get_rng_state()
    first = losses(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == losses(0) != losses(1)


def test_the_prior_holds_a_soft_network_to_its_constraint():
    def defect(residual):
        trial = {"lr": 1e-2, "prior": {"equivariant": 0.1, "residual": residual}}
        return run(tiny("translation", "soft-grid-200", trials=[trial], steps=30))["defect@mnist-5000-shifted-all"]

    assert defect(1e4) < 0.5 * defect(1e-3)


def test_augmentation_and_float64():
    plain, moved = (run(tiny("rotation", f"{arm}-200", dtype="float64")) for arm in ("none", "none-augmented"))
    losses = [m["points"]["180-all"]["trials"][0]["train_losses"] for m in (plain, moved)]
    assert losses[0] != losses[1]
    assert build_network(tiny("rotation", "none-200", dtype="float64")).head[-1].weight.dtype == torch.float64


def test_what_is_unknown_or_missing():
    with pytest.raises(SofteqValueError, match=r"variant: expected one of hard-200, .*got 'soft-300'"):
        configure("rotation", "smoke", "soft-300")
    config = tiny("rotation", "hard-200")
    config["points"][0]["reach"] = 270.0
    with pytest.raises(SofteqValueError, match="reach: expected an angle from 0 to 180 degrees, got 270"):
        run(config)
    with pytest.raises(SofteqValueError, match="dtype: expected the name of one of torch's types, got 'float31'"):
        run(tiny("rotation", "hard-200", dtype="float31"))


def test_without_a_data_set_there_is_nothing_to_configure(monkeypatch):
    monkeypatch.undo()

    def absent():
        raise MissingExtraError("no images to train on")

    monkeypatch.setattr(images, "default_dataset", absent)
    for kind in KINDS:
        with pytest.raises(MissingExtraError, match="no images to train on"):
            configure(kind, "smoke", "soft-200")


def test_data_sets_are_what_is_installed(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(images, "default_dataset", lambda: "mnist-5000")
    monkeypatch.setattr(images, "fashion_mnist_folder", lambda: None)
    assert images.datasets("rotation") == images.datasets("translation") == ("mnist-5000",)
    monkeypatch.setattr(images, "default_dataset", lambda: "fashion-mnist")
    monkeypatch.setattr(images, "fashion_mnist_folder", lambda: tmp_path)
    assert images.datasets("rotation") == ("fashion-mnist",)
    assert images.datasets("translation") == ("fashion-mnist", "mnist-5000")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_what_a_cpu_gives(kind):
    there, here = (run(tiny(kind, "soft-grid-200", dtype="float64", device=device)) for device in ("cuda", "cpu"))
    (point,) = there["points"]
    losses = [found["points"][point]["trials"][0]["train_losses"] for found in (there, here)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    record.encode(there)
