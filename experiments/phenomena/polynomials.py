"""Polynomials of any order under a Gaussian prior that grows with the order, fitted in closed form.

``f(x) = sum_j w_j p_j(x)`` for j from 0 to J on [-1, 1], with ``w_j ~ N(0, scale^2 growth^-j)``: the penalty
``sum_j growth^j w_j^2`` of Wilson ("Deep Learning is Not So Mysterious or Different", 2025). It is a Gaussian process
whose covariance is a geometric sum, so that the order costs nothing. p_j is ``x^j``, or the Chebyshev polynomial
``cos(j arccos x)``, whose wiggles are as fast in the middle as at the ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq.errors import SofteqValueError

NOISES = tuple(float(v) for v in torch.logspace(-6, 2, 49, dtype=torch.float64))
"""Variances of the noise over the square of the prior's scale that a fit is tried with."""


def geometric(ratio: Tensor, order: int) -> Tensor:
    """``sum_j ratio^j`` for j from 0 to ``order``, complex128, of numbers in the closed unit disc."""
    one_less = 1 - ratio
    at_one = one_less == 0
    return torch.where(at_one, order + 1.0, (1 - ratio ** (order + 1)) / torch.where(at_one, 1.0, one_less))


def monomial_covariance(x: Tensor, z: Tensor, order: int, growth: float) -> Tensor:
    """``sum_j growth^-j (x z)^j``, ``(n, m)`` float64, of points ``(n,)`` and ``(m,)`` in [-1, 1]."""
    return geometric((x[:, None] * z[None, :] / growth).to(torch.complex128), order).real


def chebyshev_covariance(x: Tensor, z: Tensor, order: int, growth: float) -> Tensor:
    """``sum_j growth^-j cos(j a) cos(j b)`` with ``x = cos a`` and ``z = cos b``, ``(n, m)`` float64."""
    a, b = torch.arccos(x)[:, None], torch.arccos(z)[None, :]
    sums = [geometric(torch.polar(torch.full_like(angle, 1 / growth), angle), order) for angle in (a - b, a + b)]
    return (sums[0].real + sums[1].real) / 2


Covariance = Callable[[Tensor, Tensor, int, float], Tensor]
BASES: dict[str, Covariance] = {"monomial": monomial_covariance, "chebyshev": chebyshev_covariance}


@dataclass(frozen=True)
class Fit:
    """A polynomial fitted under one prior, its scale and noise included.

    Attributes:
        growth: of the penalty from one order to the next; 1 for a prior that does not look at the order.
        noise: standard deviation of the noise, in the unit of the values.
        evidence: log marginal likelihood of the standardised values, in nats.
        leave_one_out: log probability of each standardised value given the others, their sum, in nats.
        effective: trace of ``K (K + noise)^-1``, the parameters that the data determine.
        weights: ``(n,)`` of the fitted values: a prediction at x is ``mean + covariance(x, points) weights``.
        mean: of the values.
    """

    growth: float
    noise: float
    evidence: float
    leave_one_out: float
    effective: float
    weights: Tensor
    mean: float


def fits(x: Tensor, y: Tensor, covariance: Covariance, order: int, growth: float) -> list[Fit]:
    """One fit for each of `NOISES`; the prior's scale is the one of the largest evidence at that ratio.

    Args:
        x: points in [-1, 1], ``(n,)`` float64.
        y: values, ``(n,)`` float64; they are standardised, and predictions brought back.
        covariance: one of `BASES`.
        order: the highest power.
        growth: at least 1.

    Raises:
        SofteqValueError: points outside [-1, 1], fewer than three, or a growth below 1.
    """
    if len(x) < 3 or not bool((x.abs() <= 1).all()):
        raise SofteqValueError(f"x: expected at least three points in [-1, 1], got {len(x)} up to {x.abs().max():.3g}")
    if not growth >= 1:
        raise SofteqValueError(f"growth: expected at least 1, got {growth}")
    mean, std = y.mean(), y.std()
    values, vectors = torch.linalg.eigh(covariance(x, x, order, growth))
    return [_fit(values.clamp_min(0), vectors, (y - mean) / std, ratio, growth, mean, std) for ratio in NOISES]


def _fit(values: Tensor, vectors: Tensor, y: Tensor, ratio: float, growth: float, mean: Tensor, std: Tensor) -> Fit:
    """From the eigenvalues and vectors of the covariance; ``y`` standardised."""
    variances, seen = values + ratio, vectors.T @ y
    scale = (seen.square() / variances).mean()  # the square of the prior's scale that makes the evidence largest
    evidence = -0.5 * (len(y) * (1 + math.log(2 * math.pi) + scale.log()) + variances.log().sum())
    weights = vectors @ (seen / variances)
    inverse = (vectors.square() / variances).sum(1)  # the diagonal of (K + ratio)^-1
    others = scale / inverse  # variance of a value given the others: Rasmussen and Williams (2006), equation 5.12
    one_out = -0.5 * ((weights / inverse).square() / others + others.log() + math.log(2 * math.pi)).sum()
    return Fit(
        growth=growth,
        noise=float((ratio * scale).sqrt() * std),
        evidence=float(evidence),
        leave_one_out=float(one_out),
        effective=float((values / variances).sum()),
        weights=weights * std,
        mean=float(mean),
    )


def chosen(
    x: Tensor, y: Tensor, basis: str, order: int, growths: Sequence[float], criterion: str = "evidence"
) -> tuple[Fit, Callable[[Tensor], Tensor]]:
    """The fit with the largest ``evidence`` or ``leave_one_out`` over growths and noises, and what it predicts.

    Raises:
        SofteqValueError: an unknown basis or criterion, or as `fits`.
    """
    if basis not in BASES or criterion not in ("evidence", "leave_one_out"):
        raise SofteqValueError(
            f"basis, criterion: expected {', '.join(BASES)} and evidence or leave_one_out, got {basis!r}, {criterion!r}"
        )
    covariance = BASES[basis]
    found = [fit for growth in growths for fit in fits(x, y, covariance, order, growth)]
    best = max(found, key=lambda fit: getattr(fit, criterion))
    return best, lambda at: best.mean + covariance(at, x, order, best.growth) @ best.weights


def least_squares(x: Tensor, y: Tensor, order: int) -> Callable[[Tensor], Tensor]:
    """The polynomial in powers of x with the least squared error, of those the one with the least weights."""
    weights = torch.linalg.pinv(_powers(x, order)) @ y
    return lambda at: _powers(at, order) @ weights


def _powers(x: Tensor, order: int) -> Tensor:
    return x[:, None] ** torch.arange(order + 1, dtype=x.dtype)
