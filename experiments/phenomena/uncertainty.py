"""``uncertainty``: ensembles, SWAG and Laplace of hard, soft, free and augmented networks; whose mean is equivariant?

Digits of 8 x 8 pixels, upright in training; tested upright and, as a shift that nobody was told of, at random quarter
turns. ``single``: the mean over the members of what is measured of each. ``ensemble``: the mean of their probabilities.
``swag`` and ``laplace`` are around the first member (`phenomena.swag`, `phenomena.laplace`). The equivariance error is
the total variation distance between the predictions at an image and at its quarter turns: Gerken and Kessel (ICML 2024)
have the mean of an augmented ensemble become equivariant although its members are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from softeq.experiments.data.images import LabelledImages
from softeq.experiments.data.quarters import UPRIGHT, QuarterPoint, load_quarters, quarter_turned
from softeq.experiments.engine.bookkeeping import MEASURE, counter, generator_for, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.benign import prior_variances
from softeq.experiments.phenomena.calibration import calibration_error, log_loss
from softeq.experiments.phenomena.curvature import plain
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.laplace import laplace
from softeq.experiments.phenomena.panels import Panel, panels
from softeq.experiments.phenomena.quarters import (
    QuarterTask,
    equivariance_error,
    fitted,
    probabilities,
    quarter_network,
)
from softeq.experiments.phenomena.swag import Swag
from softeq.experiments.training.arms import parse

ARMS = ("hard", "soft", "none", "none-augmented")
METHODS = ("single", "ensemble", "swag", "laplace")
SPLITS = ("upright", "rotated")
SIDE = 8
PRIORS = {
    "hard": {"equivariant": 1.0, "residual": 1.0},
    "soft": {"equivariant": 1.0, "residual": 10.0},
    "none": {"equivariant": 1.0, "residual": 1.0},
}
"""In nats for the whole data set, the same in training and in Laplace's approximation."""
Predict = Callable[[Tensor], Tensor]
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "seeds": 1,
        "members": 2,
        "sizes": (40, 10, 60),
        "network": {"width": 2},
        "training": {"steps": 20, "batch_size": 40, "lr": 2e-2, "validate_every": 20},
        "swag": {"steps": 10, "every": 2, "lr": 0.02, "rank": 4, "samples": 3},
    },
    "default": {
        "seeds": 5,
        "members": 3,
        "sizes": (300, 20, 400),
        "network": {"width": 4},
        "training": {"steps": 250, "batch_size": 100, "lr": 2e-2, "validate_every": 250},
        "swag": {"steps": 100, "every": 5, "lr": 0.05, "rank": 10, "samples": 10},
    },
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size, arm = SIZES[preset], parse(variant).arm
    return {
        "arm": arm.name,
        "augmented": arm.augment is not None,
        "members": size["members"],
        "data": {"source": "digits", "sizes": list(size["sizes"]), "point": asdict(UPRIGHT)},
        "network": {"side": SIDE, "constraint": arm.constraint, **size["network"]},
        "training": dict(size["training"]),
        "prior": dict(PRIORS[arm.constraint]),
        "swag": dict(size["swag"]),
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """``nll`` (nats), ``calibration`` and ``error`` ``@method-split``; ``equivariance@method``; ``evidence`` of the
    first member by Laplace's approximation, in nats (of the augmented arm, of its upright images)."""
    step = counter(progress, config["members"] * config["training"]["steps"] + config["swag"]["steps"])
    data = load_quarters(
        "digits", tuple(config["data"]["sizes"]), QuarterPoint(**config["data"]["point"]), config["seed"]
    )
    task = QuarterTask(data)
    members = [_member(config, task, k, step) for k in range(config["members"])]
    folded = plain(members[0])
    variances = prior_variances(config["network"]["constraint"], config["prior"])
    around = laplace(folded, data.x_train, data.y_train, *variances)
    ways: dict[str, list[Predict]] = {
        "single": [_of(member) for member in members],
        "ensemble": [mean_of([_of(member) for member in members])],
        "laplace": [lambda x: torch.cat([around(part, link_approx="probit") for part in x.split(100)]).double()],
        "swag": [_swag(config, task, members[0], step)],
    }
    metrics: Metrics = {"evidence": rounded(float(around.log_marginal_likelihood()))}
    for name, predictors in ways.items():
        metrics |= _measured(name, predictors, data)
    return metrics


def _member(config: Config, task: QuarterTask, k: int, step: Callable[[], None]) -> nn.Module:
    own = {**config, "seed": 1000 * (config["seed"] + 1) + k}
    model = seeded(own, lambda: quarter_network(**config["network"]))
    how: Any = {"prior": config["prior"], "augmented": config["augmented"], "on_step": step}
    fitted(model, task, config["training"], own["seed"], **how)
    return model


def _of(model: nn.Module) -> Predict:
    return lambda x: probabilities(model, x)


def mean_of(predictors: list[Predict]) -> Predict:
    """The mean of several predictions."""
    return lambda x: torch.stack([predict(x) for predict in predictors]).mean(0)


def _swag(config: Config, task: QuarterTask, model: nn.Module, step: Callable[[], None]) -> Predict:
    """Train on at a constant rate and draw networks; the model is left as it was."""
    how, before, done = config["swag"], parameters_to_vector(model.parameters()).detach().clone(), 0
    moments = Swag(how["rank"])

    def on_step() -> None:
        nonlocal done
        done += 1
        step()
        if done % how["every"] == 0:
            moments.take(parameters_to_vector(model.parameters()))

    training = {"steps": how["steps"], "lr": how["lr"], "batch_size": config["training"]["batch_size"]}
    training |= {"optimizer": "sgd", "schedule": "constant", "validate_every": how["steps"]}
    common: Any = {"prior": config["prior"], "augmented": config["augmented"], "on_step": on_step}
    fitted(model, task, training, config["seed"], **common)
    generator = generator_for(config["seed"], MEASURE)
    drawn = [moments.sample(generator).float() for _ in range(how["samples"])]

    def at(vector: Tensor) -> Predict:
        def predict(x: Tensor) -> Tensor:
            vector_to_parameters(vector, model.parameters())
            found = probabilities(model, x)
            vector_to_parameters(before, model.parameters())
            return found

        return predict

    vector_to_parameters(before, model.parameters())
    return mean_of([at(vector) for vector in drawn])


def _measured(name: str, predictors: list[Predict], data: LabelledImages) -> Metrics:
    turns = torch.randint(0, 4, (len(data.x_test),), generator=torch.Generator().manual_seed(0))
    found: Metrics = {}
    for split, x in (("upright", data.x_test), ("rotated", quarter_turned(data.x_test, turns))):
        p = [predict(x) for predict in predictors]
        found |= {
            f"nll@{name}-{split}": _mean([log_loss(one, data.y_test) for one in p]),
            f"calibration@{name}-{split}": _mean([calibration_error(one, data.y_test) for one in p]),
            f"error@{name}-{split}": _mean([float((one.argmax(1) != data.y_test).double().mean()) for one in p]),
        }
    return found | {f"equivariance@{name}": _mean([equivariance_error(predict, data.x_test) for predict in predictors])}


def _mean(values: list[float]) -> float:
    return rounded(math.fsum(values) / len(values))


def _panel(key: str, label: str, split: str, **how: Any) -> Panel:
    tail = f"-{split}" if split else ""
    return Panel(label, tuple(f"{key}@{m}{tail}" for m in METHODS), METHODS, title=how.pop("title", split), **how)


EXPERIMENTS: dict[str, Experiment] = {
    "uncertainty": Experiment(
        name="uncertainty",
        summary="deep ensembles, SWAG and Laplace of hard, soft, free and augmented networks, upright and rotated",
        variants=ARMS,
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            *(Column(f"nll@{m}-upright", f"NLL, {m}", ".3f") for m in METHODS),
            *(Column(f"nll@{m}-rotated", f"NLL rotated, {m}", ".3f") for m in METHODS),
            *(Column(f"calibration@{m}-upright", f"calibration, {m}", ".3f") for m in METHODS),
            *(Column(f"equivariance@{m}", f"equivariance error, {m}", ".3f") for m in METHODS),
            Column("evidence", "log evidence, Laplace", ".0f"),
        ),
        notes=(
            "NLL: nats per image. Calibration: the expected calibration error over ten bins.",
            "Trained on 300 upright digits. single: means over the three members.",
        ),
        plot=panels(
            [_panel("nll", "NLL, nats", "upright", logy=True), _panel("nll", "NLL, nats", "rotated", logy=True)],
            [
                _panel("calibration", "calibration error", "upright"),
                _panel("equivariance", "equivariance error", "", title="TV distance after quarter turns"),
            ],
        ),
        group=GROUP,
    )
}
