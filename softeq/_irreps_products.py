"""Soft tensor products of irreps; see `softeq.irreps` for the linear layer."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq._arguments import check_dtype, no_equivariant_map, whole
from softeq._constants import Constants
from softeq._irreps_paths import PathProducts
from softeq.bilinear import even_pairs
from softeq.errors import SofteqValueError
from softeq.irreps import as_irreps, check_irreps_width
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    SoftLayer,
    pathways_of,
)


class SoftTensorProduct(SoftLayer):
    """A product of two sums of irreps: e3nn's, plus unconstrained products of pairs of coordinates.

    The equivariant pathway is e3nn's fully connected tensor product, or the channel-wise one (``"uvu"``), which keeps
    the channels of the first input apart and is what message passing uses, often with weights from outside (one set
    per edge, from the distance). A free bilinear map has ``out * in1 * in2`` weights, ten million for a few dozen
    channels. The residual pathway is ``U z`` with ``z_r = x1_i(r) x2_j(r)`` over fixed pairs that meet every coordinate
    of both inputs: linear in its weights, so that the prior on U is a Gaussian on the map itself and zero has a
    gradient, which a low-rank factorisation gives up. Linear layers before and after reach the rest.

    Args:
        irreps_in1, irreps_in2, irreps_out: e3nn ``Irreps`` or text. For ``"channelwise"``, ``irreps_out`` says which
            kinds of irreps to keep, and the output is ``self.irreps_out``, one block per product.
        kind: ``"full"`` or ``"channelwise"``.
        constraint: ``"soft"``, ``"hard"`` or ``"none"``.
        external_weights: whether the equivariant pathway takes its weights at each call: ``(..., weight_numel)`` for
            each sample, or ``(weight_numel,)`` for all of them. The residual pathway's are the layer's own.
        rank: products in the residual pathway; ``None`` takes the size of the first input.

    An output irrep that no product reaches is zero in the hard layer and comes from the residual pathway alone; where
    none is reached, a hard layer is refused (of empty irreps it is zero, as e3nn's).

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqValueError: bad irreps, kind or constraint, a rank below 1, or ``"hard"`` without a product that reaches
            the output.
    """

    def __init__(
        self,
        irreps_in1: Any,
        irreps_in2: Any,
        irreps_out: Any,
        *,
        kind: str = "full",
        constraint: str = "soft",
        external_weights: bool = False,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        names = pathways_of(constraint)
        if kind not in ("full", "channelwise"):
            raise SofteqValueError(f"kind: expected 'full' or 'channelwise', got {kind!r}")
        self.irreps_in1, self.irreps_in2 = as_irreps(irreps_in1, "irreps_in1"), as_irreps(irreps_in2, "irreps_in2")
        self.in_features = ((self.irreps_in1.dim,), (self.irreps_in2.dim,))
        self.kind, self.constraint, self.external_weights = kind, constraint, external_weights
        wanted = as_irreps(irreps_out, "irreps_out")
        product = path_product(self.irreps_in1, self.irreps_in2, wanted, kind)
        self.irreps_out, self.weight_numel = product.irreps_out, int(product.weight_numel)
        if RESIDUAL not in names:
            self._check_reached()
        rank = self.irreps_in1.dim if rank is None else whole("rank", rank, 1)
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = PathProducts(product, external_weights)
        if RESIDUAL in names:
            start = 1.0 if len(names) == 1 else RESIDUAL_START
            sizes = (self.irreps_in1.dim, self.irreps_in2.dim, product.irreps_out.dim)
            self.pathways[RESIDUAL] = PairProducts(*sizes, rank, start)

    def _check_reached(self) -> None:
        """Raises where the equivariant pathway is zero although neither inputs nor output are empty."""
        if not self.weight_numel and self.irreps_in1.dim and self.irreps_in2.dim and self.irreps_out.dim:
            raise no_equivariant_map(f"{self.irreps_in1} and {self.irreps_in2}", self.irreps_out)

    def kept_pathway(self) -> Any:
        """The equivariant pathway.

        Raises:
            SofteqValueError: there is none, or no product reaches the output.
        """
        self._check_reached()
        return super().kept_pathway()

    def forward(self, x1: Tensor, x2: Tensor, weight: Tensor | None = None) -> Tensor:
        """``(..., in1)`` and ``(..., in2)`` to ``(..., out)``; ``weight`` as the arguments of the class say.

        Raises:
            SofteqValueError: inputs or weights of another width, or weights that are missing or unexpected.
        """
        if (x1.shape[-1:], x2.shape[-1:]) != self.in_features:  # see SoftGate.forward
            check_irreps_width(x1, self.irreps_in1, "x1")
            check_irreps_width(x2, self.irreps_in2, "x2")
        if EQUIVARIANT in self.pathways:
            check_external(weight, self.weight_numel if self.external_weights else None)
        for name, x in (("x1", x1), ("x2", x2)):
            check_dtype(x, next(self.parameters(), None), name)
        outputs = []
        for name, pathway in self.pathways.items():
            outputs.append(pathway(x1, x2, weight) if name == EQUIVARIANT else pathway(x1, x2))
        return sum(outputs[1:], outputs[0])

    def folded(self) -> nn.Module:
        """The layer without pathways, as a plain module of the same inputs."""
        parts = dict(self.pathways.items())
        return copy.deepcopy(ProductSum(parts.get(EQUIVARIANT), parts.get(RESIDUAL))).train(self.training)


class ProductSum(nn.Module):
    """A tensor product plus products of pairs, either of which may be absent."""

    def __init__(self, product: nn.Module | None, pairs: nn.Module | None) -> None:
        super().__init__()
        self.product, self.pairs = product, pairs

    def forward(self, x1: Tensor, x2: Tensor, weight: Tensor | None = None) -> Tensor:
        """See ``SoftTensorProduct.forward``."""
        outputs = [] if self.product is None else [self.product(x1, x2, weight)]
        outputs += [] if self.pairs is None else [self.pairs(x1, x2)]
        return sum(outputs[1:], outputs[0])


class PairProducts(nn.Module):
    """``U z``, ``z_r = x1_i(r) x2_j(r)``, over ``rank`` fixed pairs that run through both inputs evenly."""

    def __init__(self, size1: int, size2: int, size_out: int, rank: int, start: float) -> None:
        super().__init__()
        rank = rank if size1 and size2 else 0  # of nothing there are no pairs
        self.constants = Constants.of(even_pairs, size1, size2, rank)
        self.weight = nn.Parameter(torch.randn(size_out, rank) * start / math.sqrt(max(rank, 1)))

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """``(..., size1)`` and ``(..., size2)`` to ``(..., size_out)``."""
        pairs = self.constants.on(x1)
        return F.linear(x1.index_select(-1, pairs["first"]) * x2.index_select(-1, pairs["second"]), self.weight)


def check_external(weight: Tensor | None, wanted: int | None) -> None:
    """Raises unless a call brings the weights that it should: ``(..., wanted)``, or none where ``wanted`` is ``None``.

    Raises:
        SofteqValueError: weights that are missing, unexpected, or of another number.
    """
    if wanted is None and weight is not None:
        raise SofteqValueError(f"weight: expected none (they are the layer's own), got {tuple(weight.shape)}")
    if wanted is None:
        return
    if weight is None or weight.shape[-1:] != (wanted,):
        got = "none" if weight is None else tuple(weight.shape)
        raise SofteqValueError(f"weight: expected shape (..., {wanted}), or ({wanted},) for all samples, got {got}")
    check_dtype(weight, name="weight")


def path_product(irreps_in1: Any, irreps_in2: Any, irreps_out: Any, kind: str) -> Any:
    """e3nn's tensor product of that kind: its paths, their weights' shapes and the numbers that normalise them."""
    from e3nn import o3

    uncompiled: dict[str, Any] = {"compile_left_right": False, "compile_right": False}
    if kind == "full":
        product = o3.FullyConnectedTensorProduct(irreps_in1, irreps_in2, irreps_out, **uncompiled)
    else:
        irreps, instructions = _channelwise(irreps_in1, irreps_in2, irreps_out)
        product = o3.TensorProduct(irreps_in1, irreps_in2, irreps, instructions, **uncompiled)
    return product


def _channelwise(irreps_in1: Any, irreps_in2: Any, wanted: Any) -> tuple[Any, list[tuple[int, int, int, str, bool]]]:
    """The output irreps, one block per pair of inputs and kind that ``wanted`` has, and e3nn's instructions."""
    kinds = {kind for copies, kind in wanted if copies}
    blocks: list[tuple[int, Any]] = []
    instructions: list[tuple[int, int, int, str, bool]] = []
    for i, (copies, kind1) in enumerate(irreps_in1):
        for j, (copies2, kind2) in enumerate(irreps_in2):
            for kind in kind1 * kind2:
                if kind in kinds and copies and copies2:
                    instructions.append((i, j, len(blocks), "uvu", True))
                    blocks.append((copies, kind))
    if not blocks:
        return wanted, []
    irreps, order, _ = as_irreps(blocks, "irreps_out").sort()
    return irreps, [(i, j, order[block], mode, weighted) for i, j, block, mode, weighted in instructions]
