"""Polynomials of any order: the covariance against explicit sums, the fit against a dense Gaussian, refusals."""

import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.phenomena import polynomials
from softeq.experiments.phenomena.polynomials import BASES, chosen, fits, geometric, least_squares

POINTS = torch.linspace(-1, 1, 9, dtype=torch.float64)
VALUES = torch.tensor([1.0, 0.2, 0.1, 0.4, 0.3, 0.9, 1.4, 1.3, 2.0], dtype=torch.float64)


def features(x, order, growth, basis):
    j = torch.arange(order + 1, dtype=torch.float64)
    terms = x[:, None] ** j if basis == "monomial" else torch.cos(j * torch.arccos(x)[:, None])
    return terms * growth ** (-j / 2)


def test_the_geometric_sum_at_one_at_minus_one_and_between():
    ratio = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.complex128)
    expected = torch.tensor([4.0, 0.0, 1.875, 1.0], dtype=torch.complex128)
    torch.testing.assert_close(geometric(ratio, 3), expected)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("growth", [1.0, 1.001, 3.0])
@pytest.mark.parametrize("order", [0, 3, 400])
def test_the_covariance_is_the_explicit_sum_over_orders(basis, growth, order):
    x, z = features(POINTS, order, growth, basis), features(POINTS[:4] / 2, order, growth, basis)
    found = BASES[basis](POINTS, POINTS[:4] / 2, order, growth)
    torch.testing.assert_close(found, x @ z.T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("basis", BASES)
def test_a_fit_is_the_gaussian_posterior_of_the_weights(basis):
    order, growth = 6, 1.5
    fit = fits(POINTS, VALUES, BASES[basis], order, growth)[30]
    phi = features(POINTS, order, growth, basis)
    y = (VALUES - VALUES.mean()) / VALUES.std()
    ratio = polynomials.NOISES[30]
    gram = phi @ phi.T + ratio * torch.eye(9, dtype=torch.float64)
    scale = y @ torch.linalg.solve(gram, y) / 9
    expected = torch.distributions.MultivariateNormal(torch.zeros(9, dtype=torch.float64), scale * gram)
    assert fit.evidence == pytest.approx(float(expected.log_prob(y)))
    weights = torch.linalg.solve(phi.T @ phi + ratio * torch.eye(order + 1, dtype=torch.float64), phi.T @ y)
    predicted = fit.mean + BASES[basis](POINTS, POINTS, order, growth) @ fit.weights
    torch.testing.assert_close(predicted, VALUES.mean() + VALUES.std() * (phi @ weights))
    assert fit.effective == pytest.approx(float(torch.trace(torch.linalg.solve(gram, phi @ phi.T))))
    assert fit.noise == pytest.approx(math.sqrt(ratio * scale) * float(VALUES.std()))


def test_leave_one_out_is_what_leaving_each_out_gives():
    fit = fits(POINTS, VALUES, BASES["chebyshev"], 6, 1.5)[30]
    y = (VALUES - VALUES.mean()) / VALUES.std()
    gram = BASES["chebyshev"](POINTS, POINTS, 6, 1.5) + polynomials.NOISES[30] * torch.eye(9, dtype=torch.float64)
    scale = y @ torch.linalg.solve(gram, y) / 9
    total = 0.0
    for i in range(9):
        rest = [j for j in range(9) if j != i]
        gain = torch.linalg.solve(gram[rest][:, rest], gram[rest, i])
        normal = torch.distributions.Normal(gain @ y[rest], (scale * (gram[i, i] - gain @ gram[rest, i])).sqrt())
        total += float(normal.log_prob(y[i]))
    assert fit.leave_one_out == pytest.approx(total)


@pytest.mark.parametrize("criterion", ["evidence", "leave_one_out"])
def test_data_of_a_low_order_choose_a_steep_prior_and_noise_of_a_high_one_a_flat_one(criterion):
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, 80, dtype=torch.float64)
    noise = 0.1 * torch.randn(80, generator=generator, dtype=torch.float64)
    growths = (1.001, 1.1, 10.0)
    line, _ = chosen(x, 2 * x + noise, "chebyshev", 2000, growths, criterion)
    wave, predict = chosen(x, torch.cos(30 * torch.arccos(x)) + noise, "chebyshev", 2000, growths, criterion)
    assert line.growth == 10.0
    assert wave.growth < 10.0
    middle = (x[1:] + x[:-1]) / 2
    assert (predict(middle) - torch.cos(30 * torch.arccos(middle))).square().mean() < 0.05
    assert line.noise == pytest.approx(0.1, rel=0.2)


def test_least_squares_recovers_a_cubic():
    y = 1 - POINTS + 2 * POINTS**3
    at = torch.tensor([0.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(least_squares(POINTS, y, 3)(at), 1 - at + 2 * at**3)


def test_refusals():
    with pytest.raises(SofteqValueError, match=r"x: expected at least three points in \[-1, 1\]"):
        fits(2 * POINTS, VALUES, BASES["monomial"], 3, 1.1)
    with pytest.raises(SofteqValueError, match="growth: expected at least 1, got"):
        fits(POINTS, VALUES, BASES["monomial"], 3, 0.5)
    with pytest.raises(SofteqValueError, match="basis, criterion"):
        chosen(POINTS, VALUES, "legendre", 3, (1.1,))
