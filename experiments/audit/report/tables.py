"""Each network in numbers: a table of the flows, with the facts of the network above."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from softeq.experiments.audit.report.drawing import number
from softeq.experiments.audit.report.groups import AuditRecord, Group
from softeq.experiments.audit.report.sections import everyday, relative_to_declared, top_slope
from softeq.experiments.audit.report.verdict import control_words


def tables(group: Group, measured: Mapping[str, Mapping[str, AuditRecord]]) -> str:
    """A section for each network with what was measured of it."""
    parts = [_model(group, label, flows) for label, flows in measured.items()]
    shown = "".join(parts)
    return f'<details open><summary>Each network in numbers</summary><div class="flow">{shown}</div></details>'


def _model(group: Group, label: str, flows: Mapping[str, AuditRecord]) -> str:
    record = list(flows.values())[-1]
    m, config = record["metrics"], record["config"]
    size = " x ".join(str(n) for n in config.get("image_size") or [])
    accuracy = m.get("accuracy")
    facts = [
        f"{_count(m.get('parameters'))} parameters",
        f"weights {config.get('weights')} {config.get('weights_hash')}",
    ]
    facts += [f"{size} pixels"] if size else []
    facts += (
        [] if accuracy is None else [f"accuracy {100 * accuracy:.1f} % on {m.get('labelled', '?')} labelled images"]
    )
    directions = m.get("directions") or {}
    words = "".join(
        f'<p class="quiet">{which.capitalize()} equivariant affine direction:'
        f" {escape(str(directions[which]['text']))}, {escape(str(directions[which]['interval']))}</p>"
        for which in ("most", "least")
        if "interval" in (directions.get(which) or {})  # without one a direction says more than is known
    )
    absent = [flow for flow in group.flows if flow not in group.models[label]]
    if absent:
        words += f'<p class="quiet">No record yet of {escape(", ".join(absent))}.</p>'
    norm = str(group.settings.get("norm"))
    power = "" if norm == "mean_abs" else "²"
    control = group.settings.get("control")
    rows = "".join(_row(flow, r["metrics"], power, control) for flow, r in flows.items())
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("flow", "LEE [95 %]", "median", "LEE / control", "class's probability", "other stencils")
    )
    caption = (
        f"<caption>{escape(label)}: LEE in {escape(norm)}; the slope of the class's probability at 0; LEE by other"
        " stencils, relative</caption>"
    )
    return (
        f'<section class="model"><h4>{escape(label)}</h4><p class="quiet">{escape(", ".join(facts))}</p>{words}'
        f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _row(flow: str, m: Mapping[str, Any], power: str, control: Any) -> str:
    low, high = m.get("lee_interval") or (None, None)
    missing = m.get("missing") or 0
    lost = f'<br><span class="interval">{missing:d} image{"s" * (missing > 1)} left out</span>' if missing else ""
    own = m.get("control", control)
    over = "" if own == control else f'<br><span class="interval">over {escape(control_words(m))}</span>'
    unit = {"pixels": "pixel", "radians": "radian", "intensity": "intensity"}.get(str(m.get("unit")))
    per = f'<br><span class="interval">per {unit}{power}</span>' if unit else ""
    return (
        f'<tr><th scope="row">{escape(flow)}{per}</th>'
        f'<td>{number(m.get("lee_mean"))}<br><span class="interval">[{number(low)}, {number(high)}]</span>{lost}</td>'
        f"<td>{number(m.get('lee_median'))}</td><td>{number(m.get('ratio_to_control'))}{over}</td><td>{_familiar(m)}</td><td>{_band(m)}</td></tr>"
    )


def _familiar(m: Mapping[str, Any]) -> str:
    found = top_slope(m)
    if found is None:
        return "–"
    return f'{number(found[0])}<br><span class="interval">per {everyday(str(m.get("unit")))[0]}</span>'


def _band(m: Mapping[str, Any]) -> str:
    ratios = relative_to_declared(m)
    if not ratios:
        return "–"
    return f"{number(min(ratios.values()))} to {number(max(ratios.values()))}"


def _count(value: Any) -> str:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "unknown number of"
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e3 else str(value)
