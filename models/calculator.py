"""A `SoftPotential` as an ase calculator (extra: ``molecules``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.models.molecule_batches import molecule_batch
from softeq.models.molecules import SoftPotential

try:
    from ase.calculators.calculator import Calculator, all_changes
except ImportError as error:
    raise MissingExtraError("a calculator needs ase: pip install 'softeq[molecules]'") from error


class PotentialCalculator(Calculator):
    """Energy in eV and forces in eV/Angstrom of a molecule in vacuum, in the model's dtype and on its device.

    For long runs at constant energy use a model in float64 (``model.double()``): float32 rounds an energy of some
    hundred eV to 1e-5 eV.

    Args:
        model: the potential.
        field: ``(3,)`` in V/Angstrom, where the model was built with ``field=True``.

    Raises:
        SofteqTypeError: not a `SoftPotential`.
        SofteqValueError: a field that the model does not take, or none where it takes one.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ase declares it

    def __init__(self, model: SoftPotential, *, field: Sequence[float] | None = None) -> None:
        super().__init__()
        if not isinstance(model, SoftPotential):
            raise SofteqTypeError(f"model: expected a SoftPotential, got {type(model).__name__}")
        if (field is not None) != model.field:
            expected = "(3,) in V/Angstrom" if model.field else "None"
            raise SofteqValueError(f"field: expected {expected}, as the model has field={model.field}, got {field}")
        self.model, self.uniform_field = model, field

    def calculate(
        self, atoms: Any = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Called by ase; fills ``self.results``.

        Raises:
            SofteqValueError: periodic boundaries, and what `molecule_batch` and the model refuse.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms.pbc.any():
            raise SofteqValueError(f"atoms.pbc: expected a molecule in vacuum, got {self.atoms.pbc.tolist()}")
        like = next(self.model.parameters())
        positions = torch.as_tensor(self.atoms.positions).to(like)
        species = torch.as_tensor(self.atoms.numbers).to(like.device)
        batch = molecule_batch([species], [positions], cutoff=self.model.cutoff, field=self.uniform_field)
        energy, forces = self.model.energy_and_forces(batch, create_graph=False)
        self.results = {"energy": float(energy), "forces": forces.double().cpu().numpy()}
