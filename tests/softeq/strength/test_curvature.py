"""Kronecker factors against the matrix that they stand for."""

import pytest
import torch

from softeq.strength._curvature import Kronecker, curvature_of

SHAPES = [(3, 4), (2, 3, 2, 2), (3, 1, 5)]


def probed(shape, probes=400, widest=1024, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(Kronecker, "WIDEST", widest)
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(shape, dtype=torch.float64)
    curvature = curvature_of("kfac", weight, weight.numel())
    mixes = [torch.randn(n, n, generator=generator, dtype=torch.float64) for n in curvature.sizes]
    for _ in range(probes):
        g = torch.randn(curvature.sizes, generator=generator, dtype=torch.float64)
        for mix in mixes:  # correlated along every axis
            g = torch.tensordot(g, mix, dims=([0], [1]))
        curvature.update(g.reshape(shape))
    return curvature


def dense(curvature):
    """The product of the factors as one matrix, built entry by entry from them."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for factor in curvature.factors:
        matrix = torch.kron(matrix, factor if factor.ndim == 2 else factor.diag())
    return matrix / curvature._trace() ** (len(curvature.factors) - 1) / curvature.correction


def shown(curvature):
    curvature._known = None  # eigenvalues as of now, not of the last renewal
    return curvature


@pytest.mark.parametrize("widest", [1024, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_traces_and_draws_are_those_of_the_matrix(shape, widest, monkeypatch):
    curvature = shown(probed(shape, widest=widest, monkeypatch=monkeypatch))
    assert {factor.ndim for factor in curvature.factors} == ({2} if widest > 5 else {1, 2} if min(shape) < 3 else {1})
    matrix, noise, precision = dense(curvature), 0.3, 0.7
    assert curvature.total() == pytest.approx(float(matrix.trace()))
    posterior = (matrix / noise + precision * torch.eye(len(matrix), dtype=torch.float64)).inverse()
    assert curvature.inverse_trace(noise, precision) == pytest.approx(float(posterior.trace()))
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([curvature.draw(noise, precision, generator).flatten() for _ in range(20_000)])
    covariance = draws.T @ draws / len(draws)
    assert float((covariance - posterior).abs().max()) < 0.05 * float(posterior.diagonal().max())


def test_probes_of_a_product_find_it():
    """The mean of probes ``L z R`` has the factors; one of a single axis alone would not."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (3, 4))
    curvature = curvature_of("kfac", torch.zeros(3, 4, dtype=torch.float64), 12)
    curvature.factors[0].copy_(left @ left.T * (right @ right.T).trace())
    curvature.factors[1].copy_(right @ right.T * (left @ left.T).trace())
    curvature.probes = 10**6
    exact = torch.kron(left @ left.T, right @ right.T)
    torch.testing.assert_close(dense(curvature), exact, rtol=1e-10, atol=1e-10)
    assert curvature.inverse_trace(1.0, 0.5) == pytest.approx(
        float((exact + 0.5 * torch.eye(12, dtype=torch.float64)).inverse().trace())
    )


def test_eigenvalues_are_renewed_often_at_first_and_rarely_after(monkeypatch):
    counted = []
    true = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: counted.append(1) or true(a))
    curvature = curvature_of("kfac", torch.zeros(2, 2), 4)
    at = []
    for probe in range(1, 60):
        before = len(counted)
        curvature.update(torch.ones(2, 2))
        curvature.inverse_trace(1.0, 1.0)
        at += [probe] * (len(counted) > before)
    assert at == [1, 2, 4, 8, 16, 26, 36, 46, 56]


def test_an_axis_that_is_long_takes_no_square_of_memory():
    curvature = curvature_of("kfac", torch.zeros(3000, 2), 6000)
    assert [tuple(factor.shape) for factor in curvature.factors] == [(3000,), (2, 2)]
    curvature.update(torch.ones(3000, 2))
    again = curvature_of("kfac", torch.zeros(3000, 2), 6000)
    curvature.inverse_trace(1.0, 1.0)
    again.load(curvature.state())
    assert again.inverse_trace(1.0, 1.0) == curvature.inverse_trace(1.0, 1.0)
    drawn = [one.draw(1.0, 1.0, torch.Generator().manual_seed(0)) for one in (curvature, again)]
    assert torch.equal(*drawn)
