"""A calculator as a function of atoms: energy, forces and stress in plain arrays, checked, and counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softeq.errors import SofteqTypeError
from softeq.measure.errors import NotMeasurable

Array = np.ndarray


@dataclass(frozen=True)
class Point:
    """What a calculator says of some atoms.

    Attributes:
        energy: eV.
        forces: ``(N, 3)``, eV/Angstrom; None where it has none.
        stress: ``(3, 3)``, eV/Angstrom^3; None where it has none or the atoms have no periodic cell.
    """

    energy: float
    forces: Array | None
    stress: Array | None


@dataclass
class Evaluate:
    """Calls the calculator on copies of the atoms, without their constraints.

    Args:
        calculator: an ase ``Calculator``.

    Attributes:
        calls: how often it was asked.

    Raises:
        SofteqTypeError: not a calculator.
    """

    calculator: Any
    calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not callable(getattr(self.calculator, "get_property", None)) or isinstance(self.calculator, type):
            raise SofteqTypeError(f"calculator: expected an ase Calculator, got {type(self.calculator).__name__}")

    def has(self, name: str) -> bool:
        """Whether the calculator says that it has a property, by ase's name."""
        return name in getattr(self.calculator, "implemented_properties", ())

    def __call__(self, atoms: Any) -> Point:
        """Energy, forces and stress of the atoms.

        Raises:
            NotMeasurable: the calculator raises, or answers with what is not finite or of another shape.
        """
        self.calls += 1
        bare = atoms.copy()
        bare.set_constraint()
        bare.calc = self.calculator
        return Point(
            energy=float(self._ask("energy", bare, ()).item()),
            forces=self._ask("forces", bare, (len(bare), 3)) if self.has("forces") else None,
            stress=_full(self._ask("stress", bare, None)) if self.has("stress") and is_crystal(bare) else None,
        )

    def _ask(self, name: str, atoms: Any, shape: tuple[int, ...] | None) -> Array:
        try:
            value = np.array(self.calculator.get_property(name, atoms), dtype=np.float64)
        except (Exception, SystemExit) as error:  # it is the user's, and may raise anything
            said = " ".join(str(error).split())[:300]
            raise NotMeasurable(f"the calculator raised {type(error).__name__}: {said}") from error
        if name == "energy":
            value = value.reshape(()) if value.size == 1 else value
        if shape is None:
            shape = (3, 3) if value.shape == (3, 3) else (6,)
        if value.shape != shape:
            raise NotMeasurable(f"{name}: expected shape {shape} from the calculator, got {value.shape}")
        bad = ~np.isfinite(value)
        if bad.any():
            where = f" at atom {int(np.argwhere(bad)[0, 0])}" if name == "forces" else ""
            raise NotMeasurable(f"{name}: expected finite numbers from the calculator, got {value[bad][0]}{where}")
        return value


def forces_of(point: Point) -> Array:
    """The forces ``(N, 3)``.

    Raises:
        NotMeasurable: the calculator has none.
    """
    if point.forces is None:
        raise NotMeasurable("the calculator has no forces")
    return point.forces


def is_crystal(atoms: Any) -> bool:
    """Whether the atoms have images and a volume, so that stress means something."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def _full(stress: Array) -> Array:
    """``(3, 3)`` from Voigt's order xx, yy, zz, yz, xz, xy."""
    return stress if stress.shape == (3, 3) else stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
