"""``connectivity``: paths between two solutions, from other starts and batches, hard, soft and free; and their mean.

Two networks are joined by a straight line and by a Bezier curve with one bend that is trained to have a low loss
(Garipov et al., NeurIPS 2018). ``hard`` joins two hard networks within the hard ones, ``soft`` two soft ones at the
price of a prior on what is not equivariant, ``none`` two free ones; ``hard-by-soft`` and ``hard-by-none`` join the two
hard networks by a path that may leave the hard ones. Along each path: the loss, the test error and the weight defect.
Beside them: how sharp the first solution is, and the mean of its last steps' weights (SWA: Izmailov et al., 2018).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
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
    ROTATED,
    load_quarters,
    orbits,
    quarter_points,
)
from softeq.experiments.engine.bookkeeping import MEASURE, ORDER, counter, generator_for, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena import paths
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.quarters import QuarterTask, fitted, quarter_network
from softeq.experiments.show.plots import BAND, draw_figure
from softeq.experiments.show.tables import choose_preset
from softeq.experiments.training.arms import BLUE, GREEN, ORANGE, SKY, VERMILION

_POINTS = ("rotated", "broken")
_COLOURS = {"hard": BLUE, "hard-by-soft": ORANGE, "hard-by-none": SKY, "soft": VERMILION, "none": GREEN}
VARIANTS: Mapping[str, tuple[str, str]] = {
    "hard": ("hard", "hard"),
    "hard-by-soft": ("hard", "soft"),
    "hard-by-none": ("hard", "none"),
    "soft": ("soft", "soft"),
    "none": ("none", "none"),
}
"""Of the ends and of the path: a constraint."""
PRECISION = 10.0
"""Of the prior on what is not equivariant, for soft ends and soft paths, in nats for the whole data set."""
PLACES = 21
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"seeds": 1, "sizes": [40, 20, 50], "width": 4, "steps": 20, "points": [ROTATED]},
    "default": {"seeds": 5, "sizes": [300, 100, 597], "width": 8, "steps": 150, "points": [ROTATED]},
    "paper": {"seeds": 10, "sizes": [900, 300, 597], "width": 32, "steps": 1000, "points": [ROTATED, BROKEN]},
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
        "sharpness": 0.1,
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """By point: see `_joined`."""
    steps = 3 * config["training"]["steps"] + config["averaged"]["steps"]
    step = counter(progress, len(config["points"]) * steps)
    metrics: Metrics = {}
    for point in quarter_points(config["points"]):
        data = load_quarters(config["data"]["source"], config["data"]["sizes"], point, config["seed"])
        found = _joined(config, data, step)
        metrics |= {f"{key}@{point.name}": value for key, value in found.items()}
    return metrics


@dataclass(frozen=True)
class Judge:
    """What is measured of weights: ``loss`` on training images (nats), ``error`` on test images (in [0, 1])."""

    data: LabelledImages

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
    def error(self, weights: paths.Weights) -> float:
        """See the class."""
        right = paths.outputs(weights, self._inputs[1]).argmax(1) == self.data.y_test
        return 1 - float(right.double().mean())


def _joined(config: Config, data: LabelledImages, step: Callable[[], None]) -> Metrics:
    """Losses and errors at the ends, their worst on the line and on the curve, defects, sharpness, and SWA."""
    judge, how = Judge(data), config["training"]
    first, averaged = _trained(config, data, config["seed"], step, averaging=True)
    second, _ = _trained(config, data, config["seed"] + 1000, step, averaging=False)
    ends = first, second
    project = paths.projection(quarter_network(**config["network"] | {"constraint": "hard"}))
    bend = paths.bent(
        ends,
        judge.pixels("train"),
        data.y_train,
        steps=how["steps"],
        rate=how["lr"],
        batch=how["batch_size"],
        generator=generator_for(config["seed"], ORDER),
        project=project,
        precision={"hard": math.inf, "soft": config["precision"], "none": 0.0}[config["path"]],
        on_step=step,
    )
    metrics: Metrics = {}
    defect = functools.partial(paths.defect, project=project)
    for name, through in (("line", paths.middle(ends)), ("curve", bend)):
        path = functools.partial(paths.bezier, ends, through)
        losses, errors, defects = (paths.along(path, m, PLACES) for m in (judge.loss, judge.error, defect))
        metrics |= {
            f"barrier_{name}": rounded(paths.barrier(losses)),
            f"worst_error_{name}": rounded(max(errors)),
            f"largest_defect_{name}": rounded(max(defects)),
            f"losses_{name}": [rounded(v) for v in losses],
            f"defects_{name}": [rounded(v) for v in defects],
        }
    return (
        metrics
        | _of_the_first(config, judge, first, averaged)
        | {"error_ends": rounded(errors[0] / 2 + errors[-1] / 2)}
    )


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
    for _ in range(more["steps"]):
        rows = torch.randperm(task.samples, generator=order)[: config["training"]["batch_size"]]
        optimizer.zero_grad()
        task.loss(model, rows, None)[0].backward()
        optimizer.step()
        mean.update_parameters(model)
        step()
    return last, paths.merged(mean.module)


def plot(records: list[dict[str, Any]], path: Any) -> None:
    """Loss and weight defect along the curves, the lines' losses beside them, dotted."""
    preset = choose_preset(records)
    mine = [r for r in records if r["preset"] == preset]
    draw_figure(path, (7.2, 5.6), lambda axes: _draw(axes, mine))


def _draw(axes: Any, records: Sequence[Mapping[str, Any]]) -> None:
    figure = axes.figure
    figure.clear()
    handles: dict[str, Any] = {}
    points = [p for p in _POINTS if any(f"losses_curve@{p}" in r["metrics"] for r in records)]
    x = [k / (PLACES - 1) for k in range(PLACES)]
    places = figure.subplots(2, len(points), sharex=True, sharey="row", squeeze=False)
    for column, point in zip(places.T, points, strict=True):
        for panel, key in zip(column, ("losses", "defects"), strict=True):
            for variant, colour in _COLOURS.items():
                for name, style in (("curve", "-"), ("line", ":")):
                    lines = _lines(records, variant, f"{key}_{name}@{point}")
                    if not lines or (key == "defects" and name == "line"):
                        continue
                    mean = [math.fsum(v) / len(v) for v in zip(*lines, strict=True)]
                    drawn = panel.plot(x, mean, style, color=colour, lw=1.5)[0]
                    if name == "curve":
                        handles[variant] = drawn
                        low, high = zip(*((min(v), max(v)) for v in zip(*lines, strict=True)), strict=True)
                        panel.fill_between(x, low, high, color=colour, alpha=0.08, lw=0)
        column[0].set_yscale("log")
        column[0].set_title(point, loc="left", fontsize=10)
        column[1].set_xlabel("place on the path")
    places[0, 0].set_ylabel("training loss, nats")
    places[1, 0].set_ylabel("weight defect on the curve")
    title: Any = {"title": f"curves; dotted: straight lines; {BAND}", "title_fontsize": 8}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=9, **title)


def _lines(records: Sequence[Mapping[str, Any]], variant: str, key: str) -> list[list[float]]:
    return [r["metrics"][key] for r in records if r["variant"] == variant and key in r["metrics"]]


EXPERIMENTS: dict[str, Experiment] = {
    "connectivity": Experiment(
        name="connectivity",
        summary="lines and curves between two solutions: hard, soft, free, and hard ones joined by a soft path",
        variants=tuple(VARIANTS),
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=tuple(
            Column(f"{key}@{point}", f"{header}, {point}", form)
            for point in _POINTS
            for key, header, form in (
                ("barrier_line", "barrier of the line", ".3f"),
                ("barrier_curve", "of the curve", ".4f"),
                ("error_ends", "test error at the ends", ".3f"),
                ("worst_error_curve", "worst on the curve", ".3f"),
                ("largest_defect_curve", "largest defect on the curve", ".3f"),
                ("sharpness", "sharpness", ".3f"),
                ("error_averaged", "error of the mean of weights", ".3f"),
            )
        ),
        notes=(
            "Barrier: how far the training loss (nats per image) rises above the line between the ends' losses."
            " Sharpness: its rise when every weight is changed at random by a tenth of its norm.",
        ),
        plot=plot,
        group=GROUP,
    )
}
