"""A linear layer between irreps whose equivariant weights come with each call, as from a network of distances."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from softeq._arguments import check_dtype, check_read, no_equivariant_map
from softeq._irreps_paths import PathProducts
from softeq._irreps_products import check_external, path_product
from softeq.irreps import IrrepsProjector, as_irreps, check_irreps_width
from softeq.pathways import EQUIVARIANT, RESIDUAL, RESIDUAL_START, SoftLayer, Weights, pathways_of, plain_linear


class SoftO3ExternalLinear(SoftLayer):
    """``y = W_e(w) x + W_b x + b_e + b_b``: e3nn's ``o3.Linear`` with weights w from outside, plus a free linear map.

    The weights w of the equivariant pathway come with each call, for each sample (e3nn's ``shared_weights=False``) or
    for all of them (``internal_weights=False``), in e3nn's order and scale: standard normal ones give outputs of unit
    variance. The residual pathway is the layer's own and the same for all samples, whatever w is: it prices what no
    equivariant map of a sample can do, not how the maps differ between samples. Biases are the layer's own too.

    Args:
        irreps_in, irreps_out: e3nn ``Irreps`` or text, as of `SoftO3Linear`; empty ones too.
        constraint: ``"soft"``, ``"hard"`` (no parameters but the bias) or ``"none"`` (w is not used).
        bias: whether there is a bias; its equivariant part is on the even scalars (``0e``) alone.

    Attributes:
        weight_numel: the numbers in w, e3nn's ``weight_numel``.

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqValueError: bad irreps, an unknown constraint, no equivariant map.
    """

    def __init__(self, irreps_in: Any, irreps_out: Any, *, constraint: str = "soft", bias: bool = True) -> None:
        super().__init__()
        names = pathways_of(constraint)
        self.irreps_in, self.irreps_out = as_irreps(irreps_in, "irreps_in"), as_irreps(irreps_out, "irreps_out")
        self.in_features, self.constraint = self.irreps_in.dim, constraint
        product = path_product(self.irreps_in, as_irreps("0e", "one"), self.irreps_out, "full")
        self.weight_numel = int(product.weight_numel)
        if EQUIVARIANT in names and not self.weight_numel and self.irreps_in.dim and self.irreps_out.dim:
            raise no_equivariant_map(self.irreps_in, self.irreps_out)
        bound = 1 / math.sqrt(max(self.in_features, 1))
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = ExternalMap(product, bound if bias else None)
        if RESIDUAL in names:
            size, factor = self.irreps_out.dim, bound * (1.0 if len(names) == 1 else RESIDUAL_START)
            weight = torch.empty(size, self.in_features).uniform_(-factor, factor)
            self.pathways[RESIDUAL] = Weights(weight, torch.empty(size).uniform_(-factor, factor) if bias else None)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """``(..., in)`` and ``(..., weight_numel)``, or ``(weight_numel,)`` for all samples, to ``(..., out)``.

        Raises:
            SofteqValueError: an input or weights of another width, or none where the layer has an equivariant pathway.
        """
        if x.shape[-1:] != (self.in_features,):  # not by way of Irreps, which torch.compile cannot guard
            check_irreps_width(x, self.irreps_in)
        check_dtype(x, next(self.parameters(), None))
        own, free = self.pathway(EQUIVARIANT), self.pathway(RESIDUAL)
        if own is not None:
            check_external(weight, self.weight_numel)
        outputs = [] if own is None else [own(x, weight)]
        outputs += [] if free is None else [nn.functional.linear(x, check_read(free).weight, free.bias)]
        return sum(outputs[1:], outputs[0])

    def folded(self) -> nn.Module:
        """The sum of the terms as a plain module, which takes the same weights."""
        own, free = self.pathway(EQUIVARIANT), self.pathway(RESIDUAL)
        plain = None if free is None else plain_linear(check_read(free).weight, free.bias)
        return ExternalSum(copy.deepcopy(own), plain).train(self.training)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{self.irreps_in} -> {self.irreps_out}, {self.weight_numel} weights, constraint={self.constraint!r}"


class ExternalMap(nn.Module):
    """The equivariant map with given weights, and a bias of its own on the even scalars.

    Args:
        product: e3nn's tensor product of the input with one even scalar, for its paths and their scale.
        bound: of the uniform start of the bias; ``None`` for no bias.
    """

    bias: nn.Parameter | None

    def __init__(self, product: Any, bound: float | None) -> None:
        super().__init__()
        self.products = PathProducts(product, external_weights=True)
        self.invariants = IrrepsProjector(as_irreps("0e", "bias"), product.irreps_out)
        start = None if bound is None or not self.invariants.rank else torch.empty(self.invariants.rank)
        own = None if start is None or bound is None else nn.Parameter(start.uniform_(-bound, bound))
        self.register_parameter("bias", own)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """``(..., in)`` and ``(..., weight_numel)`` to ``(..., out)``."""
        y = self.products(x, x.new_ones(1), weight)
        return y if self.bias is None else y + self.invariants.matrix(self.bias)[:, 0].to(y.dtype)


class ExternalSum(nn.Module):
    """A map with weights from outside plus a linear layer, either of which may be absent."""

    def __init__(self, given: nn.Module | None, linear: nn.Module | None) -> None:
        super().__init__()
        self.given, self.linear = given, linear

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """See ``SoftO3ExternalLinear.forward``."""
        outputs = [] if self.given is None else [self.given(x, weight)]
        outputs += [] if self.linear is None else [self.linear(x)]
        return sum(outputs[1:], outputs[0])
