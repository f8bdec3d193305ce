"""The hand that draws the audit's figures: axes, marks, text and lines as inline SVG, and PNG data URIs."""

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

INK, QUIET, GRID = "#222222", "#555555", "#DDDDDD"
_HEAT = ((255, 252, 245), (253, 212, 158), (239, 101, 72), (127, 0, 0))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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


def tick_text(value: float, log: bool) -> str:
    """A value at an axis, short."""
    power = math.log10(value) if log and value > 0 else 0.5
    if log and not 1e-2 <= value <= 1e3 and abs(power - round(power)) < 1e-6:
        return f"10{str(round(power)).translate(_SUPERSCRIPT)}"
    if not log and abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    if not log and 1e-5 <= abs(value) < 1e4:
        return f"{value:.4g}".replace("-", "−") if abs(value) >= 1e-4 else f"{value:.5f}".replace("-", "−")
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


def draw_text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    colour: str = INK,
    weight: int = 400,
    title: str = "",
) -> str:
    """Text at its baseline; ``title`` is what a pointer sees."""
    hint = f"<title>{escape(title)}</title>" if title and title != text else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}">{hint}{escape(text)}</text>'
    )


def draw_line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "", *, width: float = 1) -> str:
    """A straight line; ``dash`` as SVG's stroke-dasharray."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def draw_svg(width: int, height: float, parts: Sequence[str], alt: str) -> str:
    """A figure of its parts, with the words for those who do not see it."""
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


def heat_colour(share: float) -> str:
    """The colour of a value in [0, 1] as HTML has it."""
    anchors, at = numpy.linspace(0.0, 1.0, len(_HEAT)), min(max(share, 0.0), 1.0)
    return "#" + "".join(f"{round(float(numpy.interp(at, anchors, [c[k] for c in _HEAT]))):02x}" for k in range(3))


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
