"""GFN2-xTB energies and forces of a molecule, in vacuum or in a uniform electric field (extra: ``engine``).

The engine is tblite (Ehlert et al.; GFN2-xTB: Bannwarth, Ehlert, Grimme, JCTC 2019). Units are ase's: Angstrom, eV,
eV/Angstrom; fields in V/Angstrom; dipoles in e Angstrom. The engine itself computes in atomic units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError

METHOD = "GFN2-xTB"
BOHR, HARTREE = 0.529177210903, 27.211386245988  # Angstrom, eV (CODATA 2018)
FIELD_UNIT = HARTREE / BOHR
"""V/Angstrom in an atomic unit of the electric field: 51.42."""
# Of tblite's own; its default, 1, leaves 3e-5 eV/Angstrom between a molecule's forces and those of it rotated.
_ACCURACY = 1e-4
EXTRA = "molecules are computed by tblite, ase and rdkit: pip install 'softeq[engine]'"


class SinglePoint(NamedTuple):
    """Energy in eV, forces ``(n, 3)`` in eV/Angstrom, dipole ``(3,)`` in e Angstrom."""

    energy: float
    forces: np.ndarray
    dipole: np.ndarray


class Engine:
    """One molecule in one field, at any positions.

    Args:
        numbers: ``(n,)`` atomic numbers.
        field: ``(3,)`` in V/Angstrom.

    Raises:
        MissingExtraError: tblite is not installed.
        SofteqValueError: numbers or a field of another shape, or not finite.
    """

    def __init__(
        self, numbers: Sequence[int] | np.ndarray, field: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)
    ) -> None:
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self.field = np.asarray(field, dtype=np.float64)
        if self.numbers.ndim != 1 or not len(self.numbers) or self.numbers.min() < 1:
            raise SofteqValueError(f"numbers: expected (n,) atomic numbers, got {self.numbers.tolist()}")
        if self.field.shape != (3,) or not np.isfinite(self.field).all():
            raise SofteqValueError(f"field: expected (3,) finite numbers in V/Angstrom, got {self.field.tolist()}")
        self._calculator: Any = None
        self._last: Any = None

    def _start(self, positions: np.ndarray) -> None:
        try:
            from tblite.interface import Calculator
            from tblite.library import ffi
        except ImportError as error:
            raise MissingExtraError(EXTRA) from error
        self._calculator = Calculator(METHOD, self.numbers, positions)
        self._calculator.set("verbosity", 0)
        self._calculator.set("accuracy", _ACCURACY)
        if self.field.any():  # tblite takes a C array and refuses one of numpy's
            self._calculator.add("electric-field", ffi.new("double[3]", (self.field / FIELD_UNIT).tolist()))

    def __call__(self, positions: Any) -> SinglePoint:
        """At ``(n, 3)`` positions in Angstrom.

        Raises:
            SofteqValueError: positions of another shape, or not finite.
            SofteqError: the engine found no solution there.
        """
        places = np.ascontiguousarray(positions, dtype=np.float64) / BOHR
        if places.shape != (len(self.numbers), 3) or not np.isfinite(places).all():
            raise SofteqValueError(
                f"positions: expected ({len(self.numbers)}, 3) finite numbers in Angstrom, got {places.shape}"
            )
        try:
            if self._calculator is None:
                self._start(places)
            else:
                self._calculator.update(places)
            self._last = self._calculator.singlepoint(self._last)
        except RuntimeError as error:  # tblite's own is one
            self._last = None
            raise SofteqError(f"{METHOD} found no solution at these positions: {error}") from error
        found = self._last
        forces = -np.asarray(found.get("gradient")) * (HARTREE / BOHR)
        return SinglePoint(float(found.get("energy")) * HARTREE, forces, np.asarray(found.get("dipole")) * BOHR)


def calculator(engine: Engine) -> Any:
    """The engine as an ase calculator with energy and forces; it refuses atoms that are not the engine's.

    Raises:
        MissingExtraError: ase is not installed.
    """
    try:
        from ase.calculators.calculator import Calculator, all_changes
    except ImportError as error:
        raise MissingExtraError(EXTRA) from error

    class EngineCalculator(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ase declares it

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            if not np.array_equal(self.atoms.numbers, engine.numbers) or self.atoms.pbc.any():
                raise SofteqValueError(
                    f"atoms: expected the engine's, {engine.numbers.tolist()} in vacuum, got "
                    f"{self.atoms.numbers.tolist()}, pbc {self.atoms.pbc.tolist()}"
                )
            found = engine(self.atoms.positions)
            self.results = {"energy": found.energy, "forces": found.forces}

    return EngineCalculator()


def embedded(smiles: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers ``(n,)`` and positions ``(n, 3)`` of one conformer: ETKDG from ``seed``, then MMFF's force field.

    Raises:
        MissingExtraError: rdkit is not installed.
        SofteqValueError: the SMILES cannot be read, or no conformer was found.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise MissingExtraError(EXTRA) from error
    with rdBase.BlockLogs():  # what it has to say is in the error
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise SofteqValueError(f"smiles: {smiles!r} cannot be read")
    molecule = Chem.AddHs(molecule)
    embed: Any = AllChem
    if embed.EmbedMolecule(molecule, randomSeed=seed) or embed.MMFFOptimizeMolecule(molecule, maxIters=2000) < 0:
        raise SofteqValueError(f"smiles: no conformer of {smiles!r} was found")
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    return numbers, np.asarray(molecule.GetConformer().GetPositions(), dtype=np.float64)
