"""Curvature against dense matrices."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from softeq.errors import SofteqError
from softeq.experiments.phenomena import curvature
from softeq.experiments.phenomena.quarters import quarter_network
from softeq.prior import soft_layers


def network(constraint="soft", layers=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = quarter_network(4, 2, constraint, layers=layers, classes=3)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn(p.shape))
    return model


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 1, 4, 4, generator=generator), torch.randint(0, 3, (12,), generator=generator)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_equivariant_part_is_that_of_the_layers(layers):
    model = network(layers=layers)
    folded = curvature.plain(model)
    vector = curvature.flat(folded)
    part = curvature.equivariant_part(folded, vector)
    wanted = torch.cat(
        [t.flatten() for _, one in soft_layers(model) for t in (one.projector(one.weight), one._project_bias(one.bias))]
    )
    assert torch.allclose(part, wanted, atol=1e-6)
    both = curvature.equivariant_part(folded, torch.stack([vector, 2 * vector]))
    assert torch.allclose(both[1], 2 * part, atol=1e-6)


def test_the_equivariant_part_of_a_hard_network_is_all_of_it():
    folded = curvature.plain(network("hard"))
    vector = curvature.flat(folded)
    assert torch.allclose(curvature.equivariant_part(folded, vector), vector, atol=1e-6)


def dense_projector(folded):
    d = len(curvature.flat(folded))
    return curvature.equivariant_part(folded, torch.eye(d, dtype=torch.float64))


def dense_jacobian(folded, x):
    def output(vector):
        return torch.func.functional_call(folded, curvature.unflat(folded, vector), (x,)).flatten()

    return torch.autograd.functional.jacobian(output, curvature.flat(folded))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_effective_parameters_are_those_of_the_dense_posterior(data, layers):
    x = data[0].double()
    folded = curvature.plain(network(layers=layers).double())
    rows = dense_jacobian(folded, x).unflatten(0, (12, 3))
    p = folded(x).detach().softmax(-1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    gauss_newton = torch.einsum("ncd,nce,nef->df", rows, middle, rows)
    projector = dense_projector(folded)
    eye = torch.eye(len(projector), dtype=torch.float64)
    prior = 0.7 * projector + 0.02 * (eye - projector)
    posterior = torch.linalg.inv(gauss_newton + torch.linalg.inv(prior))
    kept = eye - posterior @ torch.linalg.inv(prior)
    wanted = (kept @ projector).trace().item(), (kept @ (eye - projector)).trace().item()
    assert curvature.effective_parameters(folded, x, 0.7, 0.02) == pytest.approx(wanted, rel=1e-6)
    assert curvature.effective_parameters(folded, x, 0.7, 0.0)[1] == 0


def test_the_root_of_the_softmax_curvature():
    logits = torch.randn(4, 3, dtype=torch.float64)
    root, p = curvature.softmax_root(logits), logits.softmax(-1)
    assert torch.allclose(root @ root.mT, torch.diag_embed(p) - p[:, :, None] * p[:, None, :])


def dense_hessian(folded, x, y):
    def loss(vector):
        return cross_entropy(torch.func.functional_call(folded, curvature.unflat(folded, vector), (x,)), y)

    return torch.autograd.functional.hessian(loss, curvature.flat(folded))


def test_lanczos_gives_the_eigenvalues_of_the_dense_hessian(data):
    folded = curvature.plain(network()).double()
    x, y = data[0].double(), data[1]
    dense = dense_hessian(folded, x, y)
    product = curvature.hessian_product(folded, x, y)
    start = torch.randn(len(dense), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(product(start), dense @ start, atol=1e-10)
    values, weights = curvature.lanczos(product, start, len(dense))
    true, axes = torch.linalg.eigh(dense)
    assert torch.allclose(values[-5:], true[-5:], atol=1e-8)
    assert weights.sum().item() == pytest.approx(1)
    few, shares = curvature.lanczos(product, start, 30)
    exact = (axes.T @ start / start.norm()).square()
    found, wanted = ((w * v.clamp(min=0) / (v.clamp(min=0) + 0.1)).sum() for v, w in ((few, shares), (true, exact)))
    assert found.item() == pytest.approx(wanted.item(), rel=0.002)


def test_lanczos_ends_where_the_space_is_used_up():
    values, weights = curvature.lanczos(lambda v: torch.cat([2 * v[:1], 3 * v[1:]]), torch.ones(5), 5)
    assert values.tolist() == pytest.approx([2.0, 3.0])
    assert weights.tolist() == pytest.approx([0.2, 0.8])


def test_the_effective_dimension_on_a_subspace(data):
    """Many probes come to the dense number, in each of the two subspaces."""
    folded = curvature.plain(network()).double()
    x, y = data[0].double(), data[1]
    dense = dense_hessian(folded, x, y)
    projector = dense_projector(folded)
    eye = torch.eye(len(dense), dtype=torch.float64)
    for matrix in (projector, eye - projector):
        values = torch.linalg.eigvalsh(matrix @ dense @ matrix).clamp(min=0)
        found = curvature.effective_dimension(
            lambda v: dense @ v.double(),
            len(dense),
            0.05,
            within=lambda v, m=matrix: m @ v.double(),
            probes=60,
            steps=30,
        )
        assert found == pytest.approx((values / (values + 0.05)).sum().item(), rel=0.12)


def test_other_networks_are_refused():
    with pytest.raises(SofteqError, match="expected layers that fold"):
        curvature.plain(nn.Sequential(nn.Conv2d(1, 1, 3)))
