"""What counts as zero for a calculator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softeq.measure.calculators.evaluate import Point

Array = np.ndarray
SINGLE = float(np.finfo(np.float32).eps)
_TELLING = 1e-6  # eV/Angstrom: smaller forces are what rounding leaves of zeros, and have few digits in any dtype


@dataclass(frozen=True)
class Noise:
    """What counts as zero.

    Attributes:
        energy, forces: eV, eV/Angstrom.
        rounding: eV, of a single energy; without the floor that ``energy`` has.
        repeated: the largest differences between answers to the same question.
        single: whether every force that is not all but zero is a float32 number; False where there is none.
    """

    energy: float
    forces: float
    rounding: float
    repeated: tuple[float, float]
    single: bool


def noise_of(base: Point, again: Sequence[Point]) -> Noise:
    """From answers to the same question with others in between, and from the dtype that the forces betray.

    Rounding is taken as 8 units of the energy's last place; for forces as a hundred thousandth of the longest, since
    they are differences of larger numbers.
    """
    single = base.forces is not None and _is_single(base.forces[np.abs(base.forces) > _TELLING])
    unit = SINGLE if single else float(np.finfo(np.float64).eps)
    longest = 0.0 if base.forces is None else float(np.linalg.norm(base.forces, axis=1).max())
    changed = max(abs(point.energy - base.energy) for point in again)
    moved = 0.0 if base.forces is None else max(float(np.abs(point.forces - base.forces).max()) for point in again)
    rounding = max(5 * changed, 8 * unit * abs(base.energy))
    forces = max(1e-5, 5 * moved, (200 if single else 1e3) * unit * longest)
    return Noise(max(1e-6, rounding), forces, rounding, (changed, moved), single)


def _is_single(values: Array) -> bool:
    return len(values) > 0 and bool((values.astype(np.float32).astype(np.float64) == values).all())
