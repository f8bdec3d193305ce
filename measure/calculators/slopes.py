"""Forces and stress against the energy: net force and torque, and central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from softeq.measure.calculators.evaluate import Evaluate, Point, forces_of
from softeq.measure.errors import NotMeasurable

Array = np.ndarray
STEP, STRAIN = 0.005, 0.001
"""Angstrom, and the strain, of the differences."""
_STENCIL = ((1, 2 / 3), (2, -1 / 12))
"""Of fourth order; with the one of twice the step, extrapolated to sixth order (Richardson)."""


@dataclass(frozen=True)
class Net:
    """For forces that are slopes of an energy: minus its slope when all atoms shift or rotate together.

    Attributes:
        force: ``(3,)``, eV/Angstrom; 0 where the energy does not depend on the place.
        torque: ``(3,)``, eV/radian, about the centre; 0 where it does not depend on the direction; None with images.
    """

    force: Array
    torque: Array | None


def net(atoms: Any, point: Point) -> Net:
    """The free test: one call gives both slopes.

    Raises:
        NotMeasurable: there are no forces.
    """
    forces = forces_of(point)
    arms = atoms.positions - atoms.positions.mean(0)
    return Net(forces.sum(0), None if atoms.pbc.any() else np.cross(arms, forces).sum(0))


@dataclass(frozen=True)
class Slopes:
    """Forces and the energy's slope by differences, at some coordinates.

    Attributes:
        atoms, axes: ``(M,)``, which coordinates.
        said: ``(M,)`` forces, eV/Angstrom.
        found: ``(M,)`` minus the energy's slope.
        doubt: ``(M,)``, how far the differences of fourth order are from those of sixth.
    """

    atoms: Array
    axes: Array
    said: Array
    found: Array
    doubt: Array

    @property
    def factor(self) -> tuple[float, float]:
        """The number that brings the found slopes nearest to the forces, and what is left, relative."""
        size = float(self.found @ self.found)
        factor = float(self.said @ self.found) / size if size else 0.0
        rest = float(np.linalg.norm(self.said - factor * self.found))
        return factor, rest / max(float(np.linalg.norm(self.said)), 1e-300)


def slopes(evaluate: Evaluate, atoms: Any, base: Point, generator: np.random.Generator, limit: int = 60) -> Slopes:
    """Central differences at all coordinates, or at ``limit`` of them drawn at random.

    Raises:
        NotMeasurable: there are no forces; see also `Evaluate`.
    """
    forces = forces_of(base)
    places = np.arange(3 * len(atoms))
    if len(places) > limit:
        places = np.sort(generator.choice(places, limit, replace=False))
    rows, axes = np.divmod(places, 3)
    found = [_difference(evaluate, partial(_shifted, atoms, r, a), STEP) for r, a in zip(rows, axes, strict=True)]
    values, doubt = np.array(found).T
    return Slopes(rows, axes, forces[rows, axes], -values, doubt)


def strain_slopes(evaluate: Evaluate, atoms: Any, base: Point) -> tuple[Array, Array, Array]:
    """Stress as the calculator has it, by differences under strain, and their doubt: ``(6,)`` each, eV/Angstrom^3.

    The order is Voigt's.

    Raises:
        NotMeasurable: there is no stress; see also `Evaluate`.
    """
    if base.stress is None:
        raise NotMeasurable("no stress: the calculator has none, or the atoms have no periodic cell")
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    found = [_difference(evaluate, partial(_strained, atoms, i, j), STRAIN) for i, j in pairs]
    values, doubt = np.array(found).T / atoms.get_volume()
    return np.array([base.stress[i, j] for i, j in pairs]), values, doubt


def _difference(evaluate: Evaluate, at: Callable[[float], Any], step: float) -> tuple[float, float]:
    """The slope at 0, and its doubt."""
    rise = {k: evaluate(at(k * step)).energy - evaluate(at(-k * step)).energy for k in (1, 2, 4)}
    fine, coarse = (sum(w * rise[k * m] for k, w in _STENCIL) / (m * step) for m in (1, 2))
    best = (16 * fine - coarse) / 15
    return best, abs(best - fine)


def _shifted(atoms: Any, row: int, axis: int, distance: float) -> Any:
    moved = atoms.copy()
    moved.positions[row, axis] += distance
    return moved


def _strained(atoms: Any, i: int, j: int, size: float) -> Any:
    moved, strain = atoms.copy(), np.eye(3)
    strain[i, j] += size / 2
    strain[j, i] += size / 2
    moved.set_cell(atoms.cell.array @ strain, scale_atoms=False)
    moved.positions[:] = atoms.positions @ strain
    return moved
