"""CNN against ViT: which one does training make more equivariant, and does the answer depend on the stencil?

Gruver, Finzi, Goldblum, Wilson (ICLR 2023) find that transformers can be more translation-equivariant than
convolutional networks after training. Their derivative is taken at a kink of bilinear resampling; here the same
networks are measured with that stencil (``reference``) and with two that have no kink (``bspline``, ``central``):
before, during and after training, and at the first epoch at which each reaches a common validation accuracy. A seed
draws the training and validation images, the initialisation and the order; test and measured images are the same for
all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from softeq.experiments.data.images import SIZE, default_dataset, load_images
from softeq.experiments.engine.bookkeeping import counter, generator_for
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.images.checkpoints import BestEpoch, headline
from softeq.experiments.images.classification import TrainSettings, accuracy, choose_learning_rate, train
from softeq.measure.motion.flows import FLOWS
from softeq.models.images import build

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "cnn-stride": {
        "name": "convnet",
        "channels": [32, 64, 96],
        "down": "stride",
        "head": "average",
        "activation": "gelu",
    },
    "cnn-max": {"name": "convnet", "channels": [16, 32, 64], "down": "max", "head": "flatten", "activation": "relu"},
    "cnn-resnet": {"name": "resnet", "channels": [12, 24, 48], "activation": "relu"},
    "vit-4": {"name": "vit", "patch": 4, "stem": "patch", "gather": "class", "dim": 48, "depth": 3, "heads": 4},
    "vit-7": {"name": "vit", "patch": 7, "stem": "patch", "gather": "mean", "dim": 64, "depth": 4, "heads": 4},
    "vit-stem": {"name": "vit", "patch": 4, "stem": "convolution", "gather": "mean", "dim": 48, "depth": 2, "heads": 4},
}
"""The variants: those named ``cnn-`` stand against those named ``vit-``."""
STENCILS = ("bspline", "central", "reference")
OUTPUTS = ("logits", "probabilities")
LEARNING_RATES = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Size:
    """How large a preset is; ``rows`` and ``target`` (a validation accuracy) by data set."""

    seeds: int
    rows: Mapping[str, tuple[int, int, int]]
    target: Mapping[str, float]
    epochs: int
    trial_epochs: int
    learning_rates: tuple[float, ...]
    measured_epochs: tuple[int, ...]
    measured_images: int


SIZES: Mapping[str, Size] = {
    "smoke": Size(
        1,
        {"fashion-mnist": (300, 100, 100), "mnist-5000": (300, 100, 100)},
        {"fashion-mnist": 0.3, "mnist-5000": 0.3},
        2,
        1,
        (3e-3, 1e-2),
        (0, 1, 2),
        4,
    ),
    "default": Size(
        3,
        {"fashion-mnist": (10_000, 2_000, 10_000), "mnist-5000": (3_200, 800, 1_000)},
        {"fashion-mnist": 0.82, "mnist-5000": 0.9},
        10,
        2,
        LEARNING_RATES,
        (0, 1, 2, 4, 7, 10),
        100,
    ),
    "paper": Size(
        5,
        {"fashion-mnist": (50_000, 10_000, 10_000), "mnist-5000": (3_200, 800, 1_000)},
        {"fashion-mnist": 0.88, "mnist-5000": 0.95},
        30,
        5,
        LEARNING_RATES,
        (0, 1, 2, 4, 8, 15, 22, 30),
        500,
    ),
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run, on the data set that is installed (`default_dataset`).

    Raises:
        MissingExtraError: no data set is installed.
    """
    size, data = SIZES[preset], default_dataset()
    return {
        "data": {"name": data, "sizes": list(size.rows[data])},
        "network": {"size": list(SIZE), **NETWORKS[variant]},
        "training": {"epochs": size.epochs, "batch_size": 64, "weight_decay": 0.01, "warmup": 0.1, "clip": 1.0},
        "learning_rates": list(size.learning_rates),
        "trial_epochs": size.trial_epochs,
        "target_accuracy": size.target[data],
        "measurement": {
            "images": size.measured_images,
            "epochs": list(size.measured_epochs),
            "stencils": list(STENCILS),
            "outputs": list(OUTPUTS),
            "boundary": "mirror",
            "margin": 0,
            "batch_size": 50,
            "seed": 0,
        },
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """Choose the learning rate, train, measure at the checkpoints. A training that diverges gives NaN, no exception."""
    device, dtype = torch.device(config["device"]), getattr(torch, config["dtype"])
    data = load_images(config["data"]["name"], tuple(config["data"]["sizes"]), generator_for(config["seed"], 1), dtype)
    data = data.to(device)
    settings = TrainSettings(**config["training"])
    trial = replace(settings, epochs=config["trial_epochs"])
    epochs = settings.epochs + trial.epochs * len(config["learning_rates"])
    on_step = counter(progress, epochs * math.ceil(len(data.x_train) / settings.batch_size))

    began = time.perf_counter()
    lr, trials = choose_learning_rate(
        lambda: build_model(config),
        data,
        trial,
        config["learning_rates"],
        lambda: generator_for(config["seed"], 2),
        on_step=on_step,
    )
    seconds_trials = time.perf_counter() - began
    model = build_model(config)
    watch = BestEpoch(model, data, config)
    watch(0, accuracy(model, data.x_validation, data.y_validation))
    order = generator_for(config["seed"], 3)
    training = train(model, data, replace(settings, lr=lr), order, after_epoch=watch, on_step=on_step)
    return {
        **headline(watch, training),
        "learning_rate": lr,
        "trials": trials,
        "validation_accuracies": training.validation_accuracy,
        "train_losses": training.train_loss,
        "matched_epoch": watch.matched_epoch,
        "flows": list(FLOWS),
        "checkpoints": watch.checkpoints,
        "pixel_mean": data.mean,
        "pixel_std": data.std,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_trials": round(seconds_trials, 3),
        "seconds_training": round(training.seconds, 3),
        "seconds_measuring": round(watch.seconds, 3),
    }


def build_model(config: Config) -> nn.Module:
    """The untrained network of a configuration: the same parameters each time, torch's own generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = build(**config["network"])
    return model.to(device=config["device"], dtype=getattr(torch, config["dtype"]))


def _plot(records: list[dict[str, Any]], path: Any) -> None:
    from softeq.experiments.images.architecture_plots import plot_architectures

    plot_architectures(records, path)


EXPERIMENTS: dict[str, Experiment] = {
    "cnn-vs-vit": Experiment(
        name="cnn-vs-vit",
        summary="three CNNs and three ViTs: equivariance before, during and after training, by stencil",
        variants=tuple(NETWORKS),
        presets={name: size.seeds for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            Column("test_accuracy", "test accuracy", ".3f"),
            Column("translation_lee_bspline", "translation LEE, B-spline"),
            Column("translation_lee_central", "central"),
            Column("translation_lee_reference", "reference"),
            Column("translation_ratio_bspline", "B-spline over noise"),
            Column("matched_translation_lee_bspline", "at matched accuracy, B-spline"),
            Column("matched_translation_lee_reference", "at matched accuracy, reference"),
        ),
        notes=(
            "LEE: mean over images of ||Lf||^2 / ||f||^2 of the logits, per squared pixel, mean of both translations.",
            "Over noise: the median over images of LEE over that of a random tangent of the same size.",
            "Matched accuracy: the first epoch that reaches the common validation accuracy in config.target_accuracy.",
            "Learning rates: chosen per model and seed on validation data, the same trials for every model.",
        ),
        plot=_plot,
    )
}
