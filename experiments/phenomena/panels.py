"""Figures of the phenomena: panels side by side, in each a line per variant, the mean of its seeds in its colour."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softeq.errors import SofteqError
from softeq.experiments.engine.record import Record
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.plots import BAND, draw_arm, draw_figure, label_log
from softeq.experiments.show.tables import choose_preset
from softeq.experiments.training.arms import parse

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        ylabel: of the quantity.
        keys: metrics of the records, one for each place on the x axis.
        x: the places: numbers, or texts that stand side by side.
        xlabel, title: shown where they are not empty.
        logx, logy: whether an axis is logarithmic; values that are not positive are then left out.
        variants: some of those of the records; all by default.
    """

    ylabel: str
    keys: tuple[str, ...]
    x: tuple[float, ...] | tuple[str, ...]
    xlabel: str = ""
    title: str = ""
    logx: bool = False
    logy: bool = False
    variants: tuple[str, ...] = ()


Plot = Callable[[list[dict[str, Any]], Any], None]


def panels(*rows: Sequence[Panel], height: float = 2.9, width: float = 3.3) -> Plot:
    """The ``plot`` of an `Experiment` from its panels, row by row; ``height`` and ``width`` of one in inches."""
    return functools.partial(_plot, rows, (width, height))


def _plot(rows: Sequence[Sequence[Panel]], size: tuple[float, float], records: list[Record], path: str | Path) -> None:
    preset = choose_preset(records)
    mine = [r for r in records if r["preset"] == preset]
    columns = max(map(len, rows))
    whole = (size[0] * columns + 0.3, size[1] * len(rows) + 0.6)
    draw_figure(path, whole, lambda axes: _draw(axes, rows, mine))


def _draw(axes: Axes, rows: Sequence[Sequence[Panel]], records: Sequence[Record]) -> None:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise SofteqError("axes: expected axes of a figure")
    figure.clear()
    places = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
    handles: dict[str, Any] = {}
    for row, line in zip(rows, places, strict=True):
        for panel, place in zip(row, line[: len(row)], strict=True):
            handles |= _panel(place, panel, records)
        for place in line[len(row) :]:
            place.set_axis_off()
    handles = {v: handles[v] for v in dict.fromkeys(r["variant"] for r in records) if v in handles}
    if not handles:
        raise SofteqError("nothing to draw: no record has a finite value of what the figure shows")
    title: Any = {"title": BAND, "title_fontsize": 8}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=9, **title)


def _panel(axes: Axes, panel: Panel, records: Sequence[Record]) -> Mapping[str, Any]:
    handles, texts = {}, isinstance(panel.x[0], str)
    drawn: list[float] = []
    where = list(range(len(panel.x))) if texts else [float(x) for x in panel.x]
    for variant in panel.variants or tuple(dict.fromkeys(r["variant"] for r in records)):
        x, groups = [], []
        for place, key in zip(where, panel.keys, strict=True):
            values = [scalar(r["metrics"], key) for r in records if r["variant"] == variant]
            finite = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not panel.logy)]
            if finite:
                x.append(float(place))
                groups.append(finite)
                drawn += finite
        if groups:
            handles[variant] = draw_arm(axes, x, groups, parse(variant).arm)
    if texts:
        axes.set_xticks(where, [str(text) for text in panel.x], fontsize=8)
    if panel.logx:
        axes.set_xscale("log")
        label_log(axes.xaxis, min(map(float, panel.x)), max(map(float, panel.x)))
    if panel.logy and drawn:
        axes.set_yscale("log")
        label_log(axes.yaxis, min(drawn), max(drawn))
    axes.grid(which="major")
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    axes.set_title(panel.title, loc="left", fontsize=10)
    return handles
