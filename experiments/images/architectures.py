"""CNN against ViT: which one does training make more equivariant, and does the answer depend on the stencil?

Gruver, Finzi, Goldblum, Wilson (ICLR 2023) find that transformers can be more translation-equivariant than
convolutional networks after training. Their derivative is taken at a kink of bilinear resampling; here the same
networks are measured with that stencil (``reference``) and with two that have no kink (``bspline``, ``central``):
before, during and after training, and at the first epoch at which each reaches a common validation accuracy. A seed
draws the training and validation images, the initialisation and the order; test and measured images are the same for
all.

All follow docs/protocol.md: each trains until its validation error has stopped improving, under one cap in epochs,
not in compute: a step costs them .017 to .046 s of one core. The learning rate rises over the first
epoch, stays, and falls over the last quarter. It is chosen per model and seed on validation data, in two stages: trials
are the training itself under a cap of a few epochs, with a further rate where the best stands at an edge of its list;
the two best are trained at full length. All at full length would double the compute again, and trials alone lean to
high rates, at which a long training ends worse. The arms are networks, not constraints, so that `training.tune` does
not apply.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from softeq.experiments.data.images import SIZE, default_dataset
from softeq.experiments.engine.bookkeeping import counter, device_for, rounded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.images.architecture_plots import plot_architectures
from softeq.experiments.images.checkpoints import Checkpoints, headline
from softeq.experiments.images.cifar10 import build_network, load
from softeq.experiments.images.cnns_and_vits import NETWORKS, OUTPUTS, STENCILS
from softeq.experiments.images.tasks import ImageTask
from softeq.experiments.training.comparison import PROTOCOL, Size
from softeq.experiments.training.trials import Trained, Trial, choose, train_trial
from softeq.measure.motion.flows import FLOWS

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
"""Tried first, in rising order; `tried_rates` goes on from there."""
MEASURED_EPOCHS = (0, 1, 2, 4, 8, 16, 32)
"""Measured where a training comes so far; beside them the first at the common accuracy, and the last."""

_FASHION, _DIGITS = "fashion-mnist", "mnist-5000"


def _size(
    seeds: int,
    rows: Mapping[str, list[int]],
    target: Mapping[str, float],
    epochs: Mapping[str, float],
    measured: int,
    rates: tuple[tuple[float, ...], int, int] = (LEARNING_RATES, 3, 2),
) -> Size:
    """A preset: rows and target (a validation accuracy) by data set; ``epochs`` see `configure`; the images that are
    measured; the learning rates, how often their list may be extended, and how many of them are trained at full length.
    """
    data = {"rows": rows, "target": target, "rates": list(rates[0]), "extensions": rates[1], "finalists": rates[2]}
    return Size(seeds, {}, data, epochs, measured=measured)


_EPOCHS = {"epochs": 40, "trial_epochs": 4, "warmup_epochs": 1, "equal_epochs": 10}


SIZES: Mapping[str, Size] = {
    "smoke": _size(
        1,
        {_FASHION: [300, 100, 100], _DIGITS: [300, 100, 100]},
        {_FASHION: 0.3, _DIGITS: 0.3},
        {"epochs": 2, "trial_epochs": 1, "warmup_epochs": 0.2, "equal_epochs": 1},
        4,
        ((3e-3, 1e-2), 0, 1),
    ),
    "default": _size(
        10,
        {_FASHION: [5_000, 1_000, 5_000], _DIGITS: [3_200, 800, 1_000]},
        {_FASHION: 0.78, _DIGITS: 0.9},
        _EPOCHS,
        50,
    ),
    "paper": _size(
        10,
        {_FASHION: [50_000, 10_000, 10_000], _DIGITS: [3_200, 800, 1_000]},
        {_FASHION: 0.88, _DIGITS: 0.95},
        _EPOCHS,
        500,
    ),
}

_SCHEDULE = {"schedule": "plateau", "patience": 5, "cooldown": 0.25}


def configure(preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run, on the data set that is installed (`default_dataset`).

    ``epochs`` is the cap of a training, ``trial_epochs`` that of a trial of a learning rate, ``warmup_epochs`` how long
    the rate rises in both, and ``equal_epochs`` when the test accuracy is taken for a comparison at equal steps.

    Raises:
        MissingExtraError: no data set is installed.
    """
    size, data = SIZES[preset], default_dataset()
    how = size.data
    return {
        "protocol": 0 if preset == "smoke" else PROTOCOL,  # its cap is too low for a plateau
        "data": {"name": data, "sizes": list(how["rows"][data])},
        "network": {"size": list(SIZE), **NETWORKS[variant]},
        "training": {"batch_size": 64, "optimizer": "adamw", "weight_decay": 0.01, "clip": 1.0, **_SCHEDULE},
        **size.training,
        "learning_rates": list(how["rates"]),
        "extensions": how["extensions"],
        "finalists": how["finalists"],
        "target_accuracy": how["target"][data],
        "measurement": {
            "images": size.measured,
            "epochs": list(MEASURED_EPOCHS),
            "stencils": list(STENCILS),
            "outputs": list(OUTPUTS),
            "boundary": "mirror",
            "margin": 0,
            "batch_size": 50,
            "seed": 0,
        },
        "seed": seed,
        "device": device_for(preset),
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """Choose the learning rate, train, measure at the checkpoints. A training that diverges gives NaN, no exception."""
    task, per_epoch = task_of(config)
    short, whole = (settings_of(config, per_epoch, trial=trial) for trial in (True, False))
    total = short["steps"] * (len(config["learning_rates"]) + config["extensions"])
    total += whole["steps"] * config["finalists"]
    on_step = counter(progress, total)

    def tried(lr: float) -> Trained:
        return train_trial(
            task, lambda: build_network(config), _trial(lr), {**config, **_PLAIN, "training": short}, on_step
        )

    began = time.perf_counter()
    trials = tried_rates(tried, config["learning_rates"], config["extensions"])
    seconds_trials = time.perf_counter() - began
    rates = [one.trial["lr"] for one in trials]
    best = sorted(trials, key=lambda one: one.error)[: config["finalists"]]
    finals = [watched(config, task, per_epoch, one.trial["lr"], on_step) for one in best]
    chosen, watch = finals[choose([one for one, _ in finals])]
    training = chosen.training
    progress(total, total)
    return {
        **headline(watch, training),
        **training.to_record(),
        "epochs": epoch_of(training.steps, per_epoch),
        "learning_rate": chosen.trial["lr"],
        "learning_rate_at_edge": int(chosen.trial["lr"] in (rates[0], rates[-1])),
        "trials": [one.to_record() for one in trials],
        "finals": [one.to_record() for one, _ in finals],
        "matched_epoch": watch.matched_epoch,
        "flows": list(FLOWS),
        "checkpoints": watch.checkpoints,
        "pixel_mean": task.data.mean,
        "pixel_std": task.data.std,
        "parameters": sum(p.numel() for p in chosen.model.parameters()),
        "training_seconds": rounded(training.steps * training.seconds_per_step),
        "seconds_trials": round(seconds_trials, 3),
        "seconds_measuring": round(sum(one.seconds for _, one in finals), 3),
    }


def watched(
    config: Config, task: ImageTask, per_epoch: int, lr: float, on_step: Callable[[], None]
) -> tuple[Trained, Checkpoints]:
    """A training at full length with what was measured on its way."""
    model = build_network(config)
    watch = Checkpoints(model, task.data, config)
    watch(0, 1 - task.validation_error(model))

    def after(step: int, error: float) -> None:
        watch(epoch_of(step, per_epoch), 1 - error)

    how = {**config, **_PLAIN, "training": settings_of(config, per_epoch)}
    one = train_trial(task, lambda: model, _trial(lr), how, on_step, after)
    if not one.training.diverged_at_step:
        watch.finish()
    return one, watch


_PLAIN = {"rule": "fixed", "augment": None}


def _trial(lr: float) -> Trial:
    return {"lr": lr, "prior": None}


def tried_rates(attempt: Callable[[float], Trained], rates: Sequence[float], extensions: int) -> list[Trained]:
    """Try learning rates; while the best stands at an edge of the list, try a further one there.

    Args:
        attempt: trains with a rate.
        rates: in rising order; a single one is no list and is not extended.
        extensions: the most further rates.

    Returns:
        The trials in rising order of the rate. Where all diverged, lower rates are the further ones.
    """
    trials = [attempt(lr) for lr in rates]
    for _ in range(extensions if len(trials) > 1 else 0):
        place = choose(trials)
        if 0 < place < len(trials) - 1:
            break
        edge, beside = (trials[k].trial["lr"] for k in ((0, 1) if place == 0 else (-1, -2)))
        further = attempt(rounded(edge * edge / beside))
        trials = [further, *trials] if place == 0 else [*trials, further]
    return trials


def settings_of(config: Config, per_epoch: int, *, trial: bool = False) -> dict[str, Any]:
    """Fields of `LoopSettings` but the rate, of a training or of a trial: the same under another cap, and no test."""
    epochs = config["trial_epochs" if trial else "epochs"]
    return {
        **config["training"],
        "steps": epochs * per_epoch,
        "validate_every": per_epoch,
        "warmup": config["warmup_epochs"] / epochs,
        "equal_steps": None if trial else config["equal_epochs"] * per_epoch,
    }


def epoch_of(step: int, per_epoch: int) -> float:
    """The epochs done after a step; a fall of the rate may end within one."""
    whole, rest = divmod(step, per_epoch)
    return rounded(step / per_epoch) if rest else whole


def task_of(config: Config) -> tuple[ImageTask, int]:
    """The images of a configuration, and how many steps an epoch has."""
    task = ImageTask(load(config), config["measurement"])
    return task, math.ceil(task.samples / config["training"]["batch_size"])


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
            Column("test_accuracy_equal_steps", "equal steps", ".3f"),
            Column("translation_lee_bspline", "translation LEE, B-spline"),
            Column("translation_lee_central", "central"),
            Column("translation_lee_reference", "reference"),
            Column("translation_ratio_bspline", "B-spline over noise"),
            Column("matched_translation_lee_bspline", "at matched accuracy, B-spline"),
            Column("matched_translation_lee_reference", "at matched accuracy, reference"),
            Column("epochs", "epochs", ".1f"),
            Column("training_seconds", "training, s", ".0f"),
            Column("learning_rate", "learning rate", ".2g"),
            Column("learning_rate_at_edge", "rate at the edge of its list, share of runs", ".2f"),
        ),
        notes=(
            "LEE: mean over images of ||Lf||^2 / ||f||^2 of the logits, per squared pixel, mean of both translations.",
            "Over noise: the median over images of LEE over that of a random tangent of the same size.",
            "Matched accuracy: the first epoch that reaches the common validation accuracy in config.target_accuracy.",
            "Learning rates: chosen per model and seed on validation data: short trials, further ones where the best"
            " stands at an edge of the list, then the two best at full length.",
            "Training, s: of the chosen training alone.",
        ),
        protocol=PROTOCOL,
        plot=plot_architectures,
    )
}
