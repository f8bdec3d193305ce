"""The figure and the tables of ``rotation`` and ``translation``.

    python -m experiments.images.plots results rotation

prints, from the records in a folder, one table per number of training images and quantity: a row per variant, a column
per point of the dial.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softeq.errors import SofteqError
from softeq.experiments.engine import record, registry
from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.engine.record import Record
from softeq.experiments.images.dial_points import DIALS, headers
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.paired import by_seed
from softeq.experiments.show.plots import BAND, draw_arm, draw_figure
from softeq.experiments.show.render import format_stat
from softeq.experiments.show.tables import choose_preset, describe, select, variant_order
from softeq.experiments.training.arms import parse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES: Mapping[str, str] = {
    "accuracy": "test accuracy",
    "moved_accuracy": "accuracy, test images transformed over the whole range",
    "defect": "weight defect, mean over layers",
    "lee": "LEE of the logits, relative",
    "lee_ratio": "LEE over that of noise, median",
}
"""What is kept at every point of the dial, with its label."""
_ROWS = ("accuracy", "moved_accuracy", "defect")
_LABELS = {"accuracy": "test accuracy", "moved_accuracy": "accuracy, test transformed", "defect": "weight defect"}


def _of_preset(records: Sequence[Record], experiment: Experiment, preset: str | None) -> list[Record]:
    mine = select(records, experiment.name)
    chosen = choose_preset(mine, preset)
    return [r for r in mine if r["preset"] == chosen]


def _sizes(records: Iterable[Record]) -> list[int]:
    return sorted({parse(r["variant"]).samples or 0 for r in records})


def values(records: Iterable[Record], variant: str, key: str) -> list[float]:
    """A metric of every run of a variant that has it."""
    found = (scalar(r["metrics"], key) for r in records if r["variant"] == variant)
    return [value for value in found if value is not None]


def _points(records: Iterable[Record], kind: str) -> dict[str, str]:
    """The points that the records hold, in order, with their headers."""
    held = {name for r in records for name in r["metrics"]["points"]}
    return {name: header for name, header in headers(kind).items() if name in held}


def dial_table(
    records: Sequence[Record], experiment: Experiment, training_images: int, quantity: str, preset: str | None = None
) -> str:
    """A Markdown table: a row per variant with so many training images, a column per point of the dial.

    Args:
        records: any; those of other experiments and presets are left out.
        experiment: ``rotation`` or ``translation``.
        training_images: as in the variants' names.
        quantity: a key of `QUANTITIES`.
        preset: as `choose_preset` has it when None.

    Raises:
        SofteqError: no such records.
    """
    mine = _of_preset(records, experiment, preset)
    points = _points(mine, experiment.name)
    variants = [v for v in variant_order(mine, experiment) if parse(v).samples == training_images]
    if not variants:
        raise SofteqError(f"no records of {experiment.name} with {training_images} training images")
    lines = [f"| {training_images} images, {QUANTITIES[quantity]} | " + " | ".join(points.values()) + " |"]
    lines.append("|---|" + "---:|" * len(points))
    for variant in variants:
        stats = [describe(values(mine, variant, f"{quantity}@{name}")) for name in points]
        lines.append(
            f"| {parse(variant).arm.name} | "
            + " | ".join(format_stat(s, ".3f" if "acc" in quantity else ".3g") for s in stats)
            + " |"
        )
    return "\n".join(lines)


def gaps(records: Sequence[Record], experiment: Experiment, preset: str | None = None) -> list[dict[str, Any]]:
    """Per number of training images and point: how far soft is above the better of hard and none, paired by seed.

    Returns:
        ``training_images``, ``point``, ``better`` (the one with the higher mean test accuracy), ``gap`` (mean over
        seeds of soft's accuracy minus that one's), ``std`` of it over seeds, ``n``.
    """
    mine = _of_preset(records, experiment, preset)
    found = []
    for n in _sizes(mine):
        for name in _points(mine, experiment.name):
            runs = {arm: by_seed(mine, f"{arm}-{n}", f"accuracy@{name}") for arm in ("hard", "none", "soft")}
            seeds = sorted(set.intersection(*map(set, runs.values())))
            common = [s for s in seeds if all(math.isfinite(one[s]) for one in runs.values())]
            if not common:
                continue
            means = {arm: statistics.fmean(runs[arm][s] for s in common) for arm in ("hard", "none")}
            better = max(means, key=lambda arm: means[arm])
            stat = describe([runs["soft"][s] - runs[better][s] for s in common])
            found.append(
                {"training_images": n, "point": name, "better": better, "gap": stat.mean, "std": stat.std, "n": stat.n}
            )
    return found


def gap_table(records: Sequence[Record], experiment: Experiment, preset: str | None = None) -> str:
    """`gaps` as a Markdown table: a row per number of training images, a column per point."""
    found = gaps(records, experiment, preset)
    held = {g["point"] for g in found}
    points = {name: header for name, header in headers(experiment.name).items() if name in held}
    lines = ["| soft minus the better of hard and none | " + " | ".join(points.values()) + " |"]
    lines.append("|---|" + "---:|" * len(points))
    for n in sorted({g["training_images"] for g in found}):
        own = {g["point"]: g for g in found if g["training_images"] == n}
        cells = [_gap(own[name]) if name in own else "–" for name in points]
        lines.append(f"| {n} images | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gap(gap: Mapping[str, Any]) -> str:
    spread = "" if math.isnan(gap["std"]) else f" ± {gap['std']:.3f}"
    return f"{gap['gap']:+.3f}{spread} ({gap['better']}; {gap['n']})"


def plot_dial(records: Sequence[Record], experiment: Experiment, path: str | Path, preset: str | None = None) -> None:
    """Panels: accuracy, accuracy under the widest motion and weight defect over the dial, by number of training images.

    A line per variant is the mean over seeds, its band runs from the least to the largest seed. Lines end where the
    data set changes.

    Args:
        records: any; those of other experiments and presets are left out.
        experiment: ``rotation`` or ``translation``.
        path: ends in ``.png``, ``.pdf`` or ``.svg``.
        preset: as `choose_preset` has it when None.

    Raises:
        SofteqError: no such records, none with a finite accuracy, or the file cannot be written.
        SofteqValueError: for another suffix.
        MissingExtraError: without matplotlib.
    """
    mine = _of_preset(records, experiment, preset)
    points, sizes = _points(mine, experiment.name), _sizes(mine)
    keys = [f"accuracy@{name}" for name in points]
    if not any(math.isfinite(v) for r in mine for key in keys for v in values([r], r["variant"], key)):
        raise SofteqError(f"nothing to draw: no record of {experiment.name} has a finite test accuracy")
    size = (1.2 + 0.62 * len(points) * len(sizes), 7.6)
    draw_figure(path, size, lambda axes: _panels(axes, mine, points, sizes))


def _panels(axes: Axes, records: Sequence[Record], points: Mapping[str, str], sizes: Sequence[int]) -> None:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise SofteqError("axes: expected axes of a figure")
    figure.clear()
    panels = figure.subplots(len(_ROWS), len(sizes), squeeze=False, sharex=True, sharey="row")
    handles: dict[str, Any] = {}
    for row, quantity in zip(panels, _ROWS, strict=True):
        for panel, n in zip(row, sizes, strict=True):
            for variant in dict.fromkeys(r["variant"] for r in records if parse(r["variant"]).samples == n):
                line = _line(panel, records, variant, quantity, list(points))
                handles |= {} if line is None else {parse(variant).arm.name: line}
            panel.grid(which="major")
        row[0].set_ylabel(_LABELS[quantity])
    for panel, n in zip(panels[0], sizes, strict=True):
        panel.set_title(f"{n} training images", loc="left", fontsize=10)
    for panel in panels[-1]:
        panel.set_xticks(range(len(points)), list(points.values()), rotation=45, ha="right", fontsize=8)
    title: Any = {"title": BAND, "title_fontsize": 8}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=9, **title)


def _line(panel: Axes, records: Sequence[Record], variant: str, quantity: str, names: Sequence[str]) -> Any:
    """Draws a variant; returns its line, None where there is nothing finite."""
    line, arm = None, parse(variant).arm
    datas = [_data(records, name) for name in names]
    for data in dict.fromkeys(datas):
        places, groups = [], []
        for place, name in enumerate(names):
            finite = [v for v in values(records, variant, f"{quantity}@{name}") if math.isfinite(v)]
            if datas[place] == data and finite:
                places.append(place)
                groups.append(finite)
        if groups:
            line = draw_arm(panel, places, groups, arm)
    return line


def _data(records: Iterable[Record], name: str) -> str:
    points = (point for r in records for point in r["config"]["points"] if point["name"] == name)
    return next(points)["data"]


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code, 2 for a user's mistake."""
    if len(arguments) != 2 or arguments[1] not in DIALS:
        print(f"usage: python -m experiments.images.plots FOLDER {{{','.join(DIALS)}}}", file=sys.stderr)
        return 2
    experiment = registry.get(arguments[1])
    try:
        records = record.read(record.record_path(arguments[0], experiment.name))
        sizes = _sizes(_of_preset(records, experiment, None))
        tables = [dial_table(records, experiment, n, quantity) for quantity in QUANTITIES for n in sizes]
        print("\n\n".join([gap_table(records, experiment), *tables]))
    except SofteqError as error:
        print(f"softeq: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
