"""The section on whole displacements: what they change, and how many decisions stand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from softeq.experiments.audit.curve import FACTORS
from softeq.experiments.audit.report.drawing import legend, number
from softeq.experiments.audit.report.groups import AuditRecord
from softeq.experiments.audit.report.lines import Series, lines

_TURNS = ("rotation", "hue")
_TICKS = dict.fromkeys(_TURNS, (-180, -90, 0, 90, 180)) | dict.fromkeys(FACTORS, (0.5, 0.7, 1.0, 1.4, 2.0))
_WORDS = {
    "translation_x": "shift to the right, pixels",
    "translation_y": "shift downwards, pixels",
    "rotation": "rotation, degrees",
    "scale": "size, times the image's",
    "brightness": "intensity added, of 1",
    "exposure": "exposure, times the image's",
    "contrast": "contrast, times the image's",
    "saturation": "saturation, times the image's",
    "hue": "hue, degrees",
}


def curves(measured: Mapping[str, Mapping[str, AuditRecord]]) -> str:
    """Panels per motion: the change of the output, and where there are classes the decisions that stand."""
    flows = [flow for flow in _WORDS if any(_rows(held, flow) for held in measured.values())]
    if not flows:
        return ""
    with_classes = [any("change" in row for flow in flows for row in _rows(held, flow)) for held in measured.values()]
    drawn, words = [], []
    if not all(with_classes):  # what every network has
        drawn += [_panel(measured, flow, "relative") for flow in flows]
        words.append(
            "The change of the output relative to its size, after an output that should move along was transformed back"
            " (what left the frame is left out)."
        )
    if any(with_classes):
        drawn += [_panel(measured, flow, "change") for flow in flows] + [_kept(measured, flow) for flow in flows]
        words.append("The change of the probability of the class that the image had, and the decisions that stand.")
    return (
        f"<h3>Real displacements</h3><p>{' '.join(words)} Means over the images; bands are 95 % bootstrap intervals;"
        f" the dotted line is the slope at 0, which the Lie derivative measures.</p>{legend(list(measured))}"
        f'<div class="flow">{"".join(f"<figure>{svg}</figure>" for svg in drawn)}</div>'
    )


def _rows(held: Mapping[str, AuditRecord], flow: str) -> Sequence[Mapping[str, Any]]:
    curve = (held[flow]["metrics"].get("curve") if flow in held else None) or {}
    return curve.get("rows") or []


def _panel(measured: Mapping[str, Mapping[str, AuditRecord]], flow: str, key: str) -> str:
    series = []
    for mark, (label, held) in enumerate(measured.items()):
        points = [
            (float(row["step"]), float(row[key]), *(row.get(f"{key}_interval") or (None, None)))
            for row in _rows(held, flow)
            if row.get(key) is not None
        ]
        start = _slope(held[flow]["metrics"], key) if flow in held and flow.startswith("translation") else None
        series.append(Series(label, mark, points, start))
    title = "change of the class's probability" if key == "change" else "relative change of the output"
    shift = flow.startswith("translation")
    return lines(
        series,
        title=flow,
        x_label=_WORDS[flow],
        y_label=title,
        alt=f"{title} over {_WORDS[flow]}: {_said(series)}",
        log_x=shift or flow in FACTORS,
        log_y=shift,
        x_ticks=_TICKS.get(flow, ()),
    )


def _slope(m: Mapping[str, Any], key: str) -> float | None:
    """The slope at 0 per pixel of what is drawn."""
    values = m.get("top_slope_per_sample") if key == "change" else m.get("relative_per_sample")
    known = [float(v) if key == "change" else math.sqrt(max(float(v), 0.0)) for v in values or [] if v is not None]
    return sum(known) / len(known) if known else None


def _kept(measured: Mapping[str, Mapping[str, AuditRecord]], flow: str) -> str:
    series = []
    for mark, (label, held) in enumerate(measured.items()):
        images = ((held[flow]["metrics"].get("curve") or {}).get("images") if flow in held else 0) or 1
        points = [(float(row["step"]), row["kept"] / images, None, None) for row in _rows(held, flow) if "kept" in row]
        series.append(Series(label, mark, points))
    return lines(
        series,
        title=flow,
        x_label=_WORDS[flow],
        y_label="share of decisions that stand",
        alt=f"Share of decisions that stand over {_WORDS[flow]}: {_said(series)}",
        log_x=flow.startswith("translation") or flow in FACTORS,
        y_range=(0.0, 1.05),
        x_ticks=_TICKS.get(flow, ()),
    )


def _said(series: Sequence[Series]) -> str:
    return "; ".join(
        f"{one.name} {number(one.points[0][1])} to {number(max(p[1] for p in one.points))}"
        for one in series
        if one.points
    )
