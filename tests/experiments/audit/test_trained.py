"""Potentials to audit."""

import numpy as np
import pytest
import torch

pytest.importorskip("tblite")
pytest.importorskip("e3nn")
from softeq.experiments.audit import trained
from softeq.measure.calculators.audit import audit_calculator


def test_frames_turn_with_their_forces():
    found = trained.frames(3, seed=0)
    assert found.positions.shape == found.forces.shape == (3, 9, 3)
    assert found.energies.min() > 0  # above the molecule at rest
    torch.testing.assert_close(found.positions, trained.frames(3, seed=0).positions)
    assert found.forces.sum(1).abs().max() < 1e-3


@pytest.mark.slow
def test_a_hard_potential_in_training_is_equivariant_and_an_unconstrained_one_is_not():
    from ase import Atoms

    atoms = Atoms(trained.numbers().numpy(), trained.frames(1, seed=2).positions[0].double().numpy())
    energies = {}
    for constraint in ("hard", "none"):
        model = trained.trained(constraint, samples=4, steps=2)
        found = audit_calculator(trained.PotentialCalculator(model), atoms, degree=1, steps=0)
        energies[constraint] = found.as_dict()["checks"]["rotation"]["energy_max_ev"]
        assert all(np.isfinite(trained.errors_of(model, 2)))
    assert energies["hard"] < 1e-9 < 1e-3 < energies["none"]
