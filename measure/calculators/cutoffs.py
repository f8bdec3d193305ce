"""What the distances between atoms tell of jumps: a cutoff, or a cap on the number of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softeq.measure.calculators.continuity import Jump, Path, images_of, step_at
from softeq.measure.calculators.evaluate import Evaluate
from softeq.measure.errors import NotMeasurable

Array = np.ndarray
REACH, NEIGHBOURS, WIDTH = 12.0, 8.0, 2e-5
"""Angstrom: the longest cutoff that is looked for, how far a cap's neighbours are, half the width for a jump."""
CANDIDATES, CONFIRMED, MOST_PAIRS = 200, 2, 20_000_000


@dataclass(frozen=True)
class JumpCause:
    """What makes jumps.

    Attributes:
        cutoff: Angstrom, the distance of some pair of atoms at every jump, at which other pairs make one too where they
            pass it; None where there is none, or nothing to tell it by.
        ranks: the numbers of neighbours that a cap may keep: at every jump an atom's neighbour of such a number and the
            next exchange their places; none likewise.
    """

    cutoff: float | None
    ranks: tuple[int, ...]


def cause_of(evaluate: Evaluate, path: Path, found: list[Jump]) -> JumpCause:
    """Look at the distances at the jumps, and try at other places what they suggest.

    Args:
        evaluate: the calculator.
        path: on which the jumps are.
        found: real jumps, the largest first.

    Raises:
        NotMeasurable: no jump is given; see also `Evaluate`.
    """
    if not found:
        raise NotMeasurable("there is no jump")
    ranks = [_exchanged(path, jump) for jump in found]
    common = tuple(sorted(set.intersection(*ranks)))
    return JumpCause(None if common else _cutoff(evaluate, path, found), common)


def _exchanged(path: Path, jump: Jump) -> set[int]:
    """The k for which some atom's k-th neighbour and the next exchange; the 0th is the atom itself."""
    before, after = (_distances(path.at(jump.distance + side * jump.width)) for side in (-1, 1))
    least, found = 1e-3 * jump.width, set()  # less is rounding
    for old, new in zip(before, after, strict=True):
        order = np.argsort(old, kind="stable")
        ahead, behind = np.diff(old[order]), -np.diff(new[order])
        found |= {int(k) for k in np.flatnonzero((ahead > least) & (behind > least) & (old[order][:-1] < NEIGHBOURS))}
    return found


def _cutoff(evaluate: Evaluate, path: Path, found: list[Jump]) -> float | None:
    apart, along = _pairs(path)
    distances = [_at(apart, along, jump.distance) for jump in found]
    tolerance = 4 * max(jump.width for jump in found)
    candidates = [
        d
        for d in np.sort(distances[0])
        if d < REACH and all(np.abs(other - d).min() <= tolerance for other in distances[1:])
    ]
    for distance in candidates[:CANDIDATES]:
        places = _passing(apart, along, distance, path.length, [jump.distance for jump in found])[:CONFIRMED]
        seen_again = len(found) > 1 or len(places) > 0
        if seen_again and all(_jumps_at(evaluate, path, s, found[0]) for s in places):
            return float(distance)
    return None


def _pairs(path: Path) -> tuple[Array, Array]:
    """Of a moving and a resting atom: the vector between them at the start, ``(P, 3)``, and its part along the path."""
    resting = np.setdiff1d(np.arange(len(path.start)), path.group)
    places = path.start.positions
    apart = (
        images_of(path.start, NEIGHBOURS + 1)[:, None, None]
        + places[resting][None, :, None]
        - places[path.group][None, None]
    )
    apart = apart.reshape(-1, 3)
    return apart, apart @ path.direction


def _at(apart: Array, along: Array, distance: float) -> Array:
    """The pairs' distances at a place of the path."""
    return np.sqrt((apart**2).sum(1) - 2 * distance * along + distance**2)


def _passing(apart: Array, along: Array, distance: float, length: float, known: list[float]) -> list[float]:
    """Places away from the known ones where pairs pass a distance, the fastest passing first."""
    inside = distance**2 - (apart**2).sum(1) + along**2
    root = np.sqrt(np.clip(inside, 0, None))
    places = np.concatenate([along - root, along + root])
    speed = np.concatenate([root, root]) * np.tile(inside > 0, 2)
    fit = (places > 0.02 * length) & (places < 0.98 * length) & (speed > 0.05 * distance)
    fit &= np.abs(places[:, None] - np.array(known)).min(1) > 100 * WIDTH
    order = np.flatnonzero(fit)[np.argsort(-speed[fit], kind="stable")]
    return places[order].tolist()


def _jumps_at(evaluate: Evaluate, path: Path, place: float, like: Jump) -> bool:
    energy, forces = step_at(evaluate, path, place, WIDTH)
    return energy > max(like.energy / 50, 1e-9) or forces > max(like.forces / 50, 1e-7)


def _distances(atoms: Any) -> Array:
    """``(N, M)`` from each atom to all others and their images, in one order for one path."""
    shifts = images_of(atoms, NEIGHBOURS + 1)
    if len(shifts) * len(atoms) ** 2 > MOST_PAIRS:
        raise NotMeasurable(f"more than {MOST_PAIRS:.0e} pairs to look for the cause of a jump")
    there = (atoms.positions[None] + shifts[:, None]).reshape(-1, 3)
    return np.linalg.norm(there[None] - atoms.positions[:, None], axis=-1)
