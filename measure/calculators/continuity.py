"""Jumps of energy and forces while atoms move apart: a cutoff without a smooth end, a cap on neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from softeq.measure.calculators.evaluate import Evaluate, Point, forces_of
from softeq.measure.calculators.rotations import random_rotation
from softeq.measure.errors import NotMeasurable

Array = np.ndarray
NEAREST, APART, CROWDED = 2.2, 8.0, 0.8
"""Angstrom: where the second molecule starts, how far it goes, and how far one atom of a crystal goes each way."""
STEPS, HALVINGS, SUSPECTS, SIDE = 80, 20, 4, 4
LARGEST, DIRECTIONS = 2000, 30


@dataclass(frozen=True)
class Path:
    """A group of atoms that moves rigidly along a direction.

    Attributes:
        start: the atoms at distance 0.
        group: ``(M,)``, which move.
        direction: ``(3,)``, a unit vector.
        length: Angstrom.
        about: in words.
    """

    start: Any
    group: Array
    direction: Array
    length: float
    about: str

    def at(self, distance: float) -> Any:
        """The atoms at a distance."""
        moved = self.start.copy()
        moved.positions[self.group] += distance * self.direction
        return moved


@dataclass(frozen=True)
class Jump:
    """A step of the energy or the forces within ``width`` Angstrom of the path.

    Attributes:
        distance: along the path, Angstrom.
        width: Angstrom.
        energy: eV.
        forces: the longest of the atoms' steps, eV/Angstrom; 0 where there are no forces.
    """

    distance: float
    width: float
    energy: float
    forces: float


def path_of(atoms: Any, generator: np.random.Generator) -> Path:
    """Of a molecule: a second one, rotated, that leaves it; of atoms with images: the first atom through its cell.

    No bond of a molecule is broken, so that every distance between the two, and no more, goes through the cutoffs. In a
    cell the direction of some random ones is taken that stays farthest from the other atoms.

    Raises:
        NotMeasurable: more than `LARGEST` atoms.
    """
    if len(atoms) > LARGEST:
        raise NotMeasurable(f"jumps are looked for in structures of at most {LARGEST} atoms")
    return _through_cell(atoms, generator) if atoms.pbc.any() else _leaving(atoms, generator)


def _through_cell(atoms: Any, generator: np.random.Generator) -> Path:
    others = images_of(atoms, 4.0)[:, None] + atoms.positions[None, 1:] - atoms.positions[0]
    others = np.concatenate([others.reshape(-1, 3), np.full((1, 3), 9.0)])
    directions = np.stack([random_rotation(generator)[0] for _ in range(DIRECTIONS)])
    along = np.clip(others @ directions.T, -CROWDED, CROWDED)
    nearest = np.linalg.norm(others[:, None] - along[:, :, None] * directions, axis=-1).min(0)
    direction = directions[nearest.argmax()]
    start = atoms.copy()
    start.positions[0] -= CROWDED * direction
    return Path(start, np.array([0]), direction, 2 * CROWDED, f"atom 0 moved by up to {CROWDED} Å to both sides")


def _leaving(atoms: Any, generator: np.random.Generator) -> Path:
    direction, second = random_rotation(generator)[0], atoms.copy()
    centre = atoms.positions.mean(0)
    second.positions[:] = (atoms.positions - centre) @ random_rotation(generator).T + centre
    between = atoms.positions[None] - second.positions[:, None]
    # |between - s direction| >= NEAREST for all pairs from the largest root s on
    along = between @ direction
    inside = NEAREST**2 - (between**2).sum(-1) + along**2
    away = float((along + np.sqrt(np.clip(inside, 0, None)))[inside >= 0].max(initial=0.0))
    second.positions += max(away, 0.0) * direction
    group = np.arange(len(atoms), 2 * len(atoms))
    return Path(atoms + second, group, direction, APART, f"two of the molecules, {NEAREST} Å apart and more")


def images_of(atoms: Any, reach: float) -> Array:
    """``(K, 3)``, where a cell's images lie, so many that all within ``reach`` Angstrom are among them."""
    if not atoms.pbc.any():
        return np.zeros((1, 3))
    cell = atoms.cell.complete().array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    counts = [int(np.ceil(reach / h)) + 1 if p else 0 for h, p in zip(heights, atoms.pbc, strict=True)]
    steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in counts), indexing="ij"), -1).reshape(-1, 3)
    return steps @ atoms.cell.array


def jumps(evaluate: Evaluate, path: Path) -> list[Jump]:
    """The largest steps on a path: places where the curves from the left and from the right do not meet.

    Both sides are extrapolated as cubics into an interval. Intervals where the two differ most are halved again and
    again, on the side that the middle does not fit. What step is left there is a jump; of a smooth calculator it is
    the noise.

    Raises:
        NotMeasurable: see `Evaluate`.
    """
    known = {float(s): evaluate(path.at(s)) for s in np.linspace(0.0, path.length, STEPS + 1)}
    places = sorted(known)
    inner = range(SIDE - 1, STEPS - SIDE + 1)
    found = []
    for kind in (_energy, _forces):
        misfit = np.stack([_meeting(known, path, places[k], places[k + 1], kind) for k in inner])
        for row in _apart(_excess(misfit)):
            k = inner[row]
            found.append(_halved(evaluate, path, dict(known), places[k], places[k + 1], kind))
    return _different(found)


Known = dict[float, Point]
Kind = Callable[[Known, list[float], Path, float], Array]


def _halved(evaluate: Evaluate, path: Path, known: Known, low: float, high: float, kind: Kind) -> Jump:
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        left, right = (kind(known, side, path, middle) for side in _sides(known, low, high))
        known[middle] = evaluate(path.at(middle))
        own = kind(known, [middle], path, middle)
        low, high = (low, middle) if np.abs(own - right).max() < np.abs(own - left).max() else (middle, high)
    place = (low + high) / 2
    return Jump(place, high - low, *step_at(evaluate, path, place, max(high - low, 1e-6)))


def step_at(evaluate: Evaluate, path: Path, place: float, width: float) -> tuple[float, float]:
    """The steps of the energy (eV) and of an atom's force (eV/Angstrom) that do not go away with the width.

    From one width and three: a slope makes three times the step at the larger one and drops out, a jump the same step.
    """
    near, far = ([evaluate(path.at(place + side * k * width)) for side in (-1, 1)] for k in (1, 3))
    energies = [b.energy - a.energy for a, b in (near, far)]
    energy = abs(3 * energies[0] - energies[1]) / 2
    if near[0].forces is None:
        return energy, 0.0
    forces = [forces_of(b) - forces_of(a) for a, b in (near, far)]
    return energy, float(np.linalg.norm(3 * forces[0] - forces[1], axis=1).max()) / 2


def _meeting(known: Known, path: Path, low: float, high: float, kind: Kind) -> Array:
    """How far left and right are from each other in the middle of an interval: one number, or one for each atom."""
    left, right = (kind(known, side, path, (low + high) / 2) for side in _sides(known, low, high))
    return np.linalg.norm(left - right, axis=-1)


def _sides(known: Known, low: float, high: float) -> tuple[list[float], list[float]]:
    """The nearest places to the left and to the right, nearest first."""
    places = sorted(known)
    return [s for s in places if s <= low][: -SIDE - 1 : -1], [s for s in places if s >= high][:SIDE]


def _energy(known: Known, places: list[float], path: Path, at: float) -> Array:
    """``(1, 1)``, from values alone: forces need not be slopes."""
    return np.atleast_2d(_weights(places, at) @ np.array([known[s].energy for s in places]))


def _forces(known: Known, places: list[float], path: Path, at: float) -> Array:
    """``(N, 3)``; zeros where there are no forces."""
    if known[places[0]].forces is None:
        return np.zeros((1, 3))
    return np.tensordot(_weights(places, at), np.stack([forces_of(known[s]) for s in places]), 1)


def _weights(places: list[float], at: float) -> Array:
    """Lagrange's, of a polynomial through values at the places."""
    x = np.array(places)
    apart = x[:, None] - x[None] + np.eye(len(x))
    return np.array([np.prod(np.delete((at - x) / apart[k], k)) for k in range(len(x))])


def _apart(excess: Array) -> list[int]:
    """The largest, not next to each other: a jump spoils the curves through it, and so the misfits beside it."""
    left, rows = excess.copy(), []
    for _ in range(SUSPECTS):
        rows.append(int(left.argmax()))
        left[max(0, rows[-1] - SIDE + 1) : rows[-1] + SIDE] = -np.inf
    return rows


def _excess(misfit: Array, reach: int = SIDE) -> Array:
    """By how much a misfit is above those a little before and after, which a steep curve has large too.

    The most of all atoms: far ones have small and smooth forces, in which a small step shows.
    """
    before, after = np.zeros_like(misfit), np.zeros_like(misfit)
    before[reach:], after[:-reach] = misfit[:-reach], misfit[reach:]
    return (misfit - np.maximum(before, after)).max(-1)


def _different(found: list[Jump]) -> list[Jump]:
    """Each place once, the largest first."""
    kept: list[Jump] = []
    for jump in sorted(found, key=lambda jump: -(jump.energy + jump.forces)):
        if all(abs(jump.distance - other.distance) > 10 * jump.width for other in kept):
            kept.append(jump)
    return kept
