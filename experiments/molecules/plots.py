"""The figure of ``md-field``: the forces' error over the field, one line per variant, a panel per training size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softeq.errors import SofteqError
from softeq.experiments.engine.record import Record
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.plots import BAND, draw_arm, draw_figure
from softeq.experiments.training.arms import parse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DEFECT = "weight_defect_mean"
_ROWS = {
    "force_mae_mev_per_a": "force error, meV/Å",
    "turned_force_mae_mev_per_a": "force error, rotated, meV/Å",
    _DEFECT: "weight defect",
}


def plot_fields(records: Sequence[Record], path: Any) -> None:
    """Draws the figure to ``path``: means over seeds, with the `BAND`.

    Raises:
        SofteqError: no records of ``md-field``.
        MissingExtraError: matplotlib is not installed.
    """
    mine = [r for r in records if r["experiment"] == "md-field"]
    if not mine:
        raise SofteqError("md-field: no records to draw; run softeq run md-field")
    sizes = sorted({parse(r["variant"]).samples or 0 for r in mine})

    size = (max(5.2, 3.2 * len(sizes) + 0.6), 2.5 * len(_ROWS) + 0.9)
    draw_figure(path, size, lambda axes: _panels(axes, mine, sizes))


def _panels(axes: Axes, records: Sequence[Record], sizes: Sequence[int]) -> None:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise SofteqError("axes: expected axes of a figure")
    figure.clear()
    panels = figure.subplots(len(_ROWS), len(sizes), squeeze=False, sharex=True, sharey="row")
    for row, (key, label) in zip(panels, _ROWS.items(), strict=True):
        for panel, size in zip(row, sizes, strict=True):
            _panel(panel, [r for r in records if parse(r["variant"]).samples == size], key)
        row[0].set_ylabel(label)
    for panel, size in zip(panels[0], sizes, strict=True):
        panel.set_title(f"{size} training frames")
    for panel in panels[-1]:
        panel.set_xlabel("field, atomic units")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3 if len(sizes) < 2 else len(labels), title=BAND)


def _panel(axes: Axes, records: Sequence[Record], key: str) -> None:
    for variant in dict.fromkeys(r["variant"] for r in records):
        mine = [r for r in records if r["variant"] == variant]
        groups = {}
        for name in sorted({n for r in mine for n in r["metrics"]["points"]}, key=float):
            values = [v for r in mine if (v := scalar(r["metrics"], f"{key}@{name}")) is not None and math.isfinite(v)]
            if values:
                groups[float(name)] = values
        if groups:
            draw_arm(axes, list(groups), list(groups.values()), parse(variant).arm)
            axes.set_xticks(list(groups))
    if key == _DEFECT:  # soft's is a hundredth of none's, hard's 0
        axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(bottom=0)
