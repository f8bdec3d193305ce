"""Which network is the most equivariant: ranked image by image, with paired intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy

from softeq.experiments.audit.report.drawing import number
from softeq.experiments.audit.report.groups import AuditRecord
from softeq.experiments.audit.report.verdict import control_words, untrained

MOTIONS: Mapping[str, tuple[str, ...]] = {
    "shifts": ("translation_x", "translation_y"),
    "rotation": ("rotation",),
    "scale": ("scale",),
}
_DRAWS = 2000


@dataclass(frozen=True)
class Rank:
    """One network's place.

    Attributes:
        label: the network.
        ratio: its error over its control, the geometric mean over images and flows.
        times: that over the first network's, with its interval; None for the first.
    """

    label: str
    ratio: float
    times: tuple[float, float, float] | None


def rank(measured: Mapping[str, Mapping[str, AuditRecord]], flows: Sequence[str], seed: int = 0) -> list[Rank]:
    """Trained networks by the geometric mean of LEE over its control, the most equivariant first.

    The factor over the first one is paired: image by image, with a percentile bootstrap interval (95 %) over images.
    """
    logs = {label: _logs(held, flows) for label, held in measured.items() if not _random(held)}
    known = {label: column for label, column in logs.items() if column is not None}
    if len({len(column) for column in known.values()}) != 1:
        return []
    means = {label: float(numpy.nanmean(column)) for label, column in known.items()}
    order = sorted(means, key=means.__getitem__)
    first = known[order[0]]
    return [
        Rank(label, math.exp(means[label]), None if label == order[0] else _times(known[label] - first, seed))
        for label in order
    ]


def _random(flows: Mapping[str, AuditRecord]) -> bool:
    return untrained(next(iter(flows.values()))["config"])


def _logs(held: Mapping[str, AuditRecord], flows: Sequence[str]) -> numpy.ndarray | None:
    """Per image the mean over flows of the log of LEE over its control; NaN where one is missing or 0."""
    columns = []
    for flow in flows:
        m = held[flow]["metrics"] if flow in held else {}
        errors, controls = m.get("per_sample") or [], m.get("control_per_sample") or []
        if not errors or len(errors) != len(controls):
            return None
        with numpy.errstate(divide="ignore", invalid="ignore"):
            ratio = numpy.array(errors, float) / numpy.array(controls, float)
            columns.append(numpy.where(numpy.isfinite(ratio) & (ratio > 0), numpy.log(ratio), numpy.nan))
    if len({len(column) for column in columns}) != 1:
        return None
    joined = numpy.mean(columns, axis=0)
    return joined if numpy.isfinite(joined).any() else None


def _times(differences: numpy.ndarray, seed: int) -> tuple[float, float, float]:
    held = differences[numpy.isfinite(differences)]
    if not len(held):
        return math.nan, math.nan, math.nan
    drawn = numpy.random.default_rng(seed).integers(0, len(held), (_DRAWS, len(held)))
    low, high = numpy.quantile(held[drawn].mean(1), (0.025, 0.975))
    return math.exp(held.mean()), math.exp(low), math.exp(high)


def ranking(settings: Mapping[str, Any], measured: Mapping[str, Mapping[str, AuditRecord]]) -> str:
    """A table for each motion; nothing for a single network."""
    seed = settings.get("seed")
    tables = [
        _table(motion, rank(measured, flows, seed if isinstance(seed, int) else 0)) for motion, flows in MOTIONS.items()
    ]
    shown = "".join(table for table in tables if table)
    if not shown:
        return ""
    left = [label for label, held in measured.items() if _random(held)]
    note = f" Left out, as their weights are random: {escape(', '.join(left))}." if left else ""
    return (
        f"<h3>Ranking</h3><p>By the error over its control ({escape(control_words(settings))}), a geometric mean over"
        " the images: 0 for an equivariant network, about 1 for one that has learned nothing of the symmetry. Factors"
        " over the first are paired, image by image; an interval that holds 1 says that the order is not settled."
        f'{note}</p><div class="cards">{shown}</div>'
    )


def _table(motion: str, ranks: Sequence[Rank]) -> str:
    if len(ranks) < 2:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{i}. {escape(r.label)}</th><td>{number(r.ratio)}</td><td>{_factor(r)}</td></tr>'
        for i, r in enumerate(ranks, 1)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in (motion, "LEE / control", "times the first [95 %]"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _factor(one: Rank) -> str:
    if one.times is None:
        return "–"
    factor, low, high = one.times
    return f'{number(factor)}<br><span class="interval">[{number(low)}, {number(high)}]</span>'
