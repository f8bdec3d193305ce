"""``connectivity``: paths and simplexes between two solutions, hard, soft and free; how sharp they are, and their mean.

Two networks are joined by a straight line and by a Bezier curve with one bend that is trained to have a low loss
(Garipov et al., NeurIPS 2018), and by two triangles with a common side, as large as their loss lets them be (Benton et
al., ICML 2021). ``hard`` joins two hard networks within the hard ones, ``soft`` two soft ones at the price of a prior
on what is not equivariant, ``none`` two free ones; ``hard-by-soft`` and ``hard-by-none`` join the two hard networks by
what may leave the hard ones. On each: the loss, the test error and the weight defect. Beside them: how sharp the first
solution is, and the mean of its last steps' weights (SWA: Izmailov et al., 2018).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from softeq.experiments.data.images import LabelledImages
from softeq.experiments.data.quarters import (
    BROKEN,
    DIGITS,
    DIGITS_SIDE,
    HALF,
    ROTATED,
    load_quarters,
    orbits,
    quarter_points,
)
from softeq.experiments.engine.bookkeeping import MEASURE, ORDER, counter, generator_for, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena import connectivity_figure, paths
from softeq.experiments.phenomena.connectivity_figure import PLACES
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.quarters import QuarterTask, fitted, quarter_network
from softeq.experiments.phenomena.simplexes import Simplexes, spanned

_POINTS = (ROTATED, HALF, BROKEN)
VARIANTS: Mapping[str, tuple[str, str]] = {
    "hard": ("hard", "hard"),
    "hard-by-soft": ("hard", "soft"),
    "hard-by-none": ("hard", "none"),
    "soft": ("soft", "soft"),
    "none": ("none", "none"),
}
"""Of the ends and of what joins them: a constraint."""
PRECISION = 10.0
"""Of the prior on what is not equivariant, where ends or what joins them are soft, in nats for the whole data set."""
REWARD = 0.02
"""Of a simplex, nats per image for every e-fold of its volume."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"seeds": 1, "sizes": [40, 20, 50], "width": 4, "steps": 20, "points": [ROTATED]},
    "default": {"seeds": 5, "sizes": [300, 100, 597], "width": 8, "steps": 150, "points": _POINTS},
    "paper": {"seeds": 10, "sizes": [900, 300, 597], "width": 32, "steps": 1000, "points": _POINTS},
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size, (ends, path) = SIZES[preset], VARIANTS[variant]
    return {
        "data": {"source": DIGITS, "sizes": size["sizes"]},
        "points": [asdict(point) for point in size["points"]],
        "network": {"side": DIGITS_SIDE, "width": size["width"], "constraint": ends},
        "path": path,
        "precision": PRECISION,
        "training": {"steps": size["steps"], "batch_size": 50, "lr": 1e-2, "validate_every": size["steps"]},
        "averaged": {"steps": size["steps"] // 4, "rate": 1e-3},
        "simplexes": {"connectors": 2, "reward": REWARD, "places": 50},
        "sharpness": 0.1,
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """By point: see `_joined`."""
    trained = 3 + config["simplexes"]["connectors"]
    steps = trained * config["training"]["steps"] + config["averaged"]["steps"]
    step = counter(progress, len(config["points"]) * steps)
    metrics: Metrics = {}
    for point in quarter_points(config["points"]):
        data = load_quarters(config["data"]["source"], config["data"]["sizes"], point, config["seed"])
        found = _joined(config, data, step)
        metrics |= {f"{key}@{point.name}": value for key, value in found.items()}
    return metrics


@dataclass(frozen=True)
class Judge:
    """What is measured of weights: ``loss`` on training images (nats), ``error`` on test images (in [0, 1]).

    Args:
        data: the images.
        project: onto what is equivariant, for the ``defect``.
    """

    data: LabelledImages
    project: Callable[[paths.Weights], paths.Weights]

    def pixels(self, part: str) -> Tensor:
        """Images of a split, ``(n, 64)`` by orbit."""
        images: Tensor = getattr(self.data, f"x_{part}")
        return images.flatten(1)[:, orbits(DIGITS_SIDE)]

    @functools.cached_property
    def _inputs(self) -> tuple[Tensor, Tensor]:
        return self.pixels("train"), self.pixels("test")

    @torch.no_grad()
    def loss(self, weights: paths.Weights) -> float:
        """See the class."""
        return float(cross_entropy(paths.outputs(weights, self._inputs[0]), self.data.y_train))

    @torch.no_grad()
    def predicted(self, weights: paths.Weights) -> Tensor:
        """Probabilities of the test images' classes, ``(n, classes)``."""
        return paths.outputs(weights, self._inputs[1]).softmax(1)

    def wrong(self, probabilities: Tensor) -> float:
        """The share of the test images whose most probable class is wrong."""
        return 1 - float((probabilities.argmax(1) == self.data.y_test).double().mean())

    def error(self, weights: paths.Weights) -> float:
        """See the class."""
        return self.wrong(self.predicted(weights))

    def defect(self, weights: paths.Weights) -> float:
        """See `paths.defect`."""
        return paths.defect(weights, self.project)


def _joined(config: Config, data: LabelledImages, step: Callable[[], None]) -> Metrics:
    """What is measured of the ends, of the line and the curve between them, and of simplexes."""
    judge = Judge(data, paths.projection(quarter_network(**config["network"] | {"constraint": "hard"})))
    first, averaged = _trained(config, data, config["seed"], step, averaging=True)
    second, _ = _trained(config, data, config["seed"] + 1000, step, averaging=False)
    ends, how = (first, second), config["simplexes"]
    bend = paths.bent(ends, _search(config, judge, ORDER, step))
    found = spanned(ends, how["connectors"], _search(config, judge, ORDER + 200, step), how["reward"])
    metrics: Metrics = {"error_ends": rounded(judge.error(first) / 2 + judge.error(second) / 2)}
    for name, through in (("line", paths.middle(ends)), ("curve", bend)):
        metrics |= _on_the_path(functools.partial(paths.bezier, ends, through), judge, name)
    for k in range(1, len(found.connectors) + 1):
        metrics |= _in_simplexes(Simplexes(ends, found.connectors[:k]), judge, config, f"simplex{k}")
    return metrics | _of_the_first(config, judge, first, averaged)


def _search(config: Config, judge: Judge, stream: int, step: Callable[[], None]) -> paths.Search:
    x, y, how = judge.pixels("train"), judge.data.y_train, config["training"]
    return paths.Search(
        lambda weights, rows: cross_entropy(paths.outputs(weights, x[rows]), y[rows]),
        len(x),
        steps=how["steps"],
        rate=how["lr"],
        batch=how["batch_size"],
        generator=generator_for(config["seed"], stream),
        project=judge.project,
        precision={"hard": math.inf, "soft": config["precision"], "none": 0.0}[config["path"]],
        on_step=step,
    )


def _on_the_path(path: Callable[[float], paths.Weights], judge: Judge, name: str) -> Metrics:
    losses, errors, defects = (paths.along(path, m, PLACES) for m in (judge.loss, judge.error, judge.defect))
    return {
        f"barrier_{name}": rounded(paths.barrier(losses)),
        f"worst_error_{name}": rounded(max(errors)),
        f"largest_defect_{name}": rounded(max(defects)),
        f"losses_{name}": [rounded(v) for v in losses],
        f"defects_{name}": [rounded(v) for v in defects],
    }


def _in_simplexes(found: Simplexes, judge: Judge, config: Config, name: str) -> Metrics:
    generator = generator_for(config["seed"], MEASURE + 200)
    places = [found.place(generator) for _ in range(config["simplexes"]["places"])]
    losses, errors, defects = ([measure(w) for w in places] for measure in (judge.loss, judge.error, judge.defect))
    lines = [functools.partial(paths.bezier, edge, paths.middle(edge)) for edge in found.edges()]
    mean = torch.stack([judge.predicted(w) for w in places]).mean(0)
    return {
        f"{name}_loss": rounded(math.fsum(losses) / len(losses)),
        f"{name}_worst_loss": rounded(max(losses)),
        f"{name}_error": rounded(math.fsum(errors) / len(errors)),
        f"{name}_error_ensemble": rounded(judge.wrong(mean)),
        f"{name}_defect": rounded(math.fsum(defects) / len(defects)),
        f"{name}_largest_defect": rounded(max(defects)),
        f"{name}_log_volume": rounded(found.relative_log_volume),
        f"{name}_barrier": rounded(max(paths.barrier(paths.along(line, judge.loss, PLACES)) for line in lines)),
    }


def _of_the_first(config: Config, judge: Judge, first: paths.Weights, averaged: paths.Weights) -> Metrics:
    sharp = functools.partial(paths.sharpness, measure=judge.loss, size=config["sharpness"])
    return {
        "error": judge.error(first),
        "error_averaged": judge.error(averaged),
        "sharpness": rounded(sharp(first, generator=generator_for(config["seed"], MEASURE))),
        "sharpness_averaged": rounded(sharp(averaged, generator=generator_for(config["seed"], MEASURE))),
    }


def _trained(
    config: Config, data: LabelledImages, seed: int, step: Callable[[], None], *, averaging: bool
) -> tuple[paths.Weights, paths.Weights]:
    """A solution, and the mean of the weights after each of some more steps at a constant rate from there."""
    model = seeded(config | {"seed": seed}, lambda: quarter_network(**config["network"]))
    task = QuarterTask(data)
    prior = (
        {"equivariant": 1e-3, "residual": config["precision"]} if config["network"]["constraint"] == "soft" else None
    )
    fitted(model, task, config["training"], seed, prior=prior, on_step=step)
    last = paths.merged(model)
    if not averaging:
        return last, last
    mean, more = AveragedModel(model), config["averaged"]
    optimizer = torch.optim.SGD(model.parameters(), lr=more["rate"], momentum=0.9)
    order = generator_for(seed, ORDER + 1)
    model.train()
    # Not `training.loop`, which passes over the samples: here every batch is drawn from all of them.
    for _ in range(more["steps"]):
        rows = torch.randperm(task.samples, generator=order)[: config["training"]["batch_size"]]
        optimizer.zero_grad()
        task.loss(model, rows, None)[0].backward()
        optimizer.step()
        mean.update_parameters(model)
        step()
    return last, paths.merged(mean.module)


_HEADERS = {
    "barrier_line": ("barrier of the line", ".3f"),
    "barrier_curve": ("barrier of the curve", ".4f"),
    "error_ends": ("test error at the ends", ".3f"),
    "worst_error_curve": ("worst test error on the curve", ".3f"),
    "largest_defect_curve": ("largest defect on the curve", ".3f"),
    "simplex2_loss": ("loss in the triangles", ".3f"),
    "simplex2_log_volume": ("log of their area", ".2f"),
    "simplex2_barrier": ("barrier of their sides", ".3f"),
    "simplex2_error": ("test error in the triangles", ".3f"),
    "simplex2_error_ensemble": ("test error of the mean of 50", ".3f"),
    "simplex2_defect": ("defect in the triangles", ".3f"),
    "sharpness": ("sharpness", ".3f"),
    "error_averaged": ("test error of the mean of weights", ".3f"),
}
_MOST = tuple(_HEADERS)[:-2]
_FEWER = ("barrier_curve", "largest_defect_curve", "simplex2_loss", "simplex2_log_volume", "simplex2_error_ensemble")

EXPERIMENTS: dict[str, Experiment] = {
    "connectivity": Experiment(
        name="connectivity",
        summary="lines, curves and simplexes between two solutions: hard, soft, free, hard ones joined by soft ones",
        variants=tuple(VARIANTS),
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=tuple(
            Column(f"{key}@{point.name}", f"{header}, {point.name}", form)
            for point, keys in zip(_POINTS, (_HEADERS, _FEWER, _MOST), strict=True)
            for key, (header, form) in _HEADERS.items()
            if key in keys
        ),
        notes=(
            "Barrier: how far the training loss (nats per image) rises above the line between the ends' losses."
            " Sharpness: its rise when every weight is changed at random by a tenth of its norm.",
            "Triangles: two, one from each solution, with a common side; means over 50 places. Their area in units of"
            " the squared distance of the solutions.",
        ),
        plot=connectivity_figure.plot,
        group=GROUP,
    )
}
