"""One run of ``cifar10`` or ``fashion-mnist``: the paper's D-Conv or a twin of it, trained by SGD as published."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softeq import Prior, prior_penalty
from softeq.errors import SofteqValueError
from softeq.experiments.data.cifar10 import load_cifar10
from softeq.experiments.data.images import LabelledImages, load_images
from softeq.experiments.engine.bookkeeping import counter, generator_for
from softeq.experiments.engine.experiment import Config, Metrics, Progress
from softeq.experiments.images.classification import TrainSettings, train
from softeq.experiments.images.run import build_model
from softeq.experiments.images.trials import BestEpoch, Trained, Trial, flip_and_crop, measure
from softeq.experiments.training.fit import precision


def run(config: Config, progress: Progress) -> Metrics:
    """Train every trial, let validation data choose, measure. A training that diverges gives NaN, no exception.

    Raises:
        MissingExtraError: the data are not here.
        SofteqError: they are damaged; or a GPU is asked for where there is none.
    """
    if config["device"] == "cuda" and not torch.cuda.is_available():
        raise SofteqValueError("device: expected a GPU for this preset, found none; take --preset default")
    data = load(config).to(config["device"])
    steps = config["training"]["epochs"] * math.ceil(len(data.x_train) / config["training"]["batch_size"])
    on_step = counter(progress, steps * len(config["trials"]))
    return measure([train_trial(data, trial, config, on_step) for trial in config["trials"]], data, config)


def load(config: Config) -> LabelledImages:
    """The data of a configuration; its seed draws the training and validation images.

    Raises:
        MissingExtraError, SofteqError: as `run`.
    """
    name, sizes = config["data"]["name"], tuple(config["data"]["sizes"])
    drawn, dtype = generator_for(config["seed"], 1), getattr(torch, config["dtype"])
    return load_cifar10(sizes, drawn, dtype) if name == "cifar10" else load_images(name, sizes, drawn, dtype)


def train_trial(data: LabelledImages, trial: Trial, config: Config, on_step: Callable[[], None]) -> Trained:
    """Train from the configuration's start with the trial's ``lr``, ``equivariant_decay`` and ``residual_decay``."""
    model = build_model(config)
    how = config["training"]
    watch = BestEpoch(model, on_step)
    settings = TrainSettings(how["epochs"], how["batch_size"], trial["lr"], 0.0, how["warmup"], how["clip"])
    augmentation = generator_for(config["seed"], 3)

    def augmented(rows: Tensor) -> Tensor:
        return flip_and_crop(data.x_train[rows], config["crop"], -data.mean / data.std, augmentation)

    training = train(
        model,
        data,
        settings,
        generator_for(config["seed"], 2),
        after_epoch=watch.epoch,
        on_step=watch.step,
        penalty=penalty(model, trial, len(data.x_train)),
        images=augmented if config["augment"] else None,
        optimizer=torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=how["momentum"]),
    )
    return Trained(model, trial, training, watch)


def penalty(model: nn.Module, trial: Trial, n: int) -> Callable[[], Tensor]:
    """The prior's part of a mean loss over ``n`` images: decay times the squares of each pathway's parameters."""
    prior = Prior(precision(trial["equivariant_decay"], n), precision(trial["residual_decay"], n))
    return lambda: prior_penalty(model, prior) / n
