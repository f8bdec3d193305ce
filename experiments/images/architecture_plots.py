"""The figure and the finding of ``cnn-vs-vit``: errors over epochs by stencil, and the ratio of ViTs to CNNs.

    python -m experiments.images.architecture_plots results

prints the finding's table from the records in a folder.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.engine.record import Record
from softeq.experiments.images.architectures import EXPERIMENTS, OUTPUTS, STENCILS
from softeq.experiments.images.checkpoints import QUANTITIES, translation
from softeq.experiments.show.plots import BAND, COLOURS, draw_figure, label_log
from softeq.experiments.show.tables import choose_preset, current, select, variant_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXPERIMENT = EXPERIMENTS["cnn-vs-vit"]
MOMENTS = ("before training", "at matched accuracy", "after training")
FAMILIES = ("cnn", "vit")
_TITLES = {"bspline": "cubic B-spline", "central": "central differences", "reference": "reference (bilinear kink)"}
_DASHES = ("-", "--", ":")

Checkpoint = Mapping[str, Any]


def at_moment(r: Record, moment: str) -> Checkpoint | None:
    """The checkpoint of a run at one of `MOMENTS`; None where the run never came there."""
    metrics = r["metrics"]
    if moment == "after training":
        return None if diverged(r) else metrics["checkpoints"][-1]
    return at_epoch(r, 0 if moment == "before training" else metrics["matched_epoch"])


def diverged(r: Record) -> bool:
    """Whether the training of a run ended in a loss that was not finite."""
    return r["metrics"].get("diverged_at_step") is not None


def at_epoch(r: Record, epoch: float | None) -> Checkpoint | None:
    """The checkpoint of a run after that epoch; None where there is none."""
    return next((c for c in r["metrics"]["checkpoints"] if c["epoch"] == epoch), None)


def family_ratio(errors: Mapping[str, float]) -> float:
    """The geometric mean over the variants named ``vit-`` over that of those named ``cnn-``.

    NaN where a family is absent or an error is not a positive, finite number.
    """
    logarithms = []
    for family in FAMILIES:
        values = [v for variant, v in errors.items() if variant.startswith(f"{family}-")]
        if not values or not all(math.isfinite(v) and v > 0 for v in values):
            return math.nan
        logarithms.append(math.fsum(map(math.log, values)) / len(values))
    return math.exp(logarithms[1] - logarithms[0])


def ratios(
    records: Sequence[Record], pick: Callable[[Record], Checkpoint | None], stencil: str, output: str, quantity: str
) -> list[float]:
    """`family_ratio` of every seed that has all variants, of the checkpoints that ``pick`` gives."""
    variants = {r["variant"] for r in records}
    found = []
    for seed in sorted({r["seed"] for r in records}):
        mine = {r["variant"]: r for r in records if r["seed"] == seed}
        if mine.keys() != variants:
            continue
        ratio = family_ratio({v: translation(pick(r), stencil, output, quantity) for v, r in mine.items()})
        if math.isfinite(ratio):
            found.append(ratio)
    return found


def pairs_won(
    records: Sequence[Record], pick: Callable[[Record], Checkpoint | None], stencil: str, output: str, quantity: str
) -> tuple[int, int]:
    """In how many pairs of a ViT and a CNN of the same seed the ViT has the smaller error, and how many there are."""
    won = total = 0
    errors = {(r["variant"], r["seed"]): translation(pick(r), stencil, output, quantity) for r in records}
    for (a, seed_a), (b, seed_b) in itertools.product(errors, errors):
        pair = errors[a, seed_a], errors[b, seed_b]
        if seed_a == seed_b and a.startswith("vit-") and b.startswith("cnn-") and all(map(math.isfinite, pair)):
            won, total = won + (pair[0] < pair[1]), total + 1
    return won, total


def finding(records: Sequence[Record], preset: str | None = None) -> str:
    """A Markdown table: ViT over CNN by moment, output, quantity and stencil, and the pairs in which the ViT is lower.

    Args:
        records: any; those of other experiments and presets are left out.
        preset: the largest that there is when None.

    Raises:
        SofteqError: no such records, or none of a whole seed.
    """
    mine = _of_preset(records, preset)
    lines = [
        "| translation LEE, ViT / CNN | " + " | ".join(STENCILS) + " |",
        "|---|" + "---|" * len(STENCILS),
    ]
    for moment, output, quantity in itertools.product(MOMENTS, OUTPUTS, QUANTITIES):
        cells = []
        for stencil in STENCILS:
            pick = functools.partial(at_moment, moment=moment)
            asked = (stencil, output, quantity)
            cells.append(_cell(ratios(mine, pick, *asked), pairs_won(mine, pick, *asked)))
        lines.append(f"| {moment}, {output}, {quantity.replace('_', ' ')} | " + " | ".join(cells) + " |")
    note = (
        "Cells: geometric mean over seeds of the families' geometric means (least to largest seed; pairs in which the"
    )
    return "\n".join([*lines, "", f"{note} ViT is lower, of all).", *_rates_at_edge(mine)])


def _rates_at_edge(records: Sequence[Record]) -> tuple[str, ...]:
    """How often the chosen learning rate stood at an edge of its list; nothing of records that do not say."""
    told = [edge for r in records if (edge := r["metrics"].get("learning_rate_at_edge")) is not None]
    text = f"The chosen learning rate stood at an edge of its list in {sum(told)} of {len(told)} runs."
    return ("", text) if told else ()


def _cell(values: Sequence[float], pairs: tuple[int, int]) -> str:
    if not values:
        return "not measurable"
    mean = math.exp(math.fsum(map(math.log, values)) / len(values))
    return f"{mean:.2f} ({min(values):.2f} to {max(values):.2f}; {pairs[0]} of {pairs[1]})"


def _of_preset(records: Iterable[Record], preset: str | None) -> list[Record]:
    mine = select(records, EXPERIMENT.name)
    chosen = choose_preset(mine, preset)
    return current([r for r in mine if r["preset"] == chosen])


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
    mine = _of_preset(records, preset)
    if not any(_curve([r], stencil) for r in mine for stencil in STENCILS):
        raise SofteqError(f"nothing to draw: no record of {EXPERIMENT.name} has a finite translation LEE")
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
        handles = [_line(panel, records, v, stencil, shown) for v in variant_order(records, EXPERIMENT)]
        _epochs(panel, _TITLES[stencil])
    panels[0].set_yscale("log")
    label_log(panels[0].yaxis, min(shown), max(shown))
    panels[0].set_ylabel("translation LEE of the logits, relative")
    _ratio_panel(panels[-1], records)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, title=BAND)


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
    kin = [v for v in variant_order(records, EXPERIMENT) if v.startswith(f"{family}-")]
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
        curve = {e: values for e, values in found.items() if values}
        if curve:
            handles.append(_band(panel, curve, colour, dash, stencil))
            shown += [value for group in curve.values() for value in group]
        matched = ratios(
            records, functools.partial(at_moment, moment="at matched accuracy"), stencil, "logits", "relative"
        )
        if matched:
            panel.plot(last * 1.25, _geometric(matched), marker="o", color=colour, markersize=5, linestyle="")
            shown += matched
    panel.axhline(1.0, color="#666666", linewidth=1.0)
    panel.set_yscale("log")
    label_log(panel.yaxis, min(shown), max(shown))
    _epochs(panel, "ViT / CNN; circle: matched accuracy")
    panel.set_xlim(right=last * 1.5)
    if handles:
        panel.legend(handles=handles, fontsize=8)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "results"
    try:
        table = finding(record.read(record.record_path(folder, EXPERIMENT.name)))
    except SofteqError as error:
        sys.exit(f"softeq: {error}")
    sys.stdout.write(f"{table}\n")
