"""Figures of the audit's page as text: inline SVG drawn by hand, and PNG data URIs for the maps.

A figure is drawn at the width of a phone and never scaled up, so that its text has one size on every screen; the page
lets figures flow side by side where there is room. Series differ in colour and in shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from softeq.experiments.audit.report.drawing import (
    COLOURS,
    GRID,
    INK,
    QUIET,
    WIDTH,
    Axis,
    axis,
    draw_line,
    draw_svg,
    draw_text,
    marker,
    number,
    tick_text,
)

_ROW, _STEP, _TOP = 9.0, 12.0, 8.0


@dataclass(frozen=True)
class Dot:
    """One value in a row of `dot_rows`: with an interval where there is one, in the colour of its series."""

    value: float
    series: int
    label: str
    low: float | None = None
    high: float | None = None


def dot_rows(
    rows: Sequence[tuple[str, Sequence[Dot]]], *, label: str, alt: str, one: bool = False, width: int = WIDTH
) -> str:
    """Rows of values on one logarithmic axis, each value with its interval.

    A value of zero sits on the left edge, hollow.

    Args:
        rows: a row's name and its dots.
        label: what the axis shows, with its unit.
        alt: what the figure says, for those who do not see it.
        one: draw a line at 1 and keep it inside.
        width: pixels.
    """
    left = 12 + 6.4 * max([len(name) for name, _ in rows] or [0])
    every = [v for _, dots in rows for d in dots for v in (d.value, d.low, d.high) if v is not None]
    scale = axis([*every, *([1.0] if one else [])], left, width - 14)
    parts, y = [], _TOP
    for name, dots in rows:
        height = max(len(dots), 1) * _STEP + _ROW
        middle = y + height / 2
        parts.append(draw_text(left - 8, middle + 4, name, anchor="end"))
        parts.append(draw_line(left, y + height, width - 14, y + height, GRID))
        parts += [_dot(d, scale, y + _ROW / 2 + (i + 0.5) * _STEP) for i, d in enumerate(dots)]
        y += height
    guides = [draw_line(scale(t), _TOP, scale(t), y, GRID) for t in scale.ticks()]
    if one:
        guides.append(draw_line(scale(1), _TOP, scale(1), y, QUIET, "4 3"))
    return draw_svg(width, y + 38, [*guides, *parts, *_bottom(scale, y, label, width)], alt)


def _dot(dot: Dot, scale: Axis, y: float) -> str:
    if not math.isfinite(dot.value):
        return draw_text(scale.start + 4, y + 4, f"{dot.label}: {number(dot.value)}", colour=QUIET, size=10)
    title = f"<title>{escape(f'{dot.label}: {number(dot.value)}')}</title>"
    colour = COLOURS[dot.series % len(COLOURS)]
    if scale.log and dot.value <= 0:
        mark = (
            f'<circle cx="{scale.start:.1f}" cy="{y:.1f}" r="3.5" fill="#FFFFFF" stroke="{colour}" stroke-width="2"/>'
        )
        return f"<g>{title}{mark}</g>"
    bar = ""
    if dot.low is not None and dot.high is not None and math.isfinite(dot.low) and math.isfinite(dot.high):
        bar = draw_line(scale(dot.low), y, scale(dot.high), y, colour, width=2)
    return f"<g>{title}{bar}{marker(scale(dot.value), y, dot.series)}</g>"


def scatter(
    points: Sequence[tuple[float, float, int, str]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    alt: str,
    log_x: bool,
    width: int = 180,
) -> str:
    """Points ``(x, y, series, name)``; y is logarithmic."""
    left, bottom = 46.0, 186.0
    across = axis([p[0] for p in points], left, width - 12, log=log_x)
    up = axis([p[1] for p in points], bottom, 26.0)
    parts = [draw_text(left, 14, title, weight=600), draw_text(4, 14, y_label, size=10, colour=QUIET)]
    for tick in up.ticks():
        parts.append(draw_line(left, up(tick), width - 12, up(tick), GRID))
        parts.append(draw_text(left - 5, up(tick) + 4, tick_text(tick, True), anchor="end", size=10, colour=QUIET))
    parts.append(draw_line(left, 26, left, bottom, QUIET))
    parts.append(draw_line(left, bottom, width - 12, bottom, QUIET))
    for x, y, series, name in points:
        label = f"{name}: {number(x)}, {number(y)}"
        parts.append(f"<g><title>{escape(label)}</title>{marker(across(x), up(y), series)}</g>")
    return draw_svg(width, bottom + 38, [*parts, *_bottom(across, bottom, x_label, width)], alt)


def bars(
    values: Sequence[tuple[str, float, tuple[float, float] | None]], *, label: str, alt: str, width: int = WIDTH
) -> str:
    """Signed bars with their intervals, each under its own name, so that a module's long path fits."""
    ends = [end for _, _, interval in values for end in interval or ()]
    scale = axis([0.0, *(v for _, v, _ in values), *ends], 12, width - 52, log=False)
    parts, y = [], _TOP + 4
    for name, value, interval in values:
        x, zero = scale(value), scale(0)
        low, high = (x, x) if interval is None else (scale(interval[0]), scale(interval[1]))
        colour = COLOURS[0] if value >= 0 else COLOURS[1]
        parts.append(draw_line(zero, y + 10, zero, y + 24, QUIET))
        parts.append(draw_text(12, y + 8, _shorten(name, 52), size=11, title=name))
        parts.append(
            f'<rect x="{min(x, zero):.1f}" y="{y + 12:.1f}" width="{max(abs(x - zero), 1):.1f}" height="10" '
            f'fill="{colour}"/>'
        )
        if interval is not None:
            parts.append(draw_line(low, y + 17, high, y + 17, INK))
        parts.append(draw_text(max(x, zero, high) + 5, y + 21, f"{100 * value:.1f} %".replace("-", "−"), size=11))
        y += 30
    return draw_svg(width, y + 38, [*parts, *_bottom(scale, y, label, width, percent=True)], alt)


def _shorten(name: str, length: int) -> str:
    keep = (length - 1) // 2
    return name if len(name) <= length else f"{name[:keep]}…{name[-keep:]}"


def _bottom(scale: Axis, y: float, label: str, width: int, *, percent: bool = False) -> list[str]:
    parts, last = [], -math.inf
    for tick in scale.ticks():
        if scale(tick) - last < 34:
            continue
        last = scale(tick)
        text = f"{100 * tick:.4g} %".replace("-", "−") if percent else tick_text(tick, scale.log)
        parts.append(draw_text(scale(tick), y + 14, text, anchor="middle", size=10, colour=QUIET))
    parts.append(draw_text((scale.start + scale.end) / 2, y + 31, label, anchor="middle", size=11))
    return parts
