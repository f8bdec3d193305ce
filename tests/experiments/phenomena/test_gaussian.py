"""The exact evidence against numerical integration and the dense normal density."""

import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.phenomena.gaussian import LinearModel, Prior, all_maps, complement

F = torch.float64


def prior(variances, noise):
    return Prior(torch.tensor(variances, dtype=F).log(), torch.tensor(noise, dtype=F).log())


def normal(value, variance):
    return torch.exp(-(value**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def test_one_weight_by_numerical_integration():
    x, y = torch.tensor([[1.0], [-2.0], [0.5]], dtype=F), torch.tensor([[0.7], [-1.1], [0.4]], dtype=F)
    w = torch.linspace(-12, 12, 40_001, dtype=F)
    density = normal(w, 1.7)
    for a, b in zip(x.flatten(), y.flatten(), strict=True):
        density = density * normal(b - a * w, 0.3)
    wanted = torch.trapezoid(density, w).log()
    got = LinearModel([torch.ones(1, 1, 1, dtype=F)]).log_evidence(x, y, prior([1.7], 0.3))
    assert got == pytest.approx(wanted.item(), abs=1e-9)


def test_two_subspaces_by_numerical_integration():
    """W = c_0 (1, 1) / sqrt 2 + c_1 (1, -1) / sqrt 2 of one output."""
    r = 1 / math.sqrt(2)
    bases = [torch.tensor([[[r, r]]], dtype=F), torch.tensor([[[r, -r]]], dtype=F)]
    x, y = torch.tensor([[1.0, 0.3], [0.2, -1.0]], dtype=F), torch.tensor([[0.5], [1.2]], dtype=F)
    c = torch.linspace(-9, 9, 1201, dtype=F)
    a, b = torch.meshgrid(c, c, indexing="ij")
    density = normal(a, 2.0) * normal(b, 0.2)
    for row, target in zip(x, y.flatten(), strict=True):
        density = density * normal(target - a * r * (row[0] + row[1]) - b * r * (row[0] - row[1]), 0.1)
    wanted = torch.trapezoid(torch.trapezoid(density, c), c).log()
    got = LinearModel(bases).log_evidence(x, y, prior([2.0, 0.2], 0.1))
    assert got == pytest.approx(wanted.item(), abs=1e-6)


def problem(n=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=F))[0].view(6, 2, 3)
    x, y = (torch.randn(n, k, generator=generator, dtype=F) for k in (3, 2))
    return LinearModel([basis[:1], basis[1:3], basis[3:]]), x, y


def test_it_is_the_dense_normal_density_and_the_mean_its_conditional():
    model, x, y = problem()
    p = prior([3.0, 0.5, 0.01], 0.2)
    features = torch.einsum("roi,ni->nor", model.basis, x).flatten(0, 1)
    covariance = torch.diag(p.log_variances[model.part].exp())
    whole = features @ covariance @ features.T + 0.2 * torch.eye(14, dtype=F)
    dense = torch.distributions.MultivariateNormal(torch.zeros(14, dtype=F), whole).log_prob(y.flatten())
    assert model.log_evidence(x, y, p) == pytest.approx(dense.item(), abs=1e-10)
    coordinates = covariance @ features.T @ torch.linalg.solve(whole, y.flatten())
    mean = torch.einsum("r,roi->oi", coordinates, model.basis)
    assert torch.allclose(model.posterior_mean(x, y, p), mean, atol=1e-12)
    seen = model.look(x, y, p)
    variances = (covariance - covariance @ features.T @ torch.linalg.solve(whole, features @ covariance)).diagonal()
    kept = 1 - variances / covariance.diagonal()
    assert seen.effective.tolist() == pytest.approx([kept[model.part == k].sum().item() for k in range(3)])


def test_the_slope_is_that_of_finite_differences():
    model, x, y = problem()
    theta, step = torch.tensor([1.0, -0.5, -3.0, -1.2], dtype=F), 1e-5
    slope = model.look(x, y, Prior(theta[:-1], theta[-1])).slope
    for k in range(4):
        ends = [theta + sign * step * torch.eye(4, dtype=F)[k] for sign in (1, -1)]
        up, down = (model.log_evidence(x, y, Prior(end[:-1], end[-1])) for end in ends)
        assert slope[k].item() == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-6)


def test_the_fit_is_at_least_as_good_as_any_prior_on_a_grid():
    model, x, y = problem(n=30)
    best, value = model.fit(x, y)
    assert model.log_evidence(x, y, best) == pytest.approx(value, abs=1e-9)
    for a in (1e-4, 0.1, 1.0, 10.0):
        for b in (1e-4, 0.1, 1.0):
            for noise in (0.1, 0.5, 1.0, 2.0):
                assert model.log_evidence(x, y, prior([a, b, b], noise)) <= value + 1e-6


def test_a_subspace_that_the_data_do_not_have_is_switched_off():
    """The trap: where a fit that starts with the residual at zero or at one stays."""
    generator = torch.Generator().manual_seed(1)
    basis = all_maps(4, 4)
    hard, rest = basis[:2], basis[2:]
    x = torch.randn(40, 4, generator=generator, dtype=F)
    y = x @ (2 * hard[0] - hard[1]).T + 0.1 * torch.randn(40, 4, generator=generator, dtype=F)
    found, value = LinearModel([hard, rest]).fit(x, y)
    assert found.log_variances[1] < math.log(1e-3)
    _, hard_value = LinearModel([hard]).fit(x, y)
    _, free_value = LinearModel([basis]).fit(x, y)
    assert hard_value - 1 < value
    assert value > free_value + 10


def test_complement_is_orthogonal_and_fills_up():
    model, _, _ = problem()
    hard = model.basis[:2]
    rest = complement(hard, all_maps(2, 3))
    assert rest.shape == (4, 2, 3)
    both = torch.cat([hard, rest]).flatten(1)
    assert torch.allclose(both @ both.T, torch.eye(6, dtype=F), atol=1e-12)


@pytest.mark.parametrize("bases", [[], [torch.zeros(1, 2, 3), torch.zeros(1, 3, 2)]], ids=["none", "shapes"])
def test_bases_that_are_none_are_refused(bases):
    with pytest.raises(SofteqValueError, match="bases: expected tensors"):
        LinearModel(bases)
