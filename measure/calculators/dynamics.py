"""A short run at constant energy: how far the total energy drifts (extra: ``engine``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softeq.measure.calculators.evaluate import Evaluate, forces_of
from softeq.measure.errors import NotMeasurable

HYDROGEN_STEP, STEP = 0.5, 2.0
"""Femtoseconds, with and without hydrogen."""


@dataclass(frozen=True)
class Drift:
    """The total energy in velocity Verlet from velocities of a temperature.

    Attributes:
        slope: meV per atom and picosecond.
        error: of the slope, one standard deviation.
        spread: the standard deviation about the slope, meV per atom: what the finite step makes.
        steps: how many.
        femtoseconds: each.
    """

    slope: float
    error: float
    spread: float
    steps: int
    femtoseconds: float


def drift(evaluate: Evaluate, atoms: Any, *, steps: int, temperature: float, generator: np.random.Generator) -> Drift:
    """Run ``steps`` steps from the atoms as they are.

    Raises:
        NotMeasurable: there are no forces, or the atoms fly apart; see also `Evaluate`.
    """
    from ase import units

    if not evaluate.has("forces"):
        raise NotMeasurable("the calculator has no forces")
    moving, masses = atoms.copy(), atoms.get_masses()[:, None]
    femtoseconds = HYDROGEN_STEP if 1 in atoms.numbers else STEP
    dt = femtoseconds * units.fs
    speed = generator.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * temperature / masses)
    point, total = evaluate(moving), []
    for _ in range(steps):
        speed = speed + forces_of(point) * dt / (2 * masses)
        moving.positions += dt * speed
        point = evaluate(moving)
        speed = speed + forces_of(point) * dt / (2 * masses)
        total.append(point.energy + float((masses * speed**2).sum()) / 2)
    picoseconds = femtoseconds / 1000 * np.arange(steps)
    energy = 1000 * np.array(total) / len(atoms)
    slope, error = _line(picoseconds, energy)
    return Drift(slope, error, float(np.std(energy - slope * picoseconds)), steps, femtoseconds)


def _line(time: np.ndarray, energy: np.ndarray) -> tuple[float, float]:
    """Slope and its standard error through the means of four quarters, each under a smooth window.

    Verlet's energy swings with the bonds; a window that begins and ends at 0 averages the swings away.
    """
    means = []
    for t, e in zip(np.array_split(time, 4), np.array_split(energy, 4), strict=True):
        window = np.hanning(len(t) + 2)[1:-1]
        means.append((np.average(t, weights=window), np.average(e, weights=window)))
    x, y = np.array(means).T
    (slope, start), spread = np.polyfit(x, y, 1), float(((x - x.mean()) ** 2).sum())
    rest = float(((y - slope * x - start) ** 2).sum()) / 2
    return float(slope), (rest / spread) ** 0.5
