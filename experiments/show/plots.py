"""Figures from records: the headline metric per variant, and the sweep over the residual pathway's precision."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.engine.experiment import Column, Experiment
from softeq.experiments.engine.record import Record
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.tables import choose_preset, describe, select, variant_order
from softeq.experiments.training.arms import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Arm, arm, parse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

SUFFIXES = (".png", ".pdf", ".svg")
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY)
BAND = "band: least to largest seed"
"""What a band is in every figure."""

_INK, _QUIET, _GRID = "#222222", "#666666", "#DDDDDD"
_STYLE: Any = {
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def plot_experiment(
    records: Sequence[Record], experiment: Experiment, path: str | Path, preset: str | None = None
) -> None:
    """The headline metric of every variant: a point per seed, the median as a bar, the published number as a diamond.

    Points have the colour and the marker of their arm; those of a variant that is no arm are blue dots.

    The axis is logarithmic where the values are positive and span more than a decade. Diverged runs are counted in
    the variant's label.

    Args:
        records: any records; those of other experiments and presets are left out.
        experiment: its first column is the headline metric.
        path: ends in ``.png``, ``.pdf`` or ``.svg``.
        preset: as `choose_preset` has it when None.

    Raises:
        SofteqError: when there is nothing to draw, or the file cannot be written.
        SofteqValueError: for another suffix.
        MissingExtraError: without matplotlib.
    """
    column = experiment.columns[0]
    mine = select(records, experiment.name)
    preset = choose_preset(mine, preset)
    mine = [r for r in mine if r["preset"] == preset]
    order = variant_order(mine, experiment)
    values = {v: _values([r for r in mine if r["variant"] == v], column.key) for v in order}
    published = {v: x for v in order if (x := published_number(experiment.published.get(v, ""))) is not None}
    if not any(math.isfinite(x) for group in values.values() for x in group):
        raise SofteqError(
            f"nothing to draw: no record of {experiment.name}, preset {preset}, has a finite {column.key}"
        )
    title = f"{experiment.name}, preset {preset}"
    means = {level.header: describe(_values(mine, level.key)) for level in experiment.levels}
    levels = {header: stat.mean for header, stat in means.items() if stat.n}  # older records may have none

    def draw(axes: Axes) -> None:
        _variants(axes, values, published, levels, column)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")

    draw_figure(path, (6.4, 1.5 + 0.42 * len(order)), draw)


def _values(records: Iterable[Record], key: str) -> list[float]:
    return [x for r in records if (x := scalar(r["metrics"], key)) is not None]


def published_number(text: str) -> float | None:
    """The number that a published entry starts with (``"1.06 (median)"`` gives 1.06), or None."""
    match = re.match(r"\s*[~≈]?\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)", text)
    return float(match[1]) if match else None


def _variants(
    axes: Axes,
    values: Mapping[str, list[float]],
    published: Mapping[str, float],
    levels: Mapping[str, float],
    column: Column,
) -> None:
    labels = []
    for i, (variant, group) in enumerate(values.items()):
        finite, stat = [x for x in group if math.isfinite(x)], describe(group)
        # Seeds side by side in a fixed order: the same image every time, and equal values do not hide each other.
        offsets = [0.26 * (2 * (j + 0.5) / len(finite) - 1) for j in range(len(finite))]
        colour, marker = _look(variant)
        style: Any = {"s": 22, "color": colour, "marker": marker, "alpha": 0.8, "linewidths": 0, "zorder": 3}
        axes.scatter(finite, [i + o for o in offsets], **style)
        if stat.n:  # not the mean: one training that broke out is all that it would show
            axes.plot([stat.median] * 2, [i - 0.34, i + 0.34], color=_INK, linewidth=2, solid_capstyle="butt", zorder=4)
        if variant in published:
            axes.scatter(published[variant], i, s=46, marker="D", color="none", edgecolors=_INK, zorder=5, lw=1.6)
        labels.append(variant + (f"\n({stat.diverged} of {stat.n + stat.diverged} diverged)" if stat.diverged else ""))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="major")
    axes.set_xlabel(column.header)
    looks = itertools.product((_QUIET, _INK), ("--", ":", "-."))
    for (header, level), (colour, dashes) in zip(levels.items(), itertools.cycle(looks)):  # without end: all are drawn
        axes.axvline(level, color=colour, linestyle=dashes, linewidth=1.2, label=header, zorder=2)
    shown = [*(x for group in values.values() for x in group), *published.values(), *levels.values()]
    _log_where_wide(axes, shown)
    _legend(axes, bool(published))


def _look(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant's points."""
    try:
        which = parse(variant).arm
    except SofteqValueError:  # networks, methods: a row's name says all that there is
        return COLOURS[0], "o"
    return which.colour, which.marker


def _log_where_wide(axes: Axes, values: Iterable[float]) -> None:
    finite = [x for x in values if math.isfinite(x)]
    if min(finite) > 0 and max(finite) / min(finite) > 10:
        axes.set_xscale("log")
        label_log(axes.xaxis, min(finite), max(finite))


def label_log(axis: Axis, low: float, high: float) -> None:
    """Ticks as plain numbers where these are short, as powers of ten elsewhere; 2 and 5 too on a short axis."""
    from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, NullFormatter

    plain = low >= 1e-3 and high < 1e5
    formatter = FuncFormatter(lambda value, _: f"{value:g}") if plain else LogFormatterMathtext()
    short = high / low < 40
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}") if short else formatter)
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, published: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", color=_QUIET, alpha=0.8, linestyle="", markersize=5, markeredgewidth=0),
        Line2D([], [], marker="|", color=_INK, linestyle="", markersize=11, markeredgewidth=2),
    ]
    labels = ["one seed", "median"]
    if published:
        handles.append(Line2D([], [], marker="D", color="none", markeredgecolor=_INK, markeredgewidth=1.6))
        labels.append("published")
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    handles, labels = [*handles, *lines], [*labels, *(str(line.get_label()) for line in lines)]
    # Of the figure, not of the axes, which may be narrow beside long names.
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=5, handletextpad=0.3, fontsize=9)


def draw_arm(axes: Axes, x: Sequence[float], groups: Sequence[Sequence[float]], which: Arm) -> Any:
    """One arm over a dial: the mean of the seeds as a line with its marker, and the `BAND`; returns the line.

    Args:
        axes: where.
        x: places on the dial, at least one.
        groups: the finite values of the seeds at each.
        which: gives colour and marker.
    """
    least, largest = [min(g) for g in groups], [max(g) for g in groups]
    axes.fill_between(x, least, largest, color=which.colour, alpha=0.15, lw=0)
    means = [math.fsum(g) / len(g) for g in groups]
    style: Any = {"color": which.colour, "marker": which.marker, "markersize": 4, "linewidth": 1.6}
    return axes.plot(x, means, label=which.name, **style)[0]


def plot_precision(
    records: Sequence[Record], path: str | Path, *, metric: str = "test_mse", label: str = "test MSE", title: str = ""
) -> None:
    """Test error against the residual pathway's precision, log-log, with the `BAND`.

    Args:
        records: of one experiment and preset. The curve is made of the variants named ``soft-grid@VALUE`` at their
            trial's residual precision (in nats for the whole data set, > 0); ``hard`` and ``none``, where they are
            there, are horizontal lines with bands.
        path: ends in ``.png``, ``.pdf`` or ``.svg``.
        metric: the key of the error in ``metrics``.
        label: the error's name on the axis.
        title: printed above.

    Raises:
        SofteqError: without a finite error at some precision; `plot_experiment` for the others.
    """
    curve = _precision_curve(records, metric)
    lines = {v: x for v in ("hard", "none") if (x := _positive((r for r in records if r["variant"] == v), metric))}
    if not curve:
        raise SofteqError(f"nothing to draw: no record of a variant soft-grid@VALUE has a finite, positive {metric}")
    drawn = [r for r in records if "@" in r["variant"] or r["variant"] in ("hard", "none")]
    lost = len(_values(drawn, metric)) - sum(len(x) for x in (*curve.values(), *lines.values()))
    heading = [title] * bool(title) + [f"{lost} diverged {'run' if lost == 1 else 'runs'} not drawn"] * bool(lost)
    draw_figure(path, (6.4, 4.2), lambda axes: _precision(axes, curve, lines, label, heading))


def _positive(records: Iterable[Record], key: str) -> list[float]:
    """What a logarithmic axis can show: the finite, positive values of a metric."""
    return [x for x in _values(records, key) if math.isfinite(x) and x > 0]


def _precision_curve(records: Sequence[Record], metric: str) -> dict[float, list[float]]:
    groups: dict[float, list[Record]] = {}
    for r in records:
        if "@" in r["variant"]:
            groups.setdefault(_precision_of(r), []).append(r)
    curve = {precision: _positive(group, metric) for precision, group in sorted(groups.items())}
    return {precision: values for precision, values in curve.items() if values}


def _precision_of(r: Record) -> float:
    """The residual precision of a run, in nats: of its only trial, or where older records have it."""
    found = r["config"].get("residual_precision")
    if found is None:
        trials = r["config"].get("trials") or [{}]
        found = (trials[0].get("prior") or {}).get("residual")
    if not isinstance(found, (int, float)) or not found > 0:
        raise SofteqError(f"variant {r['variant']}: expected a residual precision above 0, got {found!r}")
    return float(found)


def _precision(
    axes: Axes, curve: Mapping[float, list[float]], lines: Mapping[str, list[float]], label: str, heading: list[str]
) -> None:
    for variant, values in lines.items():
        one, mean = arm(variant), describe(values).mean
        axes.axhspan(min(values), max(values), color=one.colour, alpha=0.12, linewidth=0)
        axes.axhline(mean, color=one.colour, linewidth=1.6, linestyle="--" if variant == "hard" else "-.")
        axes.annotate(variant, (1.01, mean), xycoords=("axes fraction", "data"), color=one.colour, va="center")
    x, soft = list(curve), arm("soft")
    draw_arm(axes, x, list(curve.values()), soft)
    last = describe(curve[x[-1]]).mean
    axes.annotate("soft", (x[-1], last), xytext=(7, 0), textcoords="offset points", color=soft.colour, va="center")
    axes.set_xscale("log")
    axes.set_yscale("log")
    shown = [v for group in (*curve.values(), *lines.values()) for v in group]
    label_log(axes.yaxis, min(shown), max(shown))
    axes.grid(which="major")
    axes.set_xlabel("prior precision of the residual pathway")
    axes.set_ylabel(label)
    seeds = sorted({len(v) for v in (*curve.values(), *lines.values())})
    n = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    axes.set_title("\n".join([*heading, f"mean of {n} seeds; {BAND}"]), loc="left", fontsize=9.5)


def draw_figure(path: str | Path, size: tuple[float, float], draw: Callable[[Axes], None]) -> None:
    """One figure of ``size`` inches, drawn by ``draw`` and saved; no window, no global state of matplotlib's.

    Raises:
        SofteqValueError: a suffix that is none of `SUFFIXES`.
        SofteqError: the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise SofteqValueError(f"file: expected a name that ends in {', '.join(SUFFIXES)}, got {str(path)!r}")
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a figure needs matplotlib: pip install 'softeq[experiments]'") from error
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=160)
        except OSError as error:
            raise SofteqError(
                f"cannot write the figure {path}: {error.strerror or error}; choose another --file"
            ) from error
