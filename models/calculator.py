"""A `SoftPotential` as an ase calculator (extra: ``molecules``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.models.gradients import recording
from softeq.models.molecule_batches import MoleculeBatch, molecule_batch
from softeq.models.molecule_cells import periodic_batch
from softeq.models.molecules import SoftPotential

try:
    from ase.calculators.calculator import Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise MissingExtraError("a calculator needs ase: pip install 'softeq[molecules]'") from error

WRAPPERS = ("_orig_mod", "module")
"""Where `torch.compile`, and `AveragedModel` and the parallel wrappers, keep the model that they wrap."""


class PotentialCalculator(Calculator):
    """Energy, forces and stress of a molecule in vacuum or of a periodic cell, in the model's dtype and on its device.

    Units are ase's: eV, eV/Angstrom, eV/Angstrom^3. ``energies`` are those of the atoms; ``free_energy`` equals
    ``energy``, as forces are its slope. Stress is the slope of the energy under a strain of positions and cell, over
    the volume; it needs three cell vectors and a periodic direction. Results are kept until the atoms, the field, the
    model or its weights change. The model knows elements and places: charges, magnetic moments and ``info`` of the
    atoms change nothing, so that an ion has the energy of what the model was trained on.

    For long runs at constant energy use a model in float64 (``model.double()``): float32 rounds an energy of some
    hundred eV to 1e-5 eV.

    Args:
        model: the potential; also compiled, averaged (`AveragedModel`) or wrapped for data parallelism.
        field: ``(3,)`` in V/Angstrom, where the model was built with ``field=True``.

    Raises:
        SofteqTypeError: not a `SoftPotential`.
        SofteqValueError: a field that the model does not take, or none where it takes one.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 - as ase has it

    def __init__(self, model: nn.Module, *, field: Sequence[float] | None = None) -> None:
        super().__init__()
        _potential(model)
        self.model = model
        self.uniform_field = field

    @property
    def uniform_field(self) -> tuple[float, ...] | None:
        """``(3,)`` in V/Angstrom, or None; setting it drops the results of the old one."""
        return self._field

    @uniform_field.setter
    def uniform_field(self, field: Sequence[float] | None) -> None:
        model = _potential(self.model)
        if (field is not None) != model.field:
            expected = "(3,) in V/Angstrom" if model.field else "None"
            raise SofteqValueError(f"field: expected {expected}, as the model has field={model.field}, got {field}")
        if field is not None:
            numbers = np.asarray(field, dtype=np.float64)
            if numbers.shape != (3,) or not np.isfinite(numbers).all():
                raise SofteqValueError(f"field: expected (3,) finite numbers in V/Angstrom, got {field}")
            field = tuple(numbers.tolist())
        self._field, self.results = field, {}

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Set ``field``; ase's way to change a calculator.

        Raises:
            SofteqValueError: another parameter: the energy does not depend on it.
        """
        if unknown := sorted(set(parameters) - {"field"}):
            raise SofteqValueError(f"{unknown[0]}: the potential has no such parameter, expected field")
        if "field" in parameters:
            self.uniform_field = parameters["field"]
        return parameters

    def check_state(self, atoms: Any, tol: float = 1e-15) -> list[str]:
        """Called by ase: what has changed since the last calculation."""
        changes = list(super().check_state(atoms, tol))
        return changes if self._is_current() else [*changes, "model"]

    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """Called by ase, also without atoms: those of the last calculation, whose results may be out of date."""
        return super().get_property(name, self.atoms if atoms is None else atoms, allow_calculation)

    def calculate(
        self, atoms: Any = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Called by ase; fills ``self.results``.

        Raises:
            SofteqValueError: stress without a cell, energies that are not finite, and what `molecule_batch`,
                `periodic_batch` and the model refuse.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise SofteqValueError("atoms: expected those to compute, got none")
        batch, periodic = self._batch(), bool(self.atoms.pbc.any())
        if "stress" in properties and not (periodic and self.atoms.cell.rank == 3):
            raise SofteqValueError(
                "stress: expected a periodic cell with three vectors, got "
                f"pbc {self.atoms.pbc.tolist()} and {self.atoms.cell.rank} vectors"
            )
        energy, forces, virial = _slopes(self.model, batch)
        if not np.isfinite(energy) or not np.isfinite(forces).all():
            raise SofteqValueError(f"model: expected finite energy and forces, got an energy of {energy} eV")
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if periodic and self.atoms.cell.rank == 3:
            self.results["stress"] = full_3x3_to_voigt_6_stress(virial / self.atoms.get_volume())
        if "energies" in properties:
            with torch.no_grad():
                self.results["energies"] = _array(_potential(self.model).atomic_energies(batch))
        self._computed_by = self._identity()

    def _batch(self) -> MoleculeBatch:
        model = _potential(self.model)
        like = next(model.parameters())
        positions = torch.as_tensor(self.atoms.positions).to(like)
        species = torch.as_tensor(self.atoms.numbers).to(like.device)
        if not self.atoms.pbc.any():
            return molecule_batch([species], [positions], cutoff=model.cutoff, field=self.uniform_field)
        return periodic_batch(
            species,
            positions,
            self.atoms.cell.array,
            self.atoms.pbc,
            cutoff=model.cutoff,
            field=self.uniform_field,
        )

    def _identity(self) -> tuple[Any, list[Tensor]]:
        """All that the answer depends on beside the atoms; weights by value, as training changes them in place."""
        model = _potential(self.model)
        state = [value.detach().clone() for value in (*model.parameters(), *model.buffers())]
        return (id(self.model), model.species, model.cutoff, self._field), state

    def _is_current(self) -> bool:
        if not self.results:
            return True
        model = _potential(self.model)
        (named, kept), now = self._computed_by, (*model.parameters(), *model.buffers())
        if named != (id(self.model), model.species, model.cutoff, self._field) or len(kept) != len(now):
            return False
        return all(
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in zip(kept, now, strict=True)
        )


def _potential(model: nn.Module) -> SoftPotential:
    """The potential inside of its wrappers."""
    inner: Any = model
    while not isinstance(inner, SoftPotential):
        found = [getattr(inner, name, None) for name in WRAPPERS] if isinstance(inner, nn.Module) else []
        wrapped = [value for value in found if isinstance(value, nn.Module)]
        if not wrapped:
            raise SofteqTypeError(f"model: expected a SoftPotential, got {type(model).__name__}")
        inner = wrapped[0]
    return inner


def _slopes(model: nn.Module, batch: MoleculeBatch) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy in eV, forces ``(n, 3)`` in eV/Angstrom, and the energy's slope under strain, ``(3, 3)`` in eV."""
    with recording():
        batch = batch.recordable()
        positions = batch.positions.detach().requires_grad_()
        strain = positions.new_zeros(3, 3).requires_grad_()
        moved = positions + positions @ (strain + strain.T) / 2
        shifts = batch.shifts
        if shifts is not None:
            shifts = shifts + shifts @ (strain + strain.T) / 2
        energy = model(replace(batch, positions=moved, shifts=shifts)).sum()
        slope, virial = torch.autograd.grad(energy, (positions, strain))
    return float(energy.detach()), -_array(slope), _array(virial)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()
