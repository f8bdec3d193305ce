"""Every network of soft layers in what torch does to whole networks: copies, averages, checkpoints, compilation."""

import pytest
import torch

from softeq import Scalar, T, Vector, fold, harden
from softeq._layer_situations import CHECKS, Case
from softeq.groups import O
from softeq.models import build
from softeq.models.dynamics import SoftEMLP
from softeq.models.hamiltonian import HNN, Trajectories
from softeq.models.molecule_batches import molecule_batch
from softeq.models.molecules import SoftPotential

G = O(3)
SMALL = {"size": (8, 8), "in_channels": 1, "classes": 3}
WATER = torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]])


class OfWater(torch.nn.Module):
    """A potential as a function of the positions of one molecule."""

    def __init__(self, potential):
        super().__init__()
        self.potential = potential

    def forward(self, positions):
        batch = molecule_batch([torch.tensor([8, 1, 1])], [positions], cutoff=self.potential.cutoff)
        return self.potential(batch)


def potential(c):
    return OfWater(SoftPotential([1, 8], channels=4, lmax=2, constraint=c))


NETWORKS = {
    "SoftEMLP": (lambda c: SoftEMLP((2 * Vector)(G), T(2)(G), channels=16, layers=1, constraint=c), (3, 6)),
    "trajectories of SoftEMLP": (
        lambda c: Trajectories(
            HNN(SoftEMLP((2 * Vector)(G), Scalar(G), channels=8, layers=1, constraint=c)), torch.tensor([0.0, 0.1])
        ),
        (2, 6),
    ),
    "soft-resnet": (lambda c: build("soft-resnet", **SMALL, width=2, constraint=c), (2, 1, 8, 8)),
    "d-conv": (lambda c: build("d-conv", **SMALL, width=1, constraint=c), (2, 1, 8, 8)),
    "steerable": (lambda c: build("steerable", **SMALL, width=1, kernel_size=3, constraint=c), (2, 1, 8, 8)),
    "soft-vit": (lambda c: build("soft-vit", **SMALL, width=4, heads=2, depth=1, constraint=c), (2, 1, 8, 8)),
    "SoftPotential": (potential, (3, 3)),
}
SITUATIONS = ("meta", "pickle", "averages", "functional", "double", "export", "compile")
NOT = {
    # What it gives is a gradient, or its inputs are made outside of a graph.
    ("trajectories of SoftEMLP", "compile"),
    ("trajectories of SoftEMLP", "export"),
    ("trajectories of SoftEMLP", "functional"),
    ("SoftPotential", "compile"),
    ("SoftPotential", "export"),
    ("SoftPotential", "functional"),
    ("steerable", "functional"),  # vmap over its batch norms' statistics is torch's to refuse
    ("soft-resnet", "functional"),
    ("d-conv", "functional"),
}


def network(name, constraint):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    x = WATER if name == "SoftPotential" else torch.randn(shape)
    return make(constraint).eval(), x


def situations():
    for name in NETWORKS:
        for situation in SITUATIONS:
            if (name, situation) in NOT:
                continue
            for constraint in ("soft", "hard"):
                slow = situation in ("compile", "export") and (constraint == "hard" or name != "SoftEMLP")
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(name, constraint, situation, id=f"{name}-{constraint}-{situation}", marks=marks)


@pytest.mark.parametrize(("name", "constraint", "situation"), list(situations()))
def test_network(name, constraint, situation):
    model, x = network(name, constraint)
    CHECKS[situation](Case(model, (x,)))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_no_constants(name):
    """Nothing that is not a parameter, but what batch norms count."""
    model, _ = network(name, "soft")
    others = {key.rpartition(".")[2] for key, buffer in model.named_buffers() if buffer.numel()}
    assert others <= {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_fold_and_harden_into_copies(name):
    model, x = network(name, "soft")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain, hard = fold(model), harden(model)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-5)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for other in (plain, hard):
        assert not any(p.untyped_storage().data_ptr() in own for p in other.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
