"""The finding of ``cnn-vs-vit``: the translation errors of ViTs over those of CNNs, by moment and by what is measured.

    python -m experiments.images.families results

prints its table from the records in a folder.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.engine.record import Record
from softeq.experiments.images.checkpoints import QUANTITIES, translation
from softeq.experiments.images.cnns_and_vits import OUTPUTS, STENCILS
from softeq.experiments.show.paired import Paired, holm, p_text, paired
from softeq.experiments.show.tables import choose_preset, current, select

NAME = "cnn-vs-vit"
MOMENTS = ("before training", "at matched accuracy", "after training")
FAMILIES = ("cnn", "vit")
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
) -> dict[int, float]:
    """`family_ratio` by seed, of those that have all variants, of the checkpoints that ``pick`` gives."""
    variants = {r["variant"] for r in records}
    found = {}
    for seed in sorted({r["seed"] for r in records}):
        mine = {r["variant"]: r for r in records if r["seed"] == seed}
        if mine.keys() != variants:
            continue
        ratio = family_ratio({v: translation(pick(r), stencil, output, quantity) for v, r in mine.items()})
        if math.isfinite(ratio):
            found[seed] = ratio
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


Cell = tuple[str, str, str, str]
"""A moment, a stencil (or `TURN`), an output and a quantity."""
TURN = "reference / bspline"
"""The ratio with the published stencil over that with the one without a kink: what the stencil does to the answer."""


def compared(records: Sequence[Record]) -> dict[Cell, Paired]:
    """`ratios` of every `Cell` that could be measured, with 95% intervals over seeds and p by Holm over all of them."""
    found: dict[Cell, Paired] = {}
    for moment, output, quantity in itertools.product(MOMENTS, OUTPUTS, QUANTITIES):
        pick = functools.partial(at_moment, moment=moment)
        mine = {stencil: ratios(records, pick, stencil, output, quantity) for stencil in STENCILS}
        ones = {stencil: dict.fromkeys(by_seed, 1.0) for stencil, by_seed in mine.items()}
        mine[TURN], ones[TURN] = mine["reference"], mine["bspline"]
        for stencil, by_seed in mine.items():
            if by_seed.keys() & ones[stencil].keys():
                found[moment, stencil, output, quantity] = paired(by_seed, ones[stencil], "ratio")
    return dict(zip(found, holm(list(found.values())), strict=True))


def finding(records: Sequence[Record], preset: str | None = None) -> str:
    """A Markdown table: ViT over CNN by moment, output, quantity and stencil, and the pairs in which the ViT is lower.

    Args:
        records: any; those of other experiments and presets are left out.
        preset: the largest that there is when None.

    Raises:
        SofteqError: no such records, or none of a whole seed.
    """
    mine = of_preset(records, preset)
    tested = compared(mine)
    columns = (*STENCILS, TURN)
    lines = ["| translation LEE, ViT / CNN | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for moment, output, quantity in itertools.product(MOMENTS, OUTPUTS, QUANTITIES):
        pick = functools.partial(at_moment, moment=moment)
        cells = []
        for stencil in columns:
            pairs = None if stencil == TURN else pairs_won(mine, pick, stencil, output, quantity)
            cells.append(_cell(tested.get((moment, stencil, output, quantity)), pairs))
        lines.append(f"| {moment}, {output}, {quantity.replace('_', ' ')} | " + " | ".join(cells) + " |")
    note = (
        "Cells: geometric mean over seeds of the families' geometric means [95% interval]; p by Holm over the table; "
        "pairs of a seed in which the ViT is lower, of all."
    )
    return "\n".join([*lines, "", note, *_rates_at_edge(mine)])


def _rates_at_edge(records: Sequence[Record]) -> tuple[str, ...]:
    """How often the chosen learning rate stood at an edge of its list; nothing of records that do not say."""
    told = [edge for r in records if (edge := r["metrics"].get("learning_rate_at_edge")) is not None]
    text = f"The chosen learning rate stood at an edge of its list in {sum(told)} of {len(told)} runs."
    return ("", text) if told else ()


def _cell(one: Paired | None, pairs: tuple[int, int] | None) -> str:
    if one is None:
        return "not measurable"
    won = () if pairs is None else (f"{pairs[0]} of {pairs[1]}",)
    return "; ".join((one.interval, p_text(one.p), *won))


def of_preset(records: Iterable[Record], preset: str | None = None) -> list[Record]:
    """The records of ``cnn-vs-vit`` at a preset under the latest protocol; as `choose_preset` has it when None."""
    mine = select(records, NAME)
    chosen = choose_preset(mine, preset)
    return current([r for r in mine if r["preset"] == chosen])


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "results"
    try:
        table = finding(record.read(record.record_path(folder, NAME)))
    except SofteqError as error:
        sys.exit(f"softeq: {error}")
    sys.stdout.write(f"{table}\n")
