"""The figure of ``connectivity``: loss and weight defect along curves and lines, loss over volume of simplexes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from softeq.experiments.show.plots import BAND, draw_figure, label_log
from softeq.experiments.show.tables import choose_preset
from softeq.experiments.training.arms import BLUE, GREEN, ORANGE, SKY, VERMILION

_POINTS = ("rotated", "half-broken", "broken")
_COLOURS = {"hard": BLUE, "hard-by-soft": ORANGE, "hard-by-none": SKY, "soft": VERMILION, "none": GREEN}
PLACES = 21
"""Equally spaced, on every path, both ends among them."""


def plot(records: list[dict[str, Any]], path: Any) -> None:
    """By point of the dial: loss and weight defect along the curves, the lines' losses dotted; simplexes below."""
    preset = choose_preset(records)
    mine = [r for r in records if r["preset"] == preset]
    points = [p for p in _POINTS if any(f"losses_curve@{p}" in r["metrics"] for r in mine)]
    draw_figure(path, (3.0 + 2.3 * len(points), 7.8), lambda axes: _draw(axes.figure, points, mine))


def _draw(figure: Any, points: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    figure.clear()
    handles: dict[str, Any] = {}
    places = figure.subplots(3, len(points), sharey="row", squeeze=False)
    for (losses, defects, simplexes), point in zip(places.T, points, strict=True):
        for variant, colour in _COLOURS.items():
            mine = [r["metrics"] for r in records if r["variant"] == variant]
            held = functools.partial(_held, mine, point)
            _line(losses, held("losses_line"), colour, ":")
            handles |= {variant: _line(losses, held("losses_curve"), colour, "-")}
            _line(defects, held("defects_curve"), colour, "-")
            volumes, heights = held("simplex2_log_volume"), held("simplex2_loss")
            simplexes.scatter(volumes, heights, s=22, color=colour, alpha=0.8, linewidths=0)
        losses.set_yscale("log")
        label_log(losses.yaxis, *losses.get_ylim())
        losses.set_title(point, loc="left", fontsize=10)
        defects.set_xlabel("place on the path")
        simplexes.set_xlabel("log of the triangles' area")
        simplexes.grid(which="major")
    for axes, label in zip(
        places[:, 0], ("training loss, nats", "defect on the curve", "loss in the triangles, nats"), strict=True
    ):
        axes.set_ylabel(label)
    title: Any = {"title": f"curves; dotted: straight lines; {BAND}; below: a dot per seed", "title_fontsize": 8}
    drawn = {variant: line for variant, line in handles.items() if line is not None}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=5, fontsize=9, **title)


def _held(metrics: Sequence[Mapping[str, Any]], point: str, key: str) -> list[Any]:
    """A metric at a point, of the runs that have it: those of before there were simplexes have none of them."""
    return [m[f"{key}@{point}"] for m in metrics if f"{key}@{point}" in m]


def _line(axes: Any, values: Sequence[Sequence[float]], colour: str, style: str) -> Any:
    """The mean over seeds, with a band where the line is solid; None where there are no values."""
    if not values:
        return None
    x = [k / (PLACES - 1) for k in range(PLACES)]
    columns = list(zip(*values, strict=True))
    if style == "-":
        axes.fill_between(x, [min(v) for v in columns], [max(v) for v in columns], color=colour, alpha=0.08, lw=0)
    return axes.plot(x, [math.fsum(v) / len(v) for v in columns], style, color=colour, lw=1.5)[0]
