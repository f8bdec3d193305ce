"""Gradients inside of a forward pass come out the same in whatever mode the caller is."""

import pytest
import torch
from torch import nn

from softeq.models.gradients import recordable, recording
from softeq.models.hamiltonian import HNN
from softeq.models.molecule_batches import molecule_batch
from softeq.models.molecules import SoftPotential

MODES = {"no_grad": torch.no_grad, "inference": torch.inference_mode}


def slope(x):
    with recording():
        x = recordable(x).detach().requires_grad_()
        return torch.autograd.grad(x.square().sum(), x)[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_slope_can_be_taken_of_what_was_made_in_the_mode(mode):
    with MODES[mode]():
        x = torch.arange(3.0)
        assert torch.equal(slope(x), 2 * torch.arange(3.0))
        assert not torch.is_grad_enabled()


def test_without_a_mode_nothing_is_copied():
    x = torch.arange(3.0)
    assert recordable(x) is x


@pytest.mark.parametrize("mode", MODES)
def test_hamiltonian_fields_and_forces_are_those_of_outside(mode):
    torch.manual_seed(0)
    field = HNN(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
    potential = SoftPotential((1, 8), channels=2, layers=1)
    water = [[0.0, 0.0, 0.0], [0.0, 0.8, 0.6], [0.0, -0.8, 0.6]]

    def computed():
        batch = molecule_batch([[8, 1, 1]], [torch.tensor(water)], cutoff=potential.cutoff)
        return [field(torch.ones(2, 4)), *potential.energy_and_forces(batch, create_graph=False)]

    with MODES[mode]():
        inside = computed()
    for a, b in zip(inside, computed(), strict=True):
        torch.testing.assert_close(a, b.detach())
        assert b.abs().max() > 1e-4
