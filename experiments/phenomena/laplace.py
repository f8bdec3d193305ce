"""Laplace's approximation of quarter networks by laplace-torch, with hard, soft or free priors in one parametrization.

A network with one hidden layer is written as ``w = (s_e P + s_r (1 - P)) u`` of its merged weights ``w``: an isotropic
normal prior on u is then the prior of soft layers on w, and s_r = 0 is hard. Coordinates outside a hard network's
subspace do nothing: their posterior is their prior, and they add nothing to the evidence.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from softeq.errors import MissingExtraError
from softeq.experiments.phenomena.curvature import equivariant_part, flat, unflat

_BATCH = 50


class Whitened(nn.Module):
    """A folded quarter network as a function of whitened coordinates ``u (D,)``.

    Args:
        folded: as `phenomena.curvature.plain` gives it.
        inside, outside: prior variances of an equivariant coordinate and of another, see `benign.prior_variances`.
    """

    def __init__(self, folded: nn.Module, inside: float, outside: float) -> None:
        super().__init__()
        self._folded = (folded,)  # no submodule: its parameters are not this one's
        self.inside, self.outside = math.sqrt(inside), math.sqrt(outside)
        whole = flat(folded)
        part = equivariant_part(folded, whole)
        rest = (whole - part) / self.outside if self.outside else torch.zeros_like(whole)
        self.u = nn.Parameter(part / self.inside + rest)

    def weights(self, u: Tensor) -> Tensor:
        """The network's parameters as one vector."""
        part = equivariant_part(self._folded[0], u)
        return self.inside * part + self.outside * (u - part)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return functional_call(self._folded[0], unflat(self._folded[0], self.weights(self.u)), (x,))


def laplace(folded: nn.Module, x: Tensor, y: Tensor, inside: float, outside: float) -> Any:
    """The fitted approximation, of laplace-torch: full Gauss-Newton curvature of all coordinates, prior precision 1.

    ``.log_marginal_likelihood()`` is its log evidence; ``(x, link_approx="probit")`` gives predictions.

    Args:
        folded, inside, outside: see `Whitened`; the network at the mode.
        x, y: training images and labels.

    Raises:
        MissingExtraError: laplace-torch is not installed.
    """
    try:
        from laplace import Laplace
        from laplace.curvature import GGNInterface
    except ImportError as error:
        raise MissingExtraError(
            "Laplace's approximation needs laplace-torch: pip install 'softeq[phenomena]'"
        ) from error
    model = Whitened(folded, inside, outside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit's, on import
        found = Laplace(
            model,
            "classification",
            subset_of_weights="all",
            hessian_structure="full",
            prior_precision=1.0,
            backend=GGNInterface,
        )
        found.fit(DataLoader(TensorDataset(x, y), batch_size=_BATCH))
    return found
