"""Soft gates and soft tensor products of irreps; see `softeq.irreps` for the linear layer."""

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
from softeq.composite import Sum
from softeq.errors import SofteqValueError
from softeq.irreps import as_irreps, check_irreps_width
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    SoftLayer,
    pathways_of,
)


class SoftGate(SoftLayer):
    """e3nn's gate plus ``w swish(v)`` on every coordinate, w a weight per coordinate that starts at 1e-3.

    Scalars pass through swish, every other irrep is multiplied by the sigmoid of a scalar of its own. An odd scalar
    (``0o``) may not pass through swish, which is neither even nor odd, so it is gated too.

    Args:
        irreps: of the output ``(..., irreps.dim)``; the input has the layout ``irreps_in``: first one even scalar per
            gate, then the output's irreps.
        constraint: ``"soft"``, ``"hard"`` (the gate alone) or ``"none"`` (swish alone, w starting at 1).

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqValueError: bad irreps or an unknown constraint.
    """

    def __init__(self, irreps: Any, *, constraint: str = "soft") -> None:
        super().__init__()
        names = pathways_of(constraint)
        self.irreps_out, self.constraint = as_irreps(irreps, "irreps"), constraint
        gates = sum(copies for copies, kind in self.irreps_out if not _is_even_scalar(kind))
        self.irreps_in = as_irreps(f"{gates}x0e + {self.irreps_out}" if gates else self.irreps_out, "irreps")
        self.in_features = self.irreps_in.dim
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = IrrepsGate(self.irreps_out, gates)
        if RESIDUAL in names:
            start = 1.0 if len(names) == 1 else RESIDUAL_START
            self.pathways[RESIDUAL] = IrrepsSwish(self.irreps_out.dim, gates, start)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., irreps_in.dim)`` to ``(..., irreps_out.dim)``."""
        if x.shape[-1:] != (self.in_features,):  # not by way of Irreps, which torch.compile cannot guard
            check_irreps_width(x, self.irreps_in)
        check_dtype(x, next(self.parameters(), None))
        outputs = [pathway(x) for pathway in self.pathways.values()]
        return sum(outputs[1:], outputs[0])

    def folded(self) -> nn.Module:
        """The sum of the terms as a plain module."""
        return copy.deepcopy(Sum(*self.pathways.values())).train(self.training)


class IrrepsGate(nn.Module):
    """``sigmoid(gate) v`` for every irrep that is no even scalar; an even scalar goes through swish."""

    def __init__(self, irreps: Any, gates: int) -> None:
        super().__init__()
        self.gates = gates
        self.terms = [(copies, kind.dim, not _is_even_scalar(kind)) for copies, kind in irreps if copies]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gates + size)`` to ``(..., size)``."""
        gates, *parts = x.split([self.gates, *(m * d for m, d, _ in self.terms)], -1)
        opened = iter(torch.sigmoid(gates).split([m for m, _, gated in self.terms if gated], -1) if self.gates else ())
        outputs = []
        for part, (copies, d, gated) in zip(parts, self.terms, strict=True):
            if gated:
                outputs.append((part.unflatten(-1, (copies, d)) * next(opened).unsqueeze(-1)).flatten(-2))
            else:
                outputs.append(F.silu(part))
        return torch.cat(outputs, -1)


class IrrepsSwish(nn.Module):
    """``w swish(v)`` on every coordinate by itself, the gates left out."""

    def __init__(self, size: int, gates: int, start: float) -> None:
        super().__init__()
        self.gates = gates
        self.weight = nn.Parameter(torch.full((size,), start))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., gates + size)`` to ``(..., size)``."""
        return self.weight * F.silu(x[..., self.gates :])


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
        external_weights: whether the equivariant pathway takes its weights ``(..., weight_numel)`` at each call.
        rank: products in the residual pathway; ``None`` takes the size of the first input.

    Raises:
        MissingExtraError: e3nn is not installed.
        SofteqValueError: bad irreps, kind or constraint, a rank below 1, or no product that reaches the output.
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
        product = _product(self.irreps_in1, self.irreps_in2, wanted, kind)
        if product.weight_numel == 0 and (EQUIVARIANT in names or kind == "channelwise"):
            raise no_equivariant_map(f"{self.irreps_in1} and {self.irreps_in2}", wanted)
        self.irreps_out, self.weight_numel = product.irreps_out, int(product.weight_numel)
        rank = self.irreps_in1.dim if rank is None else whole("rank", rank, 1)
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = PathProducts(product, external_weights)
        if RESIDUAL in names:
            start = 1.0 if len(names) == 1 else RESIDUAL_START
            sizes = (self.irreps_in1.dim, self.irreps_in2.dim, product.irreps_out.dim)
            self.pathways[RESIDUAL] = PairProducts(*sizes, rank, start)

    def forward(self, x1: Tensor, x2: Tensor, weight: Tensor | None = None) -> Tensor:
        """``(..., in1)`` and ``(..., in2)`` to ``(..., out)``; ``weight`` as the arguments of the class say.

        Raises:
            SofteqValueError: inputs of another width, or weights that are missing or unexpected.
        """
        if (x1.shape[-1:], x2.shape[-1:]) != self.in_features:  # see SoftGate.forward
            check_irreps_width(x1, self.irreps_in1, "x1")
            check_irreps_width(x2, self.irreps_in2, "x2")
        if (weight is not None) != self.external_weights and EQUIVARIANT in self.pathways:
            expected = f"(..., {self.weight_numel})" if self.external_weights else "none (they are the layer's own)"
            got = "none" if weight is None else tuple(weight.shape)
            raise SofteqValueError(f"weight: expected {expected}, got {got}")
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
        self.constants = Constants.of(even_pairs, size1, size2, rank)
        self.weight = nn.Parameter(torch.randn(size_out, rank) * start / math.sqrt(rank))

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """``(..., size1)`` and ``(..., size2)`` to ``(..., size_out)``."""
        pairs = self.constants.on(x1)
        return F.linear(x1.index_select(-1, pairs["first"]) * x2.index_select(-1, pairs["second"]), self.weight)


def _is_even_scalar(kind: Any) -> bool:
    return kind.l == 0 and kind.p == 1


def _product(irreps_in1: Any, irreps_in2: Any, irreps_out: Any, kind: str) -> Any:
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
    kinds = {kind for _, kind in wanted}
    blocks: list[tuple[int, Any]] = []
    instructions: list[tuple[int, int, int, str, bool]] = []
    for i, (copies, kind1) in enumerate(irreps_in1):
        for j, (_, kind2) in enumerate(irreps_in2):
            for kind in kind1 * kind2:
                if kind in kinds:
                    instructions.append((i, j, len(blocks), "uvu", True))
                    blocks.append((copies, kind))
    if not blocks:
        return wanted, []
    irreps, order, _ = as_irreps(blocks, "irreps_out").sort()
    return irreps, [(i, j, order[block], mode, weighted) for i, j, block, mode, weighted in instructions]
