"""The exact evidence of a linear map whose Gaussian prior has a variance for each of several orthogonal subspaces.

``y = W x + noise``, noise normal with variance s^2, ``W = sum_k B_k^T c_k`` with an orthonormal basis ``B_k`` of the
k-th subspace of maps and coordinates ``c_k ~ N(0, v_k)``. A hard layer has the equivariant maps alone; a soft one them
and their complement; a ladder a space for each rung; an unconstrained one all maps at one variance. With the features
``F = (B_k x)_k``, ``A = 1 + V^(1/2) F^T F V^(1/2) / s^2`` and n outputs in all (Bishop 2006, section 3.5):

    2 log p(y) = -n log 2 pi s^2 - log det A - (|y|^2 - |A^(-1/2) V^(1/2) F^T y|^2 / s^2) / s^2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError

LOG_VARIANCES, LOG_NOISE = (-25.0, 8.0), (-14.0, 6.0)
"""Where the fit looks; e^-25 switches a subspace off."""


@dataclass(frozen=True)
class Prior:
    """A fitted prior: the logarithms of a variance per subspace, and of the noise's."""

    log_variances: Tensor
    log_noise: Tensor


@dataclass(frozen=True)
class Look:
    """What data say under a prior.

    Attributes:
        log_evidence: in nats.
        mean: of the coordinates given the data, ``(rank,)``.
        effective: parameters of each subspace that the data determine, sum of 1 - posterior over prior variance (MacKay
            1992), ``(parts,)``.
        slope: of the log evidence by the logarithms of the variances and of the noise's, ``(parts + 1,)``.
    """

    log_evidence: float
    mean: Tensor
    effective: Tensor
    slope: Tensor


class LinearModel:
    """Maps ``(out, in)`` under a prior on subspaces.

    Args:
        bases: orthonormal, of mutually orthogonal subspaces, ``(rank_k, out, in)`` each, float64.

    Raises:
        SofteqValueError: no basis, or bases of other shapes.
    """

    def __init__(self, bases: Sequence[Tensor]) -> None:
        if not bases or any(b.dim() != 3 or b.shape[1:] != bases[0].shape[1:] for b in bases):
            raise SofteqValueError("bases: expected tensors (rank, out, in) of one map's shape, one at least")
        self.basis = torch.cat(list(bases))
        self.part = torch.repeat_interleave(torch.arange(len(bases)), torch.tensor([len(b) for b in bases]))
        self.parts = len(bases)

    def _moments(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float, int]:
        features = torch.einsum("roi,ni->nor", self.basis, x).flatten(0, 1)
        return features.T @ features, features.T @ y.flatten(), float(y.square().sum()), y.numel()

    def look(self, x: Tensor, y: Tensor, prior: Prior) -> Look:
        """What the data ``(n, in)``, ``(n, out)`` say under a prior."""
        return self._look(self._moments(x, y), prior)

    def log_evidence(self, x: Tensor, y: Tensor, prior: Prior) -> float:
        """``log p(y | x)`` in nats."""
        return self.look(x, y, prior).log_evidence

    def posterior_mean(self, x: Tensor, y: Tensor, prior: Prior) -> Tensor:
        """The mean of W given the data, ``(out, in)``."""
        return torch.einsum("r,roi->oi", self.look(x, y, prior).mean, self.basis)

    def _look(self, moments: tuple[Tensor, Tensor, float, int], prior: Prior) -> Look:
        gram, cross, squares, n = moments
        root, noise = (prior.log_variances[self.part] / 2).exp(), float(prior.log_noise.exp())
        a = torch.eye(len(root), dtype=gram.dtype) + root[:, None] * gram * root / noise
        factor = torch.linalg.cholesky(a)
        inverse = torch.cholesky_inverse(factor)
        white = inverse @ (root * cross) / noise
        mean = root * white
        residual = squares - 2 * float(mean @ cross) + float(mean @ gram @ mean)
        fit = residual / noise + float(white.square().sum())
        value = -(n * (math.log(2 * math.pi) + float(prior.log_noise)) + 2 * float(factor.diagonal().log().sum()) + fit)
        known = torch.zeros(self.parts, dtype=gram.dtype).index_add_(0, self.part, 1 - inverse.diagonal())
        sizes = torch.zeros(self.parts, dtype=gram.dtype).index_add_(0, self.part, white.square())
        slope = torch.cat([sizes - known, torch.tensor([residual / noise - n + float(known.sum())], dtype=gram.dtype)])
        return Look(value / 2, mean, known, slope / 2)

    def fit(self, x: Tensor, y: Tensor, starts: Sequence[float] = (-6.0, 0.0)) -> tuple[Prior, float]:
        """The prior of the largest evidence and its logarithm, by L-BFGS-B from several starts.

        Args:
            x, y: see `log_evidence`.
            starts: of the logarithms of the variances: the first subspace begins at 0, the others, of which the
                evidence may have several maxima, at each of these; the noise begins at .03 of the outputs' variance.

        Raises:
            MissingExtraError: scipy is not installed.
            SofteqError: no start came to a finite evidence.
        """
        try:
            from scipy.optimize import minimize
        except ImportError as error:
            raise MissingExtraError("the evidence is fitted by scipy: pip install 'softeq[experiments]'") from error
        moments, spread = self._moments(x, y), math.log(float(y.var()) + 1e-12)

        def cost(values: object) -> tuple[float, object]:
            theta = torch.as_tensor(values, dtype=torch.float64)
            seen = self._look(moments, Prior(theta[:-1], theta[-1]))
            return -seen.log_evidence, -seen.slope.numpy()

        bounds = [LOG_VARIANCES] * self.parts + [LOG_NOISE]
        firsts = [[0.0] + [s] * (self.parts - 1) for s in (starts if self.parts > 1 else starts[:1])]
        tried = [
            minimize(cost, [*first, spread + math.log(0.03)], jac=True, method="L-BFGS-B", bounds=bounds)
            for first in firsts
        ]
        best = min((t for t in tried if math.isfinite(t.fun)), key=lambda t: t.fun, default=None)
        if best is None:
            raise SofteqError("evidence: no start of the fit came to a finite value")
        theta = torch.as_tensor(best.x, dtype=torch.float64)
        return Prior(theta[:-1], theta[-1]), -float(best.fun)


def complement(basis: Tensor, within: Tensor) -> Tensor:
    """An orthonormal basis of the maps in the span of ``within`` that are orthogonal to those of ``basis``.

    Args:
        basis, within: orthonormal, ``(rank, out, in)``; the first's span lies in the second's.
    """
    small, large = basis.flatten(1), within.flatten(1)
    rest = large - large @ small.T @ small
    _, values, right = torch.linalg.svd(rest, full_matrices=False)
    kept = right[values > 0.5]  # 1 or 0 up to rounding: the spans are nested
    return kept.view(len(kept), *within.shape[1:])


def all_maps(out: int, inputs: int) -> Tensor:
    """The basis of unit matrices, ``(out * in, out, in)``, float64."""
    return torch.eye(out * inputs, dtype=torch.float64).view(out * inputs, out, inputs)
