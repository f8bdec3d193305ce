"""How good predicted probabilities are: calibration error and negative log likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from softeq.errors import SofteqValueError

SMALLEST = 1e-12
"""A probability below it counts as it, so that one sure error does not make a mean infinite."""


def calibration_error(p: Tensor, y: Tensor, bins: int = 10) -> float:
    """The expected calibration error: over bins of the largest probability, the mean gap between it and the accuracy.

    Bins are of equal width over [0, 1] (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    Args:
        p: probabilities ``(n, classes)``.
        y: labels ``(n,)``.
        bins: at least 1.

    Raises:
        SofteqValueError: no samples, or rows that do not sum to one.
    """
    if not len(p) or not torch.allclose(p.sum(-1), torch.ones(len(p), dtype=p.dtype), atol=1e-4):
        raise SofteqValueError(f"p: expected rows of probabilities, one at least, got {tuple(p.shape)}")
    sure, said = p.double().max(-1)
    right = (said == y).double()
    place = (sure * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, right - sure)
    return float(gaps.abs().sum() / len(p))


def log_loss(p: Tensor, y: Tensor) -> float:
    """The mean negative log likelihood of the labels, nats per sample."""
    return float(-p.double().clamp(min=SMALLEST).log().gather(1, y[:, None]).mean())
