"""Interatomic potentials to audit: `SoftPotential`, hard, soft and unconstrained, trained alike on ethanol.

    python -m softeq.experiments.audit.trained frames.xyz  # structures to audit, and the three models' test errors
    softeq audit --calculator softeq.experiments.audit.trained:soft --atoms frames.xyz

Energies and forces are GFN2-xTB's (extra: ``engine``) at equilibrium geometries of `ase` with their atoms displaced at
random by .08 Å and rotated at random. Small and short: what training does to the symmetry, not how well it can be done.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softeq import Prior, strength
from softeq.experiments.data.xtb import Engine
from softeq.models.calculator import PotentialCalculator
from softeq.models.molecule_batches import MoleculeBatch, molecule_batch
from softeq.models.molecules import SoftPotential

SAMPLES, TEST, STEPS, BATCH = 300, 100, 500, 20
_DISPLACED, _CUTOFF, _RESIDUAL = 0.08, 4.5, 10.0  # Angstrom; Angstrom; the residual pathways' precision


class Frames(NamedTuple):
    """Positions ``(n, 9, 3)`` in Angstrom, energies ``(n,)`` in eV, forces in eV/Angstrom."""

    positions: Tensor
    energies: Tensor
    forces: Tensor

    def batch(self, rows: Any) -> MoleculeBatch:
        """Some of them as the model takes them."""
        return molecule_batch(numbers(), self.positions[rows], cutoff=_CUTOFF)


def frames(count: int, seed: int) -> Frames:
    """Ethanol, displaced and rotated at random, with GFN2-xTB's answers; energies above that of the one at rest."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.as_tensor(_ethanol().positions, dtype=torch.float64)
    drawn = torch.randn(count, *rest.shape, generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)).Q
    turns = turns * torch.linalg.det(turns)[:, None, None]
    places = (rest + _DISPLACED * drawn) @ turns.mT
    engine = Engine(_ethanol().numbers)
    zero = engine(rest.numpy()).energy
    found = [engine(place.numpy()) for place in places]
    energies = torch.tensor([point.energy - zero for point in found])
    forces = torch.as_tensor(np.stack([point.forces for point in found]))
    return Frames(places.float(), energies.float(), forces.float())


def _ethanol() -> Any:
    from ase.build import molecule

    return molecule("CH3CH2OH")


def numbers() -> Tensor:
    """``(9,)``, of ethanol's atoms."""
    return torch.as_tensor(_ethanol().numbers)


@functools.cache
def trained(constraint: str, samples: int = SAMPLES, steps: int = STEPS, seed: int = 0) -> SoftPotential:
    """A potential after that many steps of Adam on energies per atom and forces, in float64."""
    data = frames(samples, seed)
    torch.manual_seed(seed)
    kinds = sorted(set(numbers().tolist()))
    model = SoftPotential(kinds, channels=8, constraint=constraint, cutoff=_CUTOFF, scale=0.5)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    prior = Prior(equivariant=1e-3, residual=_RESIDUAL)
    rule = strength.rule("fixed", model, samples=samples, prior=prior)
    generator = torch.Generator().manual_seed(seed)
    # Not `experiments.training.loop`: few steps along one cycle, a schedule that comparisons have not.
    for _ in range(steps):
        rows = torch.randperm(samples, generator=generator)[:BATCH]
        optimizer.zero_grad()
        energies, forces = model.energy_and_forces(data.batch(rows), create_graph=True)
        wanted = data.forces[rows].reshape(forces.shape)
        per_atom = (energies - data.energies[rows]) / data.positions.shape[1]
        loss = 100 * per_atom.square().mean() + (forces - wanted).square().mean()
        rule.backward(loss, energies)
        optimizer.step()
        schedule.step()
        rule.step(optimizer)
    return model.double().eval()


def errors_of(model: SoftPotential, count: int = TEST, seed: int = 1) -> tuple[float, float]:
    """Mean absolute errors on fresh frames: meV per atom, and meV/Angstrom of a force's component."""
    data = frames(count, seed)
    batch = molecule_batch(numbers(), data.positions.double(), cutoff=_CUTOFF)
    energies, forces = model.energy_and_forces(batch)
    energy = (energies - data.energies).abs().mean() / data.positions.shape[1]
    return 1e3 * float(energy), 1e3 * float((forces - data.forces.reshape(forces.shape)).abs().mean())


def hard() -> PotentialCalculator:
    """A factory for ``softeq audit --calculator``."""
    return PotentialCalculator(trained("hard"))


def soft() -> PotentialCalculator:
    """A factory for ``softeq audit --calculator``."""
    return PotentialCalculator(trained("soft"))


def none() -> PotentialCalculator:
    """A factory for ``softeq audit --calculator``."""
    return PotentialCalculator(trained("none"))


def xtb() -> Any:
    """The potential that they learned from, as a factory: GFN2-xTB to tight convergence."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", accuracy=1e-4, verbosity=0)


def main(path: str) -> None:
    """Write three structures to audit, and print the models' test errors."""
    from ase import Atoms
    from ase.io import write

    data = frames(3, seed=2)
    write(path, [Atoms(numbers().numpy(), places.double().numpy()) for places in data.positions])
    for constraint in ("hard", "soft", "none"):
        energy, force = errors_of(trained(constraint))
        sys.stdout.write(f"{constraint}: --energy-error {energy:.3g} --force-error {force:.3g}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
