"""The figures of one chapter of the audit's page; ``measured`` maps label -> flow -> record."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy

from softeq.experiments.audit.report.drawing import heat_png, legend, number
from softeq.experiments.audit.report.figures import Dot, bars, dot_rows, scatter
from softeq.experiments.audit.report.groups import AuditRecord
from softeq.experiments.audit.report.verdict import control_words
from softeq.measure.results.layers import HOW_TO_READ

Measured = Mapping[str, Mapping[str, AuditRecord]]

BARS = 8
"""Modules shown per flow; the others are summed."""


def _flows(measured: Measured) -> list[str]:
    return list(dict.fromkeys(flow for records in measured.values() for flow in records))


def figures(settings: Mapping[str, Any], measured: Measured) -> str:
    """LEE beside its control, LEE itself, and in familiar units; LEE against accuracy or size for several models."""
    labels = list(measured)
    absolute, ratio, familiar = [], [], []
    for flow in _flows(measured):
        held = [
            (i, label, measured[label][flow]["metrics"]) for i, label in enumerate(labels) if flow in measured[label]
        ]
        absolute.append((flow, [_dot(m, i, label, "lee_mean", "lee_interval") for i, label, m in held]))
        ratio.append((flow, [_dot(m, i, label, "ratio_to_control", "ratio_interval") for i, label, m in held]))
        dots = [Dot(v[0], i, label, v[1], v[2]) for i, label, m in held if (v := top_slope(m)) is not None]
        familiar += [(f"{flow}, per {everyday(str(held[0][2].get('unit')))[0]}", dots)] if dots else []
    what = f"{settings.get('norm')} of {settings.get('output')}"
    kinds = {
        r["metrics"].get("control", settings.get("control")) for flows in measured.values() for r in flows.values()
    }
    other = f" Colours are held against {control_words({'control': 'noise'})}." if len(kinds) > 1 else ""
    drawn = [
        (
            dot_rows(ratio, label="LEE / control", one=True, alt="LEE relative to its control; in the tables"),
            "Image by image over the answer to the control, the median and its 95 % bootstrap interval. Rows are"
            " comparable; left of the dashed line the model is calmer under the flow than under the control." + other,
        ),
        (
            dot_rows(absolute, label=f"LEE, {what}", alt=f"Local equivariance error, {what}; in the tables"),
            "Mean over the images and its 95 % bootstrap interval, per pixel, radian or unit of stretch, squared unless"
            " the norm is mean_abs: compare models within a row, not rows.",
        ),
    ]
    if familiar:
        drawn.append(
            (
                dot_rows(familiar, label="change of the class's probability", alt="In familiar units; in the tables"),
                "|d/dt| of the probability of the class that the image has: the mean over the images and its 95 %"
                " bootstrap interval. The slope at 0: real displacements are above.",
            )
        )
    shown = "".join(f"<figure>{svg}<figcaption>{text}</figcaption></figure>" for svg, text in drawn)
    return (
        f'<h3>How the answer starts to change</h3>{legend(labels)}<div class="flow">{shown}</div>{_against(measured)}'
    )


def everyday(unit: str) -> tuple[str, float]:
    """The unit that people measure a motion in, and its size in the flow's own."""
    known = {"pixels": ("pixel", 1.0), "radians": ("degree", math.pi / 180)}
    return known.get(unit, ("percent", 0.01))


def top_slope(m: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """The change of the top class's probability per everyday unit: mean and interval; None where there is none."""
    values = [float(v) for v in m.get("top_slope_per_sample") or [] if v is not None]
    if not values:
        return None
    size = everyday(str(m.get("unit")))[1]
    column = numpy.array(values) * size
    drawn = column[numpy.random.default_rng(0).integers(0, len(column), (2000, len(column)))].mean(1)
    low, high = numpy.quantile(drawn, (0.025, 0.975))
    return float(column.mean()), float(low), float(high)


def _dot(m: Mapping[str, Any], series: int, label: str, value: str, interval: str) -> Dot:
    low, high = m.get(interval) or (None, None)
    return Dot(_float(m.get(value)), series, label, low, high)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _against(measured: Measured) -> str:
    """Small panels, one for each flow: LEE against accuracy where every model has one, else against size."""
    if len(measured) < 2:
        return ""
    facts = {label: next(iter(flows.values()))["metrics"] for label, flows in measured.items()}
    key = "accuracy" if all(m.get("accuracy") is not None for m in facts.values()) else "parameters"
    name, unit = ("accuracy", 1.0) if key == "accuracy" else ("parameters, millions", 1e6)
    panels = []
    for flow in _flows(measured):
        points = [
            (_float(facts[label].get(key)) / unit, _float(flows[flow]["metrics"].get("lee_mean")), i, label)
            for i, (label, flows) in enumerate(measured.items())
            if flow in flows
        ]
        points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1]) and p[1] > 0]
        if len(points) > 1:
            alt = f"LEE under {flow} against {name}: " + "; ".join(
                f"{p[3]} {number(p[0])}, {number(p[1])}" for p in points
            )
            panels.append(scatter(points, title=flow, x_label=name, y_label="LEE", alt=alt, log_x=key == "parameters"))
    if not panels:
        return ""
    names = legend(list(measured))
    return f'<details><summary>LEE against {key}</summary>{names}<div class="flow">{"".join(panels)}</div></details>'


def relative_to_declared(m: Mapping[str, Any]) -> dict[str, float]:
    """LEE by each other stencil over LEE by the declared one on the same images; without what could not be measured."""
    entries = m.get("stencils") or {}
    declared = next((e.get("lee_mean") for e in entries.values() if e.get("declared")), None)
    if declared is None or not math.isfinite(declared) or declared <= 0:
        return {}
    found = {
        n: e["lee_mean"] / declared
        for n, e in entries.items()
        if not e.get("declared") and e.get("lee_mean") is not None
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def stencils(settings: Mapping[str, Any], measured: Measured) -> str:
    """How much each model's LEE depends on the stencil that differentiates the image."""
    names = list(
        dict.fromkeys(
            n for flows in measured.values() for r in flows.values() for n in relative_to_declared(r["metrics"])
        )
    )
    if not names:
        return ""
    panels = []
    for label, flows in measured.items():
        ratios = {flow: relative_to_declared(r["metrics"]) for flow, r in flows.items()}
        rows = [(flow, [Dot(v, names.index(n), n) for n, v in own.items()]) for flow, own in ratios.items() if own]
        if rows:
            said = "; ".join(f"{f}: " + ", ".join(f"{d.label} {number(d.value)}" for d in dots) for f, dots in rows)
            axis_label = f"LEE / LEE by {settings.get('stencil')}"
            drawn = dot_rows(rows, label=axis_label, one=True, alt=f"Stencil sensitivity of {label}. {said}")
            panels.append(f"<figure><h4>{escape(label)}</h4>{drawn}</figure>")
    return (
        "<details><summary>Sensitivity to the stencil</summary><p>LEE by other ways to differentiate the image,"
        f" relative to {escape(str(settings.get('stencil')))}, on the first"
        f" {escape(str(settings.get('stencil_images', '?')))} images"
        " (or all, where there are fewer). A number far from 1 says that the result hangs on pixels, not on the"
        " symmetry. <em>reference</em> is the published rounding of a bilinear kink.</p>"
        f'{legend(names)}<div class="flow">{"".join(panels)}</div></details>'
    )


def layerwise(measured: Measured) -> str:
    """Signed shares of the modules in each recorded flow's Lie derivative."""
    parts = []
    for label, flows in measured.items():
        held = [(f, r, r["metrics"].get("layerwise") or {}) for f, r in flows.items()]
        panels = [_split(label, flow, split) for flow, _, split in held if split.get("shares")]
        counts = {str(r["config"].get("layerwise", "?")) for _, r, split in held if split.get("shares")}
        if panels:
            several = f"{escape(' or '.join(sorted(counts)))} images"
            summary = f"{escape(label)}, on the first {'image' if counts == {'1'} else several}"
            parts.append(f'<details><summary>{summary}</summary><div class="flow">{"".join(panels)}</div></details>')
    if not parts:
        return ""
    return (
        "<h3>Where the error arises</h3><p>Signed shares of the modules in ‖Lf‖²; together they make 100 %. "
        f"{HOW_TO_READ} Lines are 95 % bootstrap intervals over the images. The gap is what the sum misses of the"
        " end-to-end derivative.</p>" + "".join(parts)
    )


def _split(label: str, flow: str, split: Mapping[str, Any]) -> str:
    ends = split.get("intervals") or [None] * len(split["shares"])
    held = [(str(n), _float(v), _interval(e)) for (n, v), e in zip(split["shares"], ends, strict=True)]
    shares = sorted(held, key=lambda entry: -abs(entry[1]))
    shown = shares[:BARS]
    if len(shares) > BARS:
        shown.append((f"{len(shares) - BARS} others together", math.fsum(v for _, v, _ in shares[BARS:]), None))
    alt = f"{label}, {flow}: " + ", ".join(f"{n} {100 * v:.1f} %" for n, v, _ in shown)
    lost = [str(n) for n, _ in split.get("not_attributable") or []]
    listed = f"; not attributable: {', '.join(lost)}" if lost else ""
    caption = f"gap {number(split.get('gap'))}{listed}"
    return (
        f"<figure><h4>{escape(flow)}</h4>{bars(shown, label='share of ‖Lf‖²', alt=alt)}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _interval(ends: Any) -> tuple[float, float] | None:
    return None if ends is None or None in ends else (float(ends[0]), float(ends[1]))


def maps(measured: Measured) -> str:
    """Where moving the image changes the output, pixel by pixel, beside one image."""
    parts = [_maps(label, flows) for label, flows in measured.items()]
    if not any(parts):
        return ""
    return (
        "<h3>Where moving the image changes the output</h3><p>For each pixel, the flow's tangent times the gradient"
        " of the largest output, summed over colours, in absolute value. White is 0 and dark red the largest of each"
        f" map.</p>{''.join(parts)}"
    )


def _maps(label: str, flows: Mapping[str, AuditRecord]) -> str:
    first, mean = [], []
    image = ""
    for flow, record in flows.items():
        entry = record["metrics"].get("map") or {}
        if "mean" not in entry:
            continue
        image = image or str(record["metrics"].get("image") or "")
        count = record["config"].get("count", "?")
        first.append(_tile(entry, "first", flow, f"{label}, {flow}: the first image alone"))
        mean.append(_tile(entry, "mean", flow, f"{label}, {flow}: mean over {count} images"))
    if not mean:
        return ""
    shown = _image(image)
    return (
        f'<h4>{escape(label)}</h4><div class="cards"><div><p class="quiet">Mean over all images:</p>'
        f'<div class="maps">{"".join(mean)}</div></div><div><p class="quiet">The first image alone:</p>'
        f'<div class="maps">{shown}{"".join(first)}</div></div></div>'
    )


def _tile(entry: Mapping[str, Any], which: str, flow: str, alt: str) -> str:
    height, width = int(entry["height"]), int(entry["width"])
    raw = _decode(entry[which])
    if len(raw) != height * width:
        return f"<figure><figcaption>{escape(flow)}: the record's map is damaged</figcaption></figure>"
    values = numpy.frombuffer(raw, numpy.uint8).reshape(height, width) / 255.0
    peak = number(_float(entry.get(f"{which}_peak")))
    return (
        f'<figure><img src="{heat_png(values)}" alt="{escape(alt)}; largest {peak}" width="{width}" height="{height}">'
        f"<figcaption>{escape(flow)}</figcaption></figure>"
    )


def _image(encoded: str) -> str:
    raw = _decode(encoded)
    if not raw:
        return ""
    source = f"data:image/jpeg;base64,{base64.b64encode(raw).decode()}"
    return (
        f'<figure><img class="image" src="{source}" alt="the first image as the model sees it">'
        "<figcaption>the image</figcaption></figure>"
    )


def _decode(encoded: Any) -> bytes:
    try:
        return base64.b64decode(str(encoded), validate=True)
    except (binascii.Error, ValueError):
        return b""
