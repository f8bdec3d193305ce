"""``structure``: layers that share or factor their weights, at equal multiply-adds: imposed sharing against learned.

A network of two hidden layers whose weights are dense, of low rank, a Kronecker product, a block tensor train (Qiu et
al., ICML 2024), equivariant under quarter turns (``hard``: sharing that is imposed), the sum of both (sharing that is
learned: ``soft`` under the library's rule, ``soft-fixed`` under a prior of fixed precisions), or convolutions that are
shared over positions, alone (``conv``) or with a low-rank residual (``soft-conv``). All have as many multiply-adds per
image, so that those with cheaper layers are wider.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from softeq import SoftConv2d
from softeq.errors import SofteqValueError
from softeq.experiments.data.quarters import BROKEN, DIGITS, DIGITS_SIDE, HALF, ROTATED, load_quarters, quarter_points
from softeq.experiments.engine.bookkeeping import counter, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.images.tasks import accuracy
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.quarters import QuarterTask, fitted, quarter_network
from softeq.experiments.phenomena.structured import STRUCTURES, width_within
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.plots import draw_figure, label_log
from softeq.experiments.show.tables import choose_preset
from softeq.experiments.training.arms import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from softeq.prior import soft_layers
from softeq.strength import DEFAULT

PIXELS, CLASSES, KERNEL = DIGITS_SIDE**2, 10, 3
BUDGETS = (4_000, 16_000, 64_000)
"""Multiply-adds per image."""
_COLOURS = (GREEN, GREY, PURPLE, ORANGE, BLUE, VERMILION, SKY, BLUE, VERMILION)
_DIAL = (ROTATED, HALF, BROKEN)
FIXED = "soft-fixed"
VARIANTS = (*STRUCTURES, "hard", "soft", FIXED, "conv", "soft-conv")
PRIOR = {"equivariant": 1e-3, "residual": 10.0}
"""Of ``soft-fixed``, precisions in nats for the whole data set: those of `connectivity`."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"seeds": 1, "sizes": [40, 20, 50], "budgets": [4_000], "steps": 10, "points": [HALF]},
    "default": {
        "seeds": 5,
        "sizes": [600, 200, 597],
        "budgets": list(BUDGETS),
        "steps": 300,
        "points": _DIAL,
    },
    "paper": {
        "seeds": 10,
        "sizes": [900, 300, 597],
        "budgets": list(BUDGETS),
        "steps": 1000,
        "points": _DIAL,
    },
}


def channels_within(budget: int, rank: int) -> int:
    """The most channels of two convolutions and a linear layer that cost at most ``budget``; see `conv_cost`.

    Raises:
        SofteqValueError: not even one fits.
    """
    channels = 0
    while conv_cost(channels + 1, rank) <= budget:
        channels += 1
    if not channels:
        raise SofteqValueError(f"budget: expected at least {conv_cost(1, rank)} multiply-adds, got {budget}")
    return channels


def conv_cost(channels: int, rank: int) -> int:
    """Multiply-adds per image: kernels of ``rank + 1`` times the channels, their weighted sums, the linear layer."""
    first = KERNEL**2 * channels * (rank + 1) * PIXELS
    weighted = 2 * rank * channels * PIXELS
    return first * (1 + channels) + weighted + channels * PIXELS * CLASSES


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size = SIZES[preset]
    learned = variant.startswith("soft") and variant != FIXED
    return {
        "data": {"source": DIGITS, "sizes": size["sizes"]},
        "points": [asdict(point) for point in size["points"]],
        "structure": variant,
        "budgets": size["budgets"],
        "rule": DEFAULT if learned else "fixed",
        **({"prior": PRIOR} if variant == FIXED else {}),
        "training": {"steps": size["steps"], "batch_size": 50, "lr": 1e-2, "validate_every": size["steps"]},
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def build(structure: str, budget: int) -> tuple[nn.Module, int]:
    """An untrained network for images ``(B, 1, 8, 8)``, and its multiply-adds per image.

    Raises:
        SofteqValueError: an unknown structure or a budget that is too small.
    """
    if structure in ("conv", "soft-conv"):
        rank = 1 if structure == "soft-conv" else 0
        channels = channels_within(budget, rank)
        return _convolutions(channels, "soft" if rank else "hard"), conv_cost(channels, rank)
    if structure in ("hard", "soft", FIXED):  # merged, a dense matrix
        width = width_within("dense", PIXELS, CLASSES, budget)
        model = quarter_network(DIGITS_SIDE, width // 4, structure.partition("-")[0], layers=2)
        return model, width * (PIXELS + width + CLASSES)
    width = width_within(structure, PIXELS, CLASSES, budget)
    make = STRUCTURES[structure]
    first, second, last = make(PIXELS, width), make(width, width), STRUCTURES["dense"](width, CLASSES)
    cost = first.multiply_adds + second.multiply_adds + last.multiply_adds
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last), cost


def _convolutions(channels: int, constraint: str) -> nn.Module:
    options: dict[str, Any] = {"size": DIGITS_SIDE, "padding": KERNEL // 2, "constraint": constraint}
    options |= {"residual": "lowrank", "rank": 1}
    return nn.Sequential(
        SoftConv2d(1, channels, KERNEL, **options),
        nn.ReLU(),
        SoftConv2d(channels, channels, KERNEL, **options),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * PIXELS, CLASSES),
    )


def _untrained(structure: str, budget: int) -> nn.Module:
    return build(structure, budget)[0]


def run(config: Config, progress: Progress) -> Metrics:
    """By point and budget: ``test_error`` in [0, 1], ``multiply_adds`` and ``parameters``."""
    step = counter(progress, len(config["points"]) * len(config["budgets"]) * config["training"]["steps"])
    metrics: Metrics = {}
    for point in quarter_points(config["points"]):
        data = load_quarters(config["data"]["source"], config["data"]["sizes"], point, config["seed"])
        task = QuarterTask(data)
        for budget in config["budgets"]:
            model = seeded(config, functools.partial(_untrained, config["structure"], budget))
            cost = build(config["structure"], budget)[1]
            soft = config["rule"] != "fixed" and any(True for _ in soft_layers(model))
            fitted(
                model,
                task,
                config["training"],
                config["seed"],
                rule=config["rule"] if soft else "fixed",
                prior=config.get("prior"),
                on_step=step,
            )
            metrics[f"test_error@{point.name}-{budget}"] = 1 - task.test(model)
            metrics[f"train_error@{point.name}-{budget}"] = 1 - accuracy(model, data.x_train, data.y_train)
            metrics[f"multiply_adds-{budget}"] = cost
            metrics[f"parameters-{budget}"] = sum(p.numel() for p in model.parameters())
    return metrics


def plot(records: list[dict[str, Any]], path: Any) -> None:
    """Test error over compute, a line for each structure and a panel for each point of the dial."""
    preset = choose_preset(records)
    mine = [r for r in records if r["preset"] == preset]
    held = {key for r in mine for key in r["metrics"]}
    points = [p.name for p in _DIAL if f"test_error@{p.name}-{BUDGETS[0]}" in held]
    draw_figure(path, (3.0 + 2.3 * len(points), 4.4), lambda axes: _draw(axes.figure, points, mine))


def _draw(figure: Any, points: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    figure.clear()
    handles: dict[str, Any] = {}
    places = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for panel, point in zip(places, points, strict=True):
        for k, variant in enumerate(VARIANTS):
            mine = [r["metrics"] for r in records if r["variant"] == variant]
            values = {b: [v for m in mine if (v := scalar(m, f"test_error@{point}-{b}")) is not None] for b in BUDGETS}
            drawn = [(mine[0][f"multiply_adds-{b}"], math.fsum(v) / len(v)) for b, v in values.items() if v]
            if drawn:
                x, y = zip(*drawn, strict=True)
                style: Any = {"color": _COLOURS[k], "ls": "--" if "conv" in variant else "-", "marker": "os^vDPpX*"[k]}
                handles[variant] = panel.plot(x, y, ms=4, lw=1.4, **style)[0]
        panel.set_xscale("log")
        panel.set_yscale("log")
        label_log(panel.yaxis, *panel.get_ylim())
        panel.set_xticks(BUDGETS, [f"{b // 1000}k" for b in BUDGETS])
        panel.minorticks_off()
        panel.set_xlabel("multiply-adds per image")
        panel.set_title(point, loc="left", fontsize=10)
        panel.grid(which="major")
    places[0].set_ylabel("test error, mean of seeds")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=9, fontsize=8)


_LARGE = BUDGETS[1]
EXPERIMENTS: dict[str, Experiment] = {
    "structure": Experiment(
        name="structure",
        summary="dense, factored, equivariant and soft layers at equal multiply-adds: imposed sharing against learned",
        variants=VARIANTS,
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            *(
                Column(f"test_error@{p}-{b}", f"test error, {p}, {b // 1000}k", ".3f")
                for p in ("half-broken", "rotated", "broken")
                for b in BUDGETS
            ),
            *(Column(f"train_error@half-broken-{b}", f"training error, {b // 1000}k", ".3f") for b in BUDGETS[1:]),
            *(Column(f"multiply_adds-{b}", f"multiply-adds, {b // 1000}k", ",d") for b in BUDGETS),
            Column(f"parameters-{_LARGE}", f"parameters, {_LARGE // 1000}k", ",d"),
        ),
        notes=(
            "Test error at budgets of 4, 16 and 64 thousand multiply-adds per image, 300 steps of Adam at one rate for"
            " all. hard, soft and soft-fixed: under quarter turns, as the dense matrices that they merge to; conv and"
            " soft-conv: under shifts. soft-fixed: precisions of .001 and 10, for the data as a whole.",
        ),
        plot=plot,
        group=GROUP,
    )
}
