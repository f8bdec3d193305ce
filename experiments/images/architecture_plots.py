"""The figure of ``cnn-vs-vit``: errors over epochs by stencil, and the ratio of ViTs to CNNs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softeq.errors import SofteqError
from softeq.experiments.engine.record import Record
from softeq.experiments.images.checkpoints import translation
from softeq.experiments.images.cnns_and_vits import NETWORKS, STENCILS
from softeq.experiments.images.families import (
    FAMILIES,
    NAME,
    Checkpoint,
    at_epoch,
    at_moment,
    diverged,
    of_preset,
    ratios,
)
from softeq.experiments.show.plots import BAND, COLOURS, draw_figure, label_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {"bspline": "cubic B-spline", "central": "central differences", "reference": "reference (bilinear kink)"}
_DASHES = ("-", "--", ":")


def plot_architectures(records: Sequence[Record], path: str | Path, preset: str | None = None) -> None:
    """One panel per stencil, translation LEE (relative, logits) over epochs per architecture, and one of ViT over CNN.

    Lines are geometric means over seeds, bands run from the least to the largest seed, and a circle is the mean of the
    seeds at matched accuracy. Lines go through the epochs that all runs measured; their last point is the end of each
    training, at the mean of these ends. A training that diverged is in none of them.

    Args:
        records: any; those of other experiments and presets are left out.
        path: ends in ``.png``, ``.pdf`` or ``.svg``.
        preset: the largest that there is when None.

    Raises:
        SofteqError: no such records, none with a finite error, or the file cannot be written.
        SofteqValueError: for another suffix.
        MissingExtraError: without matplotlib.
    """
    mine = of_preset(records, preset)
    if not any(_curve([r], stencil) for r in mine for stencil in STENCILS):
        raise SofteqError(f"nothing to draw: no record of {NAME} has a finite translation LEE")
    draw_figure(path, (13.0, 3.9), lambda axes: _panels(axes, mine))


def _panels(axes: Axes, records: Sequence[Record]) -> None:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise SofteqError("axes: expected axes of a figure")
    figure.clear()
    panels = figure.subplots(1, len(STENCILS) + 1)
    handles: list[Any] = []
    shown: list[float] = []
    for panel, stencil in zip(panels[:-1], STENCILS, strict=True):
        if panel is not panels[0]:
            panel.sharey(panels[0])
            panel.tick_params(labelleft=False)
        handles = [_line(panel, records, v, stencil, shown) for v in _networks(records)]
        _epochs(panel, _TITLES[stencil])
    panels[0].set_yscale("log")
    label_log(panels[0].yaxis, min(shown), max(shown))
    panels[0].set_ylabel("translation LEE of the logits, relative")
    _ratio_panel(panels[-1], records)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, title=BAND)


def _networks(records: Iterable[Record]) -> list[str]:
    """Those that the records hold, in the order of the table."""
    held = {r["variant"] for r in records}
    return [name for name in NETWORKS if name in held]


def _epochs(panel: Axes, title: str) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    panel.set_title(title, loc="left", fontsize=10)
    panel.set_xlabel("epoch")
    panel.set_xscale("symlog", base=2, linthresh=1)  # epochs are measured at powers of two
    panel.set_xlim(left=-0.2)
    panel.xaxis.set_major_locator(FixedLocator([0, *(2**k for k in range(12))]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.grid(which="major")


def _stations(records: Sequence[Record]) -> list[tuple[float, Callable[[Record], Checkpoint | None]]]:
    """Where a line has points: the epochs that all these runs measured before they ended, and their ends.

    Each with its place on the axis (of the ends, their mean) and what picks the checkpoint.
    """
    whole = [r for r in records if not diverged(r)]
    if not whole:
        return []
    ends = [r["metrics"]["checkpoints"][-1]["epoch"] for r in whole]
    common = set.intersection(*({c["epoch"] for c in r["metrics"]["checkpoints"]} for r in whole))
    before = sorted(epoch for epoch in common if epoch < min(ends))
    picks = [(float(epoch), functools.partial(at_epoch, epoch=epoch)) for epoch in before]
    return [*picks, (math.fsum(ends) / len(ends), functools.partial(at_moment, moment="after training"))]


def _curve(records: Iterable[Record], stencil: str) -> dict[float, list[float]]:
    """The errors of all seeds by epoch, see `_stations`."""
    whole = [r for r in records if not diverged(r)]
    curve = {
        epoch: [value for r in whole if (value := translation(pick(r), stencil)) > 0 and math.isfinite(value)]
        for epoch, pick in _stations(whole)
    }
    return {epoch: values for epoch, values in curve.items() if values}


def _geometric(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _band(panel: Axes, curve: Mapping[float, Sequence[float]], colour: str, dash: str, label: str) -> Any:
    x, groups = list(curve), list(curve.values())
    panel.fill_between(x, [min(g) for g in groups], [max(g) for g in groups], color=colour, alpha=0.15, lw=0)
    return panel.plot(x, [_geometric(g) for g in groups], color=colour, linestyle=dash, linewidth=1.7, label=label)[0]


def _line(panel: Axes, records: Sequence[Record], variant: str, stencil: str, shown: list[float]) -> Any:
    own = [r for r in records if r["variant"] == variant]
    family = variant.partition("-")[0]
    kin = [v for v in _networks(records) if v.startswith(f"{family}-")]
    colour, dash = COLOURS[FAMILIES.index(family)], _DASHES[kin.index(variant) % len(_DASHES)]
    curve = _curve(own, stencil)
    shown += [value for group in curve.values() for value in group]
    line = _band(panel, curve, colour, dash, variant)
    matched = [c for r in own if (c := at_moment(r, "at matched accuracy")) is not None]
    values = [value for c in matched if (value := translation(c, stencil)) > 0]
    if values:
        epoch = math.fsum(c["epoch"] for c in matched) / len(matched)
        panel.plot(epoch, _geometric(values), marker="o", color=colour, markersize=4, linestyle="")
    return line


def _ratio_panel(panel: Axes, records: Sequence[Record]) -> None:
    """ViT over CNN by epoch, one line per stencil; the circle at the right is at matched accuracy."""
    handles, shown = [], [1.0]
    stations = _stations(records)
    last = stations[-1][0] if stations else 1.0
    for stencil, colour, dash in zip(STENCILS, COLOURS[2 : 2 + len(STENCILS)], _DASHES, strict=True):
        found = {epoch: ratios(records, pick, stencil, "logits", "relative") for epoch, pick in stations}
        curve = {epoch: list(by_seed.values()) for epoch, by_seed in found.items() if by_seed}
        if curve:
            handles.append(_band(panel, curve, colour, dash, stencil))
            shown += [value for group in curve.values() for value in group]
        pick = functools.partial(at_moment, moment="at matched accuracy")
        if matched := list(ratios(records, pick, stencil, "logits", "relative").values()):
            panel.plot(last * 1.25, _geometric(matched), marker="o", color=colour, markersize=5, linestyle="")
            shown += matched
    panel.axhline(1.0, color="#666666", linewidth=1.0)
    panel.set_yscale("log")
    label_log(panel.yaxis, min(shown), max(shown))
    _epochs(panel, "ViT / CNN; circle: matched accuracy")
    panel.set_xlim(right=last * 1.5)
    if handles:
        panel.legend(handles=handles, fontsize=8)
