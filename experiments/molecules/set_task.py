"""Energies and dipoles of many small molecules: the task of ``qm9`` and ``qm9-like``.

One network gives both: its energy in a field, whose slope at no field is the dipole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.experiments.engine.bookkeeping import rounded, seeded
from softeq.experiments.engine.experiment import Config, Metrics
from softeq.experiments.molecules.frames import rotations
from softeq.experiments.molecules.parts import SPECIES, Part, prepared, rms
from softeq.experiments.training.regression import defects
from softeq.experiments.training.task import Task
from softeq.groups import SO
from softeq.models.molecule_batches import MoleculeBatch, molecule_batch
from softeq.models.molecules import SoftPotential

_ROWS = 64  # molecules at once where nothing is trained
HEADLINES = (
    "energy_mae_mev",
    "turned_energy_mae_mev",
    "dipole_error_e_a",
    "turned_dipole_error_e_a",
    "equivariance_error",
    "dipole_equivariance_error",
    "weight_defect_mean",
)


@dataclass
class MoleculeTask(Task):
    """Many molecules, in three parts."""

    train: Part
    validation: Part
    held_out: Part
    headline: str = "energy_mae_mev"
    keys: tuple[str, ...] = HEADLINES

    @property
    def samples(self) -> int:
        """Training molecules."""
        return len(self.train.places)

    def loss(self, model: Any, rows: Tensor, motion: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """See `_loss`; each molecule rotated at random where ``motion`` is given. The output beside it: energy and
        dipole, ``(b, 4)``, in units of their sizes."""
        part = self.train.rows(rows)
        if motion is not None:
            part = part.turned(SO(3).sample(len(rows), generator=motion).to(part.energy))
        return self._loss(model, part, create_graph=True)

    def _loss(self, model: SoftPotential, part: Part, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Mean square errors of energy and dipole, or its size, each in units of its size among training molecules.

        The output beside it, ``(b, 1)``, ``(b, 2)`` or ``(b, 4)``: the loss is the mean over molecules of its squared
        distance from the target, which is what a rule of the prior's strength takes a Gaussian's loss for.
        """
        energy, dipole = energy_and_dipole(model, part, create_graph=create_graph)
        of_energy, of_dipole = rms(self.train.energy), self.train.dipole_rms * math.sqrt(3)
        output, target = (energy / of_energy)[:, None], (part.energy / of_energy)[:, None]
        if (pair := part.dipole_pair(dipole)) is not None:
            output, target = (
                torch.cat([one, own / of_dipole], 1) for one, own in zip((output, target), pair, strict=True)
            )
        return (output - target).square().sum(1).mean(), output

    def validation_error(self, model: Any) -> float:
        """The loss on validation molecules."""
        return float(self._loss(model, self.validation)[0])

    def test(self, model: Any) -> float:
        """``energy_mae_mev``."""
        return _errors(*_predicted(model, self.held_out), self.held_out)[0]

    def measure(self, model: Any) -> Metrics:
        """See `HEADLINES`; ``energy_rms_mev`` and ``dipole_rms_e_a`` of the training molecules."""
        sizes = {
            "energy_rms_mev": rounded(1e3 * rms(self.train.energy)),
            "dipole_rms_e_a": rounded(self.train.dipole_rms),
        }
        return _measured(model, self.held_out) | sizes


def task_of(config: Config, point: Mapping[str, Any]) -> MoleculeTask:
    """The molecules of a configuration, see `prepared`."""
    return MoleculeTask(*prepared(config))


def build_model(config: Config, task: MoleculeTask) -> SoftPotential:
    """The untrained network of a configuration, in units of the training energies."""
    train = task.train
    atoms = sum(map(len, train.numbers)) / len(train.numbers)
    scale = rms(train.energy) * atoms**-0.5
    return seeded(config, lambda: SoftPotential(SPECIES, **config["network"], field=True, scale=scale))


def _batch(part: Part, model: SoftPotential) -> MoleculeBatch:
    return molecule_batch(part.numbers, part.places, cutoff=model.cutoff, field=(0.0, 0.0, 0.0))


def energy_and_dipole(model: SoftPotential, part: Part, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Energies ``(B,)`` in eV at no field, and dipoles ``(B, 3)`` in e Angstrom: minus the energy's slope in the field.

    Args:
        model: with ``field=True``.
        part: the molecules.
        create_graph: whether a loss of the dipoles can be differentiated.
    """
    batch = _batch(part, model)
    with torch.enable_grad():
        field = batch.positions.new_zeros(batch.size, 3).requires_grad_()
        energy = model(dataclasses.replace(batch, field=field))
        (slope,) = torch.autograd.grad(energy.sum(), field, create_graph=create_graph)
    return (energy if create_graph else energy.detach()), -slope


def _predicted(model: SoftPotential, part: Part) -> tuple[Tensor, Tensor]:
    found = [energy_and_dipole(model, part.rows(rows)) for rows in torch.arange(len(part.places)).split(_ROWS)]
    return torch.cat([energy for energy, _ in found]), torch.cat([dipole for _, dipole in found])


def _errors(energy: Tensor, dipole: Tensor, part: Part) -> tuple[float, float]:
    """Mean absolute error in meV, and mean error of the dipole or its size in e Angstrom."""
    error = part.dipole_error(dipole)
    of_dipole = math.nan if error is None else float(error.mean())
    return rounded(1e3 * float((energy - part.energy).abs().mean())), rounded(of_dipole)


def _measured(model: SoftPotential, test: Part) -> dict[str, Any]:
    g = rotations(len(test.places), 11).to(test.energy)
    turned = test.turned(g)
    (energy, dipole), (moved, moved_dipole) = _predicted(model, test), _predicted(model, turned)
    still, shifted = _errors(energy, dipole, test), _errors(moved, moved_dipole, turned)
    carried = torch.einsum("bij,bj->bi", g, dipole)
    own = defects(model)
    of_dipole = float((moved_dipole - carried).norm() / carried.norm())
    found = (
        *(still[0], shifted[0], still[1], shifted[1]),
        rounded(float((moved - energy).norm() / energy.norm())),
        math.nan if math.isnan(still[1]) else rounded(of_dipole),
        rounded(own["weight_defect_mean"]),
    )
    return {**dict(zip(HEADLINES, found, strict=True)), "weight_defect": own["weight_defect"]}
