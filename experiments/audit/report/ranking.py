"""Which network is the most equivariant: ranked image by image, with paired intervals and p-values by Holm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy

from softeq.experiments.audit.report.drawing import number
from softeq.experiments.audit.report.groups import AuditRecord
from softeq.experiments.audit.report.verdict import control_words, untrained
from softeq.experiments.show.paired import Paired, holm, p_text, paired

MOTIONS: Mapping[str, tuple[str, ...]] = {
    "shifts": ("translation_x", "translation_y"),
    "rotation": ("rotation",),
    "scale": ("scale",),
}


@dataclass(frozen=True)
class Rank:
    """One network's place.

    Attributes:
        label: the network.
        ratio: its error over its control, the geometric mean over images and flows.
        times: that over the first network's; None for the first, and where no image has both.
    """

    label: str
    ratio: float
    times: Paired | None


def rank(measured: Mapping[str, Mapping[str, AuditRecord]], flows: Sequence[str]) -> list[Rank]:
    """Trained networks by the geometric mean of LEE over its control, the most equivariant first.

    The factor over the first one is paired, image by image: see `experiments.show.paired`. p is not adjusted yet.
    """
    logs = {label: _logs(held, flows) for label, held in measured.items() if not _random(held)}
    known = {label: column for label, column in logs.items() if column is not None}
    if len({len(column) for column in known.values()}) != 1:
        return []
    means = {label: float(numpy.nanmean(column)) for label, column in known.items()}
    order = sorted(means, key=means.__getitem__)
    first = known[order[0]]
    return [
        Rank(label, math.exp(means[label]), None if label == order[0] else _times(known[label], first))
        for label in order
    ]


def ranks(measured: Mapping[str, Mapping[str, AuditRecord]]) -> dict[str, list[Rank]]:
    """Motion -> the networks' ranks, p by Holm over all of them together."""
    found = {motion: rank(measured, flows) for motion, flows in MOTIONS.items()}
    compared = [one.times for ranked in found.values() for one in ranked if one.times is not None]
    adjusted = iter(holm(compared))
    return {
        motion: [one if one.times is None else replace(one, times=next(adjusted)) for one in ranked]
        for motion, ranked in found.items()
    }


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


def _times(logs: numpy.ndarray, first: numpy.ndarray) -> Paired | None:
    own, other = (
        {k: math.exp(v) for k, v in enumerate(column.tolist()) if math.isfinite(v)} for column in (logs, first)
    )
    return paired(own, other, "ratio") if own.keys() & other.keys() else None


def ranking(settings: Mapping[str, Any], measured: Mapping[str, Mapping[str, AuditRecord]]) -> str:
    """A table for each motion; nothing for a single network."""
    tables = [_table(motion, ranked) for motion, ranked in ranks(measured).items()]
    shown = "".join(table for table in tables if table)
    if not shown:
        return ""
    left = [label for label, held in measured.items() if _random(held)]
    note = f" Left out, as their weights are random: {escape(', '.join(left))}." if left else ""
    return (
        f"<h3>Ranking</h3><p>By the error over its control ({escape(control_words(settings))}), a geometric mean over"
        " the images: 0 for an equivariant network, about 1 for one that has learned nothing of the symmetry. Factors"
        " over the first are paired, image by image, with intervals and p of no difference by Student's t on their"
        " logarithms; p is Holm's, adjusted for all comparisons of these tables. An interval that holds 1 says that the"
        " order is not settled."
        f'{note}</p><div class="cards">{shown}</div>'
    )


def _table(motion: str, ranks: Sequence[Rank]) -> str:
    if len(ranks) < 2:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{i}. {escape(r.label)}</th><td>{number(r.ratio)}</td><td>{_factor(r)}</td></tr>'
        for i, r in enumerate(ranks, 1)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in (motion, "LEE / control", "times the first [95 %], p"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _factor(one: Rank) -> str:
    if one.times is None:
        return "–"
    t = one.times
    ends = f"[{number(t.low)}, {number(t.high)}], {p_text(t.p).replace('<', '&lt;')}"
    return f'{number(t.value)}<br><span class="interval">{ends}</span>'
