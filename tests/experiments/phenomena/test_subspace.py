import pytest
import torch

from softeq import Scalar, Vector, equivariant_projector
from softeq.experiments.phenomena.quarters import equivariance_error
from softeq.experiments.phenomena.subspace import EQUIVARIANT, FREE, RESIDUAL, SubspaceNetwork, draws, trained
from softeq.groups import Z


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(*kinds, d=12, levels=4):
    return SubspaceNetwork(4, 2, 3, dict.fromkeys(kinds, d), levels, seeded())


@torch.no_grad()
def shaken(model):
    for z in model.coordinates.values():
        z.copy_(torch.randn(z.shape, generator=seeded(3)))
    return model


@pytest.mark.parametrize("kind", [EQUIVARIANT, RESIDUAL, FREE])
def test_directions_lie_where_their_kind_says(kind):
    found = draws(4, 50, 3, kind, 6, seeded())
    rep_in, rep_out = (4 * Vector)(Z(4)), (50 * Vector)(Z(4))
    for projector, drawn in ((equivariant_projector(rep_in, rep_out), found[0]),) + (
        (equivariant_projector(Scalar(Z(4)), rep_out), found[1]),
    ):
        inside = torch.stack([projector(one) for one in drawn]).norm() / drawn.norm()
        wanted = {EQUIVARIANT: 1.0, RESIDUAL: 0.0, FREE: 0.5}[kind]  # a quarter of the dimensions
        assert inside == pytest.approx(wanted, abs=0.06 if kind == FREE else 1e-5)
    if kind != RESIDUAL:
        assert found[0].square().mean() == pytest.approx(1 / (3 * 16), rel=0.15)


def test_equivariant_coordinates_alone_keep_the_symmetry():
    x = torch.randn(5, 1, 4, 4, generator=seeded(1))
    assert equivariance_error(shaken(network(EQUIVARIANT)), x) < 1e-6
    soft = shaken(network(EQUIVARIANT, RESIDUAL))
    assert equivariance_error(soft, x) > 1e-3
    soft.drop(RESIDUAL)
    assert equivariance_error(soft, x) < 1e-6


def test_a_quantised_network_is_what_its_message_says():
    model = shaken(network(EQUIVARIANT, RESIDUAL))
    model.begin_quantisation()
    rebuilt = model.origin.clone()
    for kind in model.coordinates:
        book = model.codebooks[kind].detach().half().float()
        rebuilt += book[model.symbols(kind)] @ getattr(model, f"directions_{kind}")
        assert len(book.unique()) == 4
    assert (model.codebooks[RESIDUAL] == 0).any()
    flat = torch.cat([part.flatten() for part in model.weights()])
    assert torch.allclose(flat, rebuilt, atol=1e-6)


def test_training_lowers_the_loss_and_trains_the_codebook():
    x = torch.randn(200, 1, 4, 4, generator=seeded(1))
    y = (x[:, 0, 0, 0] > 0).long()
    model = network(FREE, d=40)
    how = {"batch_size": 50, "precision": {FREE: 1.0, EQUIVARIANT: 1.0, RESIDUAL: 1e5}}

    def loss():
        return torch.nn.functional.cross_entropy(model(x), y).item()

    before = loss()
    trained(model, x, y, seeded(2), steps=60, lr=0.1, **how)
    fitted = loss()
    assert fitted < before - 0.2
    model.begin_quantisation()
    coarse, book = loss(), model.codebooks[FREE].detach().clone()
    trained(model, x, y, seeded(2), steps=40, lr=0.02, **how)
    assert loss() < coarse
    assert not torch.equal(book, model.codebooks[FREE])


def test_a_dear_residual_part_stays_at_zero():
    x, y = torch.randn(100, 1, 4, 4, generator=seeded(1)), torch.arange(100) % 3
    model = network(EQUIVARIANT, RESIDUAL)
    how = {"batch_size": 50, "precision": {FREE: 1.0, EQUIVARIANT: 1.0, RESIDUAL: 1e6}}
    trained(model, x, y, seeded(2), steps=40, lr=0.02, **how)
    model.begin_quantisation()
    trained(model, x, y, seeded(2), steps=5, lr=0.001, **how)
    zero = model.codebooks[RESIDUAL] == 0
    assert zero.any()
    assert model.coordinates[RESIDUAL].abs().max() < 0.05
    assert model.coordinates[EQUIVARIANT].abs().max() > 0.05
