"""Figures of the audit's page as text: inline SVG drawn by hand, and PNG data URIs for the maps.

A figure is drawn at the width of a phone and never scaled up, so that its text has one size on every screen; the page
lets figures flow side by side where there is room. Series differ in colour and in shape.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy

COLOURS = ("#0072B2", "#D55E00", "#007A57", "#A8487D", "#3A3A3A", "#8A6100", "#4B3FA0")
"""After Okabe and Ito, darkened to a contrast of 4.5 against white."""

WIDTH = 372
"""Pixels: what a screen of 420 leaves beside the page's padding."""

_INK, _QUIET, _GRID = "#222222", "#555555", "#DDDDDD"
_HEAT = ((255, 252, 245), (253, 212, 158), (239, 101, 72), (127, 0, 0))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ROW, _STEP, _TOP = 9.0, 12.0, 8.0


@dataclass(frozen=True)
class Dot:
    """One value in a row of `dot_rows`: with an interval where there is one, in the colour of its series."""

    value: float
    series: int
    label: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Axis:
    """A map from values to pixels between ``start`` and ``end``, and its ticks; see `axis`."""

    log: bool
    lower: float
    upper: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, clipped to the axis; what a logarithm does not have sits at the start."""
        if self.log and value <= 0:
            return self.start
        low, high, now = (math.log10(v) if self.log else v for v in (self.lower, self.upper, value))
        share = min(max((now - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """A handful of round values inside the axis."""
        if not self.log:
            return _linear_ticks(self.lower, self.upper)
        first, last = math.floor(math.log10(self.lower)), math.ceil(math.log10(self.upper))
        decades = [10.0**k for k in range(first, last + 1, max(1, (last - first) // 4))]
        inside = [d for d in decades if self.lower * 0.999 <= d <= self.upper * 1.001]
        if len(inside) >= 2:
            return inside
        finer = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
        inside = [t for t in finer if self.lower * 0.999 <= t <= self.upper * 1.001]
        return inside if len(inside) >= 2 else _linear_ticks(self.lower, self.upper)


def axis(values: Sequence[float], start: float, end: float, *, log: bool = True) -> Axis:
    """An axis that holds the finite values (the positive ones if ``log``), with some room at both sides."""
    held = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(held), max(held)) if held else (0.1, 10.0)
    if log:
        room = max((high / low) ** 0.05, 1.3)
        return Axis(True, low / room, high * room, start, end)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(False, low - room, high + room, start, end)


def _linear_ticks(low: float, high: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10(high - low))
    for step in (power, power / 2, power / 5, power / 10):  # the coarsest round step with three ticks
        ticks = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(ticks) >= 3:
            break
    return ticks


def number(value: float | None) -> str:
    """Three figures, with a power of ten where the number is far from one; ``–`` for what there is none of."""
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}".replace("-", "−") if abs(value) < 1000 else f"{value:.0f}".replace("-", "−")
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa.replace('-', '−')}×10{str(int(power)).translate(_SUPERSCRIPT)}"


def _tick(value: float, log: bool) -> str:
    power = math.log10(value) if log and value > 0 else 0.5
    if log and not 1e-2 <= value <= 1e3 and abs(power - round(power)) < 1e-6:
        return f"10{str(round(power)).translate(_SUPERSCRIPT)}"
    if not log and abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    return number(float(f"{value:.4g}"))


def marker(x: float, y: float, series: int) -> str:
    """The mark of a series: seven colours and four shapes, so that 28 series all differ."""
    colour, shape = COLOURS[series % len(COLOURS)], series % 4
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if shape == 1:
        return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" fill="{colour}"/>'
    corners = ((0, -5), (4.6, 3.6), (-4.6, 3.6)) if shape == 2 else ((0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0))
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'


def legend(names: Sequence[str]) -> str:
    """The marks of the series with their names, as an HTML list that wraps."""
    items = "".join(
        f'<li><svg width="14" height="14" aria-hidden="true">{marker(7, 7, i)}</svg> {escape(name)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


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
        parts.append(_text(left - 8, middle + 4, name, anchor="end"))
        parts.append(_line(left, y + height, width - 14, y + height, _GRID))
        parts += [_dot(d, scale, y + _ROW / 2 + (i + 0.5) * _STEP) for i, d in enumerate(dots)]
        y += height
    guides = [_line(scale(t), _TOP, scale(t), y, _GRID) for t in scale.ticks()]
    if one:
        guides.append(_line(scale(1), _TOP, scale(1), y, _QUIET, "4 3"))
    return _svg(width, y + 38, [*guides, *parts, *_bottom(scale, y, label, width)], alt)


def _dot(dot: Dot, scale: Axis, y: float) -> str:
    if not math.isfinite(dot.value):
        return _text(scale.start + 4, y + 4, f"{dot.label}: {number(dot.value)}", colour=_QUIET, size=10)
    title = f"<title>{escape(f'{dot.label}: {number(dot.value)}')}</title>"
    colour = COLOURS[dot.series % len(COLOURS)]
    if scale.log and dot.value <= 0:
        mark = (
            f'<circle cx="{scale.start:.1f}" cy="{y:.1f}" r="3.5" fill="#FFFFFF" stroke="{colour}" stroke-width="2"/>'
        )
        return f"<g>{title}{mark}</g>"
    bar = ""
    if dot.low is not None and dot.high is not None and math.isfinite(dot.low) and math.isfinite(dot.high):
        bar = _line(scale(dot.low), y, scale(dot.high), y, colour, width=2)
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
    parts = [_text(left, 14, title, weight=600), _text(4, 14, y_label, size=10, colour=_QUIET)]
    for tick in up.ticks():
        parts.append(_line(left, up(tick), width - 12, up(tick), _GRID))
        parts.append(_text(left - 5, up(tick) + 4, _tick(tick, True), anchor="end", size=10, colour=_QUIET))
    parts.append(_line(left, 26, left, bottom, _QUIET))
    parts.append(_line(left, bottom, width - 12, bottom, _QUIET))
    for x, y, series, name in points:
        label = f"{name}: {number(x)}, {number(y)}"
        parts.append(f"<g><title>{escape(label)}</title>{marker(across(x), up(y), series)}</g>")
    return _svg(width, bottom + 38, [*parts, *_bottom(across, bottom, x_label, width)], alt)


def bars(values: Sequence[tuple[str, float]], *, label: str, alt: str, width: int = WIDTH) -> str:
    """Signed bars, each under its own name, so that a module's long path fits."""
    scale = axis([0.0, *(v for _, v in values)], 12, width - 52, log=False)
    parts, y = [], _TOP + 4
    for name, value in values:
        x, zero = scale(value), scale(0)
        colour = COLOURS[0] if value >= 0 else COLOURS[1]
        parts.append(_line(zero, y + 10, zero, y + 24, _QUIET))
        parts.append(_text(12, y + 8, _shorten(name, 52), size=11, title=name))
        parts.append(
            f'<rect x="{min(x, zero):.1f}" y="{y + 12:.1f}" width="{max(abs(x - zero), 1):.1f}" height="10" '
            f'fill="{colour}"/>'
        )
        parts.append(_text(max(x, zero) + 5, y + 21, f"{100 * value:.1f} %".replace("-", "−"), size=11))
        y += 30
    return _svg(width, y + 38, [*parts, *_bottom(scale, y, label, width, percent=True)], alt)


def _shorten(name: str, length: int) -> str:
    keep = (length - 1) // 2
    return name if len(name) <= length else f"{name[:keep]}…{name[-keep:]}"


def _bottom(scale: Axis, y: float, label: str, width: int, *, percent: bool = False) -> list[str]:
    parts, last = [], -math.inf
    for tick in scale.ticks():
        if scale(tick) - last < 34:
            continue
        last = scale(tick)
        text = f"{100 * tick:.4g} %".replace("-", "−") if percent else _tick(tick, scale.log)
        parts.append(_text(scale(tick), y + 14, text, anchor="middle", size=10, colour=_QUIET))
    parts.append(_text((scale.start + scale.end) / 2, y + 31, label, anchor="middle", size=11))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    colour: str = _INK,
    weight: int = 400,
    title: str = "",
) -> str:
    hint = f"<title>{escape(title)}</title>" if title and title != text else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}">{hint}{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "", *, width: float = 1) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def _svg(width: int, height: float, parts: Sequence[str], alt: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(alt)}" width="{width}" height="{height:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def heat_png(values: numpy.ndarray) -> str:
    """A map ``(H, W)`` of numbers in [0, 1], light for 0 and dark red for 1, as a PNG data URI."""
    anchors = numpy.linspace(0.0, 1.0, len(_HEAT))
    flat = numpy.clip(numpy.nan_to_num(values), 0.0, 1.0)
    rgb = numpy.stack([numpy.interp(flat, anchors, [c[k] for c in _HEAT]) for k in range(3)], axis=-1)
    return "data:image/png;base64," + base64.b64encode(png(rgb.round().astype(numpy.uint8))).decode()


def png(rgb: numpy.ndarray) -> bytes:
    """A PNG file of an 8-bit image ``(H, W, 3)`` (the PNG specification, W3C, second edition)."""
    height, width, _ = rgb.shape
    rows = numpy.concatenate([numpy.zeros((height, 1), numpy.uint8), rgb.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
