"""The points of ``rotation`` and ``translation``: what a run goes over, and a table has as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A point of the dial: its name in records, its header, the motions' reach, the share of the classes that break."""

    name: str
    header: str
    reach: float
    breaking: float = 0.0


DIALS: Mapping[str, tuple[Point, ...]] = {
    "rotation": (
        Point("0", "0°", 0.0),
        Point("45", "±45°", 45.0),
        Point("90", "±90°", 90.0),
        Point("180", "±180°", 180.0),
        Point("180-half", "±180°, p = 0.5", 180.0, 0.5),
        Point("180-all", "±180°, p = 1", 180.0, 1.0),
    ),
    "translation": (
        Point("centred", "centred", 0.0),
        Point("shifted", "shifted", 1.0),
        Point("shifted-all", "shifted, p = 1", 1.0, 1.0),
    ),
}
"""Reaches of ``translation`` are in units of the preset's widest shift."""


def headers(kind: str) -> dict[str, str]:
    """The names of the points in records, in order, with their headers; ``kind`` is a key of `DIALS`."""
    if kind == "rotation":
        return {point.name: point.header for point in DIALS[kind]}
    short = {"fashion-mnist": "Fashion", "mnist-5000": "MNIST"}
    return {f"{data}-{p.name}": f"{text}, {p.header}" for data, text in short.items() for p in DIALS[kind]}
