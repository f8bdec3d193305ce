"""Curves as inline SVG: one line a series with its band, in the marks of `figures`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from softeq.experiments.audit.report.drawing import (
    COLOURS,
    GRID,
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

_TOP, _BOTTOM, _LEFT, _RIGHT = 40.0, 214.0, 46.0, 12.0


@dataclass(frozen=True)
class Series:
    """One line: ``points`` are x, y and the ends of y's interval (or None); ``start`` is its straight beginning.

    Attributes:
        start: the slope at 0, drawn dotted as far as it stays in the figure; None for none.
    """

    name: str
    mark: int
    points: Sequence[tuple[float, float, float | None, float | None]]
    start: float | None = None


def lines(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    alt: str,
    log_x: bool = False,
    log_y: bool = False,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[float] = (),
    width: int = WIDTH,
) -> str:
    """Lines over one pair of axes, titled at both.

    Args:
        series: what to draw; points that an axis has no place for are left out.
        title, x_label, y_label: words at the figure and its axes, units included.
        alt: what the figure says, for those who do not see it.
        log_x, log_y: logarithmic axes.
        y_range: the ends of the y axis; found out if absent.
        x_ticks: where the x axis is labelled; found out if absent.
        width: pixels.
    """
    held = [point for one in series for point in one.points]
    across = axis([p[0] for p in held], _LEFT, width - _RIGHT, log=log_x)
    up = axis([v for p in held for v in p[1:] if v is not None], _BOTTOM, _TOP, log=log_y)
    if y_range is not None:
        up = Axis(log_y, *y_range, _BOTTOM, _TOP)
    parts = [draw_text(2, 14, title, weight=600), draw_text(2, 30, y_label, size=11, colour=QUIET)]
    for tick in up.ticks():
        parts.append(draw_line(_LEFT, up(tick), width - _RIGHT, up(tick), GRID))
        parts.append(draw_text(_LEFT - 5, up(tick) + 4, tick_text(tick, log_y), anchor="end", size=11, colour=QUIET))
    parts.append(draw_line(_LEFT, _BOTTOM, width - _RIGHT, _BOTTOM, QUIET))
    parts += [_band(one, across, up) for one in series]
    parts += [_line(one, across, up) for one in series]
    last = -math.inf
    for tick in x_ticks or across.ticks():
        if across(tick) - last >= 30:
            last = across(tick)
            parts.append(draw_line(last, _BOTTOM, last, _BOTTOM + 4, QUIET))
            parts.append(draw_text(last, _BOTTOM + 17, _plain(tick), anchor="middle", size=11, colour=QUIET))
    parts.append(draw_text((_LEFT + width - _RIGHT) / 2, _BOTTOM + 34, x_label, anchor="middle", size=12))
    return draw_svg(width, _BOTTOM + 42, parts, alt)


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _drawn(one: Series, across: Axis, up: Axis) -> list[tuple[float, float, float | None, float | None]]:
    def usable(p: tuple[float, float, float | None, float | None]) -> bool:
        return math.isfinite(p[0]) and math.isfinite(p[1]) and not (across.log and p[0] <= 0)

    return [p for p in one.points if usable(p)]


def _band(one: Series, across: Axis, up: Axis) -> str:
    ends = [
        (across(x), low, high) for x, _, low, high in _drawn(one, across, up) if low is not None and high is not None
    ]
    if len(ends) < 2:
        return ""
    corners = [(x, up(high)) for x, _, high in ends] + [(x, up(low)) for x, low, _ in reversed(ends)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polygon points="{points}" fill="{COLOURS[one.mark % len(COLOURS)]}" fill-opacity="0.14"/>'


def _line(one: Series, across: Axis, up: Axis) -> str:
    drawn = _drawn(one, across, up)
    colour = COLOURS[one.mark % len(COLOURS)]
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, *_ in drawn)
    marks = "".join(
        f"<g><title>{_escaped(one.name, x, y)}</title>{marker(across(x), up(y), one.mark)}</g>" for x, y, *_ in drawn
    )
    path = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>' if len(drawn) > 1 else ""
    return _start(one, across, up, colour) + path + marks


def _start(one: Series, across: Axis, up: Axis, colour: str) -> str:
    if one.start is None or not math.isfinite(one.start) or one.start <= 0:
        return ""
    steps = [across.lower * (across.upper / across.lower) ** (k / 40) for k in range(41)] if across.log else []
    inside = [(x, one.start * x) for x in steps if up.lower <= one.start * x <= up.upper]
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in inside)
    dots = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1" stroke-dasharray="2 4"/>'
    return dots if len(inside) > 1 else ""


def _escaped(name: str, x: float, y: float) -> str:
    return escape(f"{name}: {number(y)} at {_plain(x)}")
