"""Records to the numbers of a table: mean, std, median and n per variant and metric, beside the published numbers.

Pure functions on lists of records. A run whose metric is not finite counts as diverged: it is left out of the mean,
the standard deviation and the median, and its row says how many there were.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from softeq.errors import SofteqError, SofteqWarning
from softeq.experiments.engine.experiment import Column, Experiment
from softeq.experiments.engine.record import Record
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.paired import differences, kind_of, p_text

PILOT = (
    "Pilot runs, made before there was a protocol (docs/protocol.md): a fixed number of steps at which no arm has"
    " converged, and settings chosen from short lists, mostly at an edge of them. They rank nothing by themselves."
)
OUTSIDE = (
    "Not under the protocol (docs/protocol.md), by which arms train to a plateau, within equal compute, with settings"
    " that were tuned: these runs rank nothing by themselves."
)
PRESETS = ("paper", "default", "smoke")
"""From the largest to the smallest: what is shown when nobody chose."""


@dataclass(frozen=True)
class Stat:
    """One metric over the seeds of a variant.

    ``n`` finite values with their mean, standard deviation (n - 1 in the denominator; NaN for n < 2) and median (both
    NaN for n = 0), ``diverged`` values that are not finite, and ``missing`` seeds without the metric.
    """

    n: int
    diverged: int
    mean: float
    std: float
    median: float
    varies: bool
    missing: int = 0


@dataclass(frozen=True)
class Row:
    """One variant: how many seeds it ran, a `Stat` per column, and the published number as printed, or ``""``."""

    variant: str
    runs: int
    stats: tuple[Stat, ...]
    published: str


@dataclass(frozen=True)
class Table:
    """The numbers of a table before they are printed; ``columns`` are those that at least one record has."""

    experiment: str
    preset: str
    source: str
    commits: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    published_source: str
    notes: tuple[str, ...]
    remark: str = ""
    comparisons: tuple[str, ...] = ()

    @property
    def has_published(self) -> bool:
        """Whether a variant of the table has a published number."""
        return any(row.published for row in self.rows)

    @property
    def caption(self) -> str:
        """Experiment, preset, number of seeds, source folder and commits in one line."""
        counts = sorted({row.runs for row in self.rows})
        seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        noun = "seed" if counts == [1] else "seeds"
        commits = f"commit{'s' if len(self.commits) > 1 else ''} {', '.join(self.commits)}"
        parts = [self.experiment, f"preset {self.preset}", f"{seeds} {noun}", f"records from {self.source}", commits]
        return "; ".join([*parts, self.remark] if self.remark else parts)

    @property
    def footnotes(self) -> tuple[str, ...]:
        """How to read a cell, where the published numbers come from, and the experiment's notes."""
        diverged = any(stat.diverged for row in self.rows for stat in row.stats)
        reading = "Cells: mean ± standard deviation (n)."
        if diverged:
            reading += " Diverged runs (not finite) are counted in the cell and left out of its mean."
        published = (f"Published: {self.published_source}",) if self.published_source and self.has_published else ()
        return (reading, *self.comparisons, *published, *self.notes)


def choose_preset(records: Sequence[Record], preset: str | None = None) -> str:
    """The preset asked for, or the largest of those that hold records under the latest protocol.

    Raises:
        SofteqError: when no record has it.
    """
    held = {r["preset"] for r in records}
    if preset is None and held:
        latest = max(map(_protocol, records))
        return largest({r["preset"] for r in records if _protocol(r) == latest})
    if preset is None or preset not in held:
        kind = "records" if preset is None else f"records of preset {preset!r}"
        there = f"; there are records of {', '.join(sorted(held))}" if held else ""
        raise SofteqError(f"no {kind}{there}: make some with `softeq run`")
    return preset


def largest(presets: Iterable[str]) -> str:
    """The largest of some presets; those of a name that is not known are the smallest."""
    return min(presets, key=lambda name: (PRESETS.index(name) if name in PRESETS else len(PRESETS), name))


def select(records: Iterable[Record], experiment: str, preset: str | None = None) -> list[Record]:
    """The records of one experiment, and of one preset if given; of two for the same pair the later, with a warning."""
    chosen: dict[tuple[str, str, int], Record] = {}
    for r in records:
        if r["experiment"] != experiment or preset not in (None, r["preset"]):
            continue
        key = (r["preset"], r["variant"], r["seed"])
        if key in chosen:
            message = f"{experiment}: two records of preset {key[0]}, variant {key[1]}, seed {key[2]}; the later counts"
            warnings.warn(message, SofteqWarning, stacklevel=2)
        chosen[key] = r
    return list(chosen.values())


def describe(values: Sequence[float | None]) -> Stat:
    """The `Stat` of some numbers; None stands for a seed without one."""
    present = [v for v in values if v is not None]
    finite = [v for v in present if math.isfinite(v)]
    n = len(finite)
    return Stat(
        n=n,
        diverged=len(present) - n,
        mean=statistics.fmean(finite) if n else math.nan,
        std=statistics.stdev(finite) if n > 1 else math.nan,
        median=statistics.median(finite) if n else math.nan,
        varies=len(set(finite)) > 1,
        missing=len(values) - len(present),
    )


def variant_order(records: Iterable[Record], experiment: Experiment) -> list[str]:
    """The variants that the records hold, in the experiment's order; those that it no longer has at the end."""
    held = dict.fromkeys(r["variant"] for r in records)
    return [v for v in experiment.variants if v in held] + [v for v in held if v not in experiment.variants]


def build(
    records: Sequence[Record], experiment: Experiment, preset: str | None = None, *, source: str, remark: str = ""
) -> Table:
    """The table of one experiment and one preset.

    Args:
        records: any records; those of other experiments and presets are left out.
        experiment: its columns, published numbers and notes.
        preset: as `choose_preset` has it when None.
        source: the folder that the records come from, for the caption.
        remark: one more part of the caption.

    Raises:
        SofteqError: when there are no such records.
    """
    mine = select(records, experiment.name)
    preset = choose_preset(mine, preset)
    mine = current([r for r in mine if r["preset"] == preset])
    columns = tuple(c for c in experiment.columns if any(scalar(r["metrics"], c.key) is not None for r in mine))
    if not columns:
        keys = ", ".join(c.key for c in experiment.columns)
        raise SofteqError(f"no record of {experiment.name}, preset {preset}, has one of the metrics {keys}")
    rows = []
    for variant in variant_order(mine, experiment):
        own = [r["metrics"] for r in mine if r["variant"] == variant]
        stats = tuple(describe([scalar(m, c.key) for m in own]) for c in columns)
        rows.append(Row(variant, len(own), stats, experiment.published.get(variant, "")))
    return Table(
        experiment=experiment.name,
        preset=preset,
        source=source,
        commits=_commits(mine),
        columns=columns,
        rows=tuple(rows),
        published_source=experiment.published_source,
        notes=(*experiment.notes, *_ended(mine), *_compiled(mine), *_outside(mine, experiment)),
        remark=remark,
        comparisons=_comparisons(mine, experiment, columns[0]),
    )


def _ended(records: Sequence[Record]) -> tuple[str, ...]:
    """Which trainings did not end on their plateau, where that was the rule: a run of several points by any of them."""
    asked = [r for r in records if r["config"].get("training", {}).get("schedule") == "plateau"]
    if not asked:
        return ()
    ends: dict[str, list[set[str]]] = {}
    for r in asked:
        points = r["metrics"].get("points") or {"": r["metrics"]}
        ends.setdefault(r["variant"], []).append({str(p.get("stopped")) for p in points.values()})
    said = []
    for end, words in (("steps", "at their cap of steps"), ("diverged", "diverged")):
        counts = {variant: sum(end in found for found in runs) for variant, runs in ends.items()}
        parts = [f"{variant} {count} of {len(ends[variant])}" for variant, count in counts.items() if count]
        if parts:
            said.append(f"{words} {', '.join(parts)}")
    if not said:
        return ("Every training ended on its plateau.",)
    return (f"How trainings ended: {'; '.join(said)}; every other on its plateau.",)


def _compiled(records: Sequence[Record]) -> tuple[str, ...]:
    """Which rows' seconds do not compare with the others', where steps of some runs alone were compiled."""
    compiled = dict.fromkeys(r["variant"] for r in records if r["config"].get("compiled"))
    if not compiled or all(r["config"].get("compiled") for r in records):
        return ()
    return (f"Training steps were compiled in runs of {', '.join(compiled)}: their seconds are not those of the rest.",)


def _comparisons(records: Sequence[Record], experiment: Experiment, column: Column) -> tuple[str, ...]:
    """The line under a table of arms that says how the reference stands to each of the others, seed by seed."""
    if not experiment.protocol:
        return ()
    found = differences(records, column.key, experiment.reference)
    if not found:
        return ()
    how = f"{experiment.reference} {'over' if kind_of(column.key) == 'ratio' else 'minus'}"
    seeds = len({r["seed"] for r in records})  # one at which an arm diverged or was not run is no pair: n says so
    parts = [
        f"{other} {one.interval}, {p_text(one.p)}" if one.n == seeds else f"{other} {one}"
        for (_, other), one in found.items()
    ]
    many = "; p by Holm over these" if len(parts) > 1 else ""
    return (f"{column.header}, {how} the other, paired by seed, 95% intervals{many}: {'; '.join(parts)}.",)


def current(records: Sequence[Record]) -> list[Record]:
    """Those of the latest protocol among them, with those made since that follow none: none is averaged with older."""
    latest = max(map(_protocol, records), default=0)
    return [r for r in records if _protocol(r) == latest or r["config"].get("protocol") == 0]


def _protocol(r: Record) -> int:
    return int(r["config"].get("protocol", 0))


def _outside(records: Sequence[Record], experiment: Experiment) -> tuple[str, ...]:
    """The notes under a table of runs that no protocol was followed in, of an experiment that has one."""
    if not experiment.protocol:
        return ()
    without = {r["variant"]: "protocol" in r["config"] for r in records if not _protocol(r)}
    if not any(map(_protocol, records)):
        return (PILOT,) * (False in without.values()) + (OUTSIDE,) * (True in without.values())
    # Costs and schedule are of a preset: what parts its arms is whether they were tuned.
    return (f"Not under the protocol, as their settings were not tuned: {', '.join(without)}.",) if without else ()


def _commits(records: Iterable[Record]) -> tuple[str, ...]:
    names = []
    for r in records:
        commit, dirty = r["provenance"].get("commit"), r["provenance"].get("dirty")
        names.append(f"{str(commit)[:7]}{' (dirty)' if dirty else ''}" if commit else "none")
    return tuple(dict.fromkeys(names))
