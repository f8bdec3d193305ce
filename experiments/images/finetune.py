"""``soften``: a pretrained network fine-tuned on few images as it is, as its soft twin, and with frozen features.

EfficientNet-Lite0 with the ImageNet weights that a package ships gets a new head for the ten classes of Fashion-MNIST.
``plain`` trains all its weights; ``soft`` is `softeq.soften` of the same network, whose convolutions may leave the
translations, at the price of a prior on the residual pathways alone; ``frozen`` trains the head. Every variant starts
from the same outputs, sees the same images in the same order for the same number of steps, and has as many trials,
among which validation data choose. The images are enlarged, grey as three equal channels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from softeq import Prior, prior_penalty
from softeq._soften import soften
from softeq.errors import SofteqValueError
from softeq.experiments.data.images import LabelledImages, default_dataset, load_images
from softeq.experiments.engine.bookkeeping import counter, generator_for
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.images.classification import TrainSettings, train
from softeq.experiments.images.run import measure_lee
from softeq.experiments.images.trials import BestEpoch, Trained, Trial, chosen, measure
from softeq.measure.loading.sources import load_model

NETWORK = "tf_efficientnet_lite0"
_BATCH = 100  # images at once where no gradient is taken


@dataclass(frozen=True)
class Size:
    """How large a preset is: seeds, images per split, pixels per side, epochs, trials, images to measure on."""

    seeds: int
    rows: tuple[int, int, int]
    pixels: int
    epochs: int
    trials: int = 3
    measured: int = 60


SIZES: Mapping[str, Size] = {
    "smoke": Size(1, (32, 20, 20), 32, 1, trials=1, measured=2),
    "default": Size(5, (480, 200, 1000), 56, 4),
    "paper": Size(5, (2_000, 1_000, 10_000), 112, 20, measured=100),
}


def _trial(lr: float, residual: float = 0.0) -> Trial:
    return {"lr": lr, "residual": residual}


TRIALS: Mapping[str, tuple[Trial, ...]] = {
    "soft": (_trial(1e-3, 100.0), _trial(3e-3, 100.0), _trial(3e-3, 1.0)),
    "plain": (_trial(1e-3), _trial(3e-3), _trial(1e-2)),
    "frozen": (_trial(1e-3), _trial(3e-3), _trial(1e-2)),
}
"""By variant: AdamW's learning rate and the precision of the prior on residual pathways, for the whole data set."""


def configure(preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run, on the data set that is installed (`default_dataset`).

    Raises:
        MissingExtraError: no data set is installed.
        SofteqValueError: an unknown variant.
    """
    if variant not in TRIALS:
        raise SofteqValueError(f"variant: expected one of {', '.join(TRIALS)}, got {variant!r}")
    size = SIZES[preset]
    return {
        "data": {"name": default_dataset(), "sizes": list(size.rows), "pixels": size.pixels},
        "network": {"name": NETWORK, "variant": variant, "residual": "lowrank", "rank": 1},
        "training": {"epochs": size.epochs, "batch_size": 32, "weight_decay": 0.01, "warmup": 0.1, "clip": 1.0},
        "trials": [dict(trial) for trial in TRIALS[variant][: size.trials]],
        "measurement": {
            "images": size.measured,
            "shifts": [4, 8],
            "stencil": "bspline",
            "boundary": "mirror",
            "seed": 0,
            "batch_size": 10,
        },
        "seed": seed,
        "device": "cuda" if preset == "paper" and torch.cuda.is_available() else "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """Train every trial, let validation data choose, measure. A training that diverges gives NaN, no exception.

    Raises:
        MissingExtraError: the data, timm or the package with the weights are not installed.
        SofteqError: the data's files or the weights are damaged.
    """
    data = enlarged(config).to(config["device"])
    how = config["training"]
    steps = how["epochs"] * math.ceil(len(data.x_train) / how["batch_size"])
    on_step = counter(progress, steps * len(config["trials"]))
    before = measure_lee(build(config).eval(), data.x_test, {**config, "kind": "translation"})
    began = time.perf_counter()
    train_trial = train_head if config["network"]["variant"] == "frozen" else train_all
    trained = [train_trial(data, trial, config, on_step) for trial in config["trials"]]
    seconds = time.perf_counter() - began
    return measure(trained, data, config) | {
        "lee_before": before.get("lee", math.nan),
        "lr": trained[chosen(trained)].trial["lr"],
        "seconds_trials": round(seconds, 3),
    }


def enlarged(config: Config) -> LabelledImages:
    """The images at the configuration's size, three equal channels, from -1 to 1 as the weights want.

    Raises:
        MissingExtraError, SofteqError: as `run`.
    """
    data, dtype = config["data"], getattr(torch, config["dtype"])
    loaded = load_images(data["name"], tuple(data["sizes"]), generator_for(config["seed"], 1), torch.float64)
    size = (data["pixels"], data["pixels"])

    def image(x: Tensor) -> Tensor:
        large = interpolate(x * loaded.std + loaded.mean, size, mode="bicubic").clamp(0, 1)
        return ((large - 0.5) / 0.5).to(dtype).expand(-1, 3, -1, -1).contiguous()

    inputs = {f"x_{part}": image(getattr(loaded, f"x_{part}")) for part in ("train", "validation", "test")}
    splits: dict[str, Any] = {**inputs, "mean": 0.5, "std": 0.5}
    return replace(loaded, **splits)


def build(config: Config) -> nn.Module:
    """The pretrained network with a new head, softened where the variant is; the same each time.

    Raises:
        MissingExtraError: timm or the package with the weights is not installed.
    """
    network, pixels, dtype = config["network"], config["data"]["pixels"], getattr(torch, config["dtype"])
    model: Any = load_model(network["name"], weights="packaged", image_size=pixels, dtype=dtype).module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model.reset_classifier(10)
        model = model.to(dtype)
        if network["variant"] == "soft":
            example = torch.zeros(2, 3, pixels, pixels, dtype=dtype)
            example[:, :, pixels // 4 : pixels // 2] = 1
            # The records were made with means of zero: what is free at the start is priced from there.
            options = {"residual": network["residual"], "rank": network["rank"], "anchored": False}
            model = soften(model, example, **options).model
    return model.to(config["device"])


def train_all(data: LabelledImages, trial: Trial, config: Config, on_step: Callable[[], None]) -> Trained:
    """Train every weight; the prior's penalty counts where there are soft layers."""
    model = build(config)
    prior, n = Prior(equivariant=0.0, residual=trial["residual"]), len(data.x_train)
    watch = BestEpoch(model, on_step)
    training = train(
        model,
        data,
        TrainSettings(**config["training"], lr=trial["lr"]),
        generator_for(config["seed"], 2),
        after_epoch=watch.epoch,
        on_step=watch.step,
        penalty=(lambda: prior_penalty(model, prior) / n) if config["network"]["variant"] == "soft" else None,
    )
    return Trained(model, trial, training, watch)


def train_head(data: LabelledImages, trial: Trial, config: Config, on_step: Callable[[], None]) -> Trained:
    """Train the last layer on features that are taken once, the network in evaluation mode."""
    model: Any = build(config).eval()
    features: dict[str, Any] = {
        f"x_{part}": pooled(model, getattr(data, f"x_{part}")) for part in ("train", "validation")
    }
    watch = BestEpoch(model, on_step)
    training = train(
        model.get_classifier(),
        replace(data, **features),
        TrainSettings(**config["training"], lr=trial["lr"]),
        generator_for(config["seed"], 2),
        after_epoch=watch.epoch,
        on_step=watch.step,
    )
    return Trained(model, trial, training, watch)


@torch.no_grad()
def pooled(model: Any, x: Tensor) -> Tensor:
    """What a timm network's last layer is given, ``(N, features)``."""
    parts = [model.forward_head(model.forward_features(part), pre_logits=True) for part in x.split(_BATCH)]
    return torch.cat(parts)


EXPERIMENTS: dict[str, Experiment] = {
    "soften": Experiment(
        name="soften",
        summary="a pretrained EfficientNet-Lite0 fine-tuned on few images: softened, plain, frozen",
        variants=tuple(TRIALS),
        presets={name: size.seeds for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            Column("test_accuracy", "test accuracy", ".3f"),
            Column("test_accuracy_best_validation", "best validation epoch", ".3f"),
            Column("shifted_accuracy_4", "test shifted by up to 4", ".3f"),
            Column("shifted_accuracy_8", "by up to 8", ".3f"),
            Column("lee_before", "translation LEE before"),
            Column("lee", "after"),
            Column("lee_ratio", "over noise"),
            Column("weight_defect_mean", "weight defect, mean of layers"),
            Column("parameters", "parameters", ",.0f"),
            Column("seconds_per_step", "s / step"),
        ),
        notes=(
            "Shifted: each test image by whole pixels of the enlarged image, uniform in both directions.",
            "LEE: mean over images of ||Lf||^2 / ||f||^2 of the logits, per squared pixel, mean of both translations;"
            " before: with the untrained head.",
            "Over noise: the median over images of LEE over that of a random tangent of the same size.",
            "Learning rates and the prior's precision: as many trials for each variant, chosen on validation data.",
        ),
    )
}
