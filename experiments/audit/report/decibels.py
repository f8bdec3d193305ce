"""EQ-T and EQ-R of the networks that give maps, beside the section on displacements."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from softeq.experiments.audit.report.drawing import number
from softeq.experiments.audit.report.groups import AuditRecord

_FOLLOWS = {
    "EQ-T": "whole-pixel shifts",
    "EQ-T_frac": "shifts by parts of pixels",
    "EQ-R": "rotations",
}


def decibels(measured: Mapping[str, Mapping[str, AuditRecord]]) -> str:
    """A table, a row a network; where no network has a number, why there is none; nothing of records without them."""
    held = {label: _found(flows) for label, flows in measured.items()}
    held = {label: found for label, found in held.items() if found}
    if not held:
        return ""
    reasons = _reasons(held)
    if not any("value" in one for found in held.values() for one in found.values()):
        return f'<p class="quiet">{reasons}</p>'
    kinds = [kind for kind in _FOLLOWS if any(kind in found for found in held.values())]
    head = "".join(f'<th scope="col">{kind}, dB<br>{_FOLLOWS[kind]}</th>' for kind in kinds)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(_cell(found.get(kind) or {}) for kind in kinds)}</tr>'
        for label, found in held.items()
    )
    return (
        "<h3>How well the map follows</h3><p>EQ-T and EQ-R of Karras et al. (2021): the output's range, squared, over"
        " the mean square of what the map of the transformed image and the transformed map differ by, over random"
        " shifts of up to an eighth of the image and rotations by any angle. 10 decibels more are a tenth of the"
        " squared error. Intervals (95 %) are over the images; each network's range is its own.</p>"
        f'<table><thead><tr><th scope="col">network</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        + (f'<p class="quiet">{reasons}</p>' if reasons else "")
    )


def _found(flows: Mapping[str, AuditRecord]) -> dict[str, Mapping[str, Any]]:
    """Kind -> what was found, from whichever flow has it."""
    return {kind: one for record in flows.values() for kind, one in (record["metrics"].get("decibels") or {}).items()}


def _cell(one: Mapping[str, Any]) -> str:
    if "value" not in one:
        return "<td>–</td>"
    if one["value"] is None:
        return "<td>exact</td>" if one.get("error") == 0 else "<td>–</td>"
    low, high = one.get("interval") or (None, None)
    return f'<td>{number(one["value"])}<br><span class="interval">[{number(low)}, {number(high)}]</span></td>'


def _reasons(held: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Each reason once, with what it is of, and whose where others have numbers."""
    told: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for label, found in held.items():
        for kind, one in found.items():
            if "not_measurable" in one:
                kinds, labels = told.setdefault(str(one["not_measurable"]), ({}, {}))
                kinds[kind] = labels[label] = None
    return " ".join(
        escape(f"No {', '.join(kinds)}{'' if len(labels) == len(held) else ' of ' + ', '.join(labels)}: {why}.")
        for why, (kinds, labels) in told.items()
    )
