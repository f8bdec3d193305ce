"""CNN against ViT: which one does training make more equivariant, and does the answer depend on the stencil?

Gruver, Finzi, Goldblum, Wilson (ICLR 2023) find that transformers can be more translation-equivariant than
convolutional networks after training. Their derivative is taken at a kink of bilinear resampling; here the same
networks are measured with that stencil (``reference``) and with two that have no kink (``bspline``, ``central``):
before, during and after training, and at the first epoch at which each reaches a common validation accuracy. A seed
draws the training and validation images, the initialisation and the order; test and measured images are the same for
all.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from typing import Any

from softeq.experiments.data.images import SIZE, default_dataset, load_images
from softeq.experiments.engine.bookkeeping import DATA, ORDER, counter, dtype_of, generator_for
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.images.checkpoints import Checkpoints, headline
from softeq.experiments.images.cifar10 import build_network
from softeq.experiments.images.tasks import ImageTask
from softeq.experiments.training.comparison import Size
from softeq.experiments.training.loop import LoopSettings, train
from softeq.experiments.training.trials import Trained, choose, train_trial
from softeq.measure.motion.flows import FLOWS

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


_FASHION, _DIGITS = "fashion-mnist", "mnist-5000"


def _size(
    seeds: int,
    rows: Mapping[str, list[int]],
    target: Mapping[str, float],
    epochs: tuple[int, int],
    measured: tuple[list[int], int],
    rates: tuple[float, ...] = LEARNING_RATES,
) -> Size:
    """A preset: rows and target (a validation accuracy) by data set; epochs of a run and of a trial of a learning
    rate; the epochs and images that are measured."""
    data = {"rows": rows, "target": target, "measured_epochs": measured[0], "rates": list(rates)}
    return Size(seeds, {}, data, {"epochs": epochs[0], "trial_epochs": epochs[1]}, measured=measured[1])


SIZES: Mapping[str, Size] = {
    "smoke": _size(
        1,
        {_FASHION: [300, 100, 100], _DIGITS: [300, 100, 100]},
        {_FASHION: 0.3, _DIGITS: 0.3},
        (2, 1),
        ([0, 1, 2], 4),
        (3e-3, 1e-2),
    ),
    "default": _size(
        3,
        {_FASHION: [10_000, 2_000, 10_000], _DIGITS: [3_200, 800, 1_000]},
        {_FASHION: 0.82, _DIGITS: 0.9},
        (10, 2),
        ([0, 1, 2, 4, 7, 10], 100),
    ),
    "paper": _size(
        5,
        {_FASHION: [50_000, 10_000, 10_000], _DIGITS: [3_200, 800, 1_000]},
        {_FASHION: 0.88, _DIGITS: 0.95},
        (30, 5),
        ([0, 1, 2, 4, 8, 15, 22, 30], 500),
    ),
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run, on the data set that is installed (`default_dataset`).

    Raises:
        MissingExtraError: no data set is installed.
    """
    size, data = SIZES[preset], default_dataset()
    how = size.data
    return {
        "data": {"name": data, "sizes": list(how["rows"][data])},
        "network": {"size": list(SIZE), **NETWORKS[variant]},
        "training": {"batch_size": 64, "optimizer": "adamw", "weight_decay": 0.01, "warmup": 0.1, "clip": 1.0},
        "epochs": size.training["epochs"],
        "learning_rates": list(how["rates"]),
        "trial_epochs": size.training["trial_epochs"],
        "target_accuracy": how["target"][data],
        "measurement": {
            "images": size.measured,
            "epochs": list(how["measured_epochs"]),
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
    task, per_epoch = task_of(config)
    lengths = config["trial_epochs"] * per_epoch, config["epochs"] * per_epoch
    on_step = counter(progress, lengths[0] * len(config["learning_rates"]) + lengths[1])

    def tried(lr: float) -> Trained:
        own = {**config["training"], "steps": lengths[0], "validate_every": per_epoch}
        how = {**config, "training": own, "rule": "fixed", "augment": None}
        return train_trial(task, functools.partial(build_network, config), {"lr": lr, "prior": None}, how, on_step)

    began = time.perf_counter()
    trials = [tried(lr) for lr in config["learning_rates"]]
    lr = trials[choose(trials)].trial["lr"]
    seconds_trials = time.perf_counter() - began
    model = build_network(config)
    watch = Checkpoints(model, task.data, config)
    watch(0, 1 - task.validation_error(model))

    def after(step: int, error: float) -> None:
        watch(step // per_epoch, 1 - error)

    began = time.perf_counter()
    own = LoopSettings(**config["training"], steps=lengths[1], validate_every=per_epoch, lr=lr)
    training = train(model, task, own, generator_for(config["seed"], ORDER), on_step=on_step, after_validation=after)
    seconds = time.perf_counter() - began - watch.seconds
    return {
        **headline(watch, training),
        "learning_rate": lr,
        "trials": [one.to_record() for one in trials],
        "validation_accuracies": [1 - error for _, error in training.validations],
        "train_losses": training.losses,
        "matched_epoch": watch.matched_epoch,
        "flows": list(FLOWS),
        "checkpoints": watch.checkpoints,
        "pixel_mean": task.data.mean,
        "pixel_std": task.data.std,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_trials": round(seconds_trials, 3),
        "seconds_training": round(seconds, 3),
        "seconds_measuring": round(watch.seconds, 3),
    }


def task_of(config: Config) -> tuple[ImageTask, int]:
    """The images of a configuration, and how many steps an epoch has."""
    drawn = generator_for(config["seed"], DATA)
    data = load_images(config["data"]["name"], tuple(config["data"]["sizes"]), drawn, dtype_of(config))
    task = ImageTask(data.to(config["device"]), config["measurement"])
    return task, math.ceil(task.samples / config["training"]["batch_size"])


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
