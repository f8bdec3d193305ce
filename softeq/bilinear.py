"""SoftBilinear: the quadratic layer that makes networks of tensor representations expressive."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softeq._arguments import check_dtype, check_read, check_width, finite, whole
from softeq._constants import Constants
from softeq._kernels import contract
from softeq._layout import in_the_order_of, turned
from softeq._type_layout import TypeLayout, sorted_map_word
from softeq.composite import Sum
from softeq.pathways import (
    EQUIVARIANT,
    RESIDUAL,
    RESIDUAL_START,
    SoftLayer,
    pathways_of,
)
from softeq.reps import Rep, check_same_group

PUBLISHED_SCALE = 0.1


@dataclass(frozen=True)
class Contraction:
    """One block of the layer: maps of type out x in*, read from the input's own tensors, applied to its type-in part.

    ``y_out[i] += sum_{c, j} w[i, j, c] X[c] x_in[j]`` with X[c] the c-th tensor of type ``maps`` as a matrix.
    """

    out: int
    inn: int
    maps: int
    tensors: int  # how many tensors of type ``maps`` are used, at most that type's dimension (as in EMLP)
    axes: tuple[int, ...]  # brings the stored axes of X into the order (out axes, in axes)
    d_out: int
    d_in: int
    products_first: bool  # form X[c] x[j] and then combine by w; else combine x by w and then apply X


def _orders(rep_in: Rep, rep_out: Rep) -> dict[str, Tensor]:
    """The coordinates sorted by type, and the way back for the output, where they are not sorted already."""
    found = {}
    for side, layout in (("in", TypeLayout.of(rep_in)), ("out", TypeLayout.of(rep_out))):
        flat = torch.cat([layout.places(index).flatten() for index in range(len(layout.types))])
        if bool((flat != torch.arange(len(flat))).any()):
            found[side] = flat if side == "in" else flat.argsort()
    return found


def even_pairs(size1: int, size2: int, rank: int) -> dict[str, Tensor]:
    """``rank`` pairs of coordinates that run evenly through both inputs, the same in every process.

    ``"first"`` and ``"second"``, ``(rank,)``; ``"both"``, one after the other.
    """
    step = torch.arange(rank, dtype=torch.float64)
    golden = (math.sqrt(5) - 1) / 2
    first = (step * size1 / rank).long() % size1
    second = ((step + 1) * golden % 1 * size2).long() % size2
    return {"first": first, "second": second, "both": torch.cat([first, second])}


def contractions(rep_in: Rep, rep_out: Rep) -> list[Contraction]:
    """Every pair of types whose maps occur among the input's own tensor types; scalars make no maps."""
    group = rep_in.bound_group
    layout_in, layout_out = TypeLayout.of(rep_in), TypeLayout.of(rep_out)
    kinds = [word for word, _ in layout_in.types]
    found = []
    for b, (word_out, m_out) in enumerate(layout_out.types):
        for a, (word_in, m_in) in enumerate(layout_in.types):
            word, order = sorted_map_word(group, word_in, word_out)
            if not word or word not in kinds:
                continue
            k = kinds.index(word)
            d_out, d_in = layout_out.dims[b], layout_in.dims[a]
            n = min(layout_in.types[k][1], layout_in.dims[k])
            axes = tuple(order.index(axis) for axis in range(len(word)))
            products_first = n * m_in * d_out * (d_in + m_out) <= m_out * n * d_in * (m_in + d_out)
            found.append(Contraction(b, a, k, n, axes, d_out, d_in, products_first))
    return found


class EquivariantBilinear(nn.Module):
    """EMLP's bilinear layer (Finzi, Welling, Wilson 2021, section 5), contracted per block.

    The published code builds a weight matrix per sample. Here every block has one small weight, ``(tensors, m_in,
    m_out)``, and is contracted in the cheaper of two orders: form the products ``X[c] x[j]`` and combine them by the
    weight, or combine the features x by the weight and apply X.

    Args:
        rep_in, rep_out: representations bound to one group.
        scale: factor on the output. The weights start standard normal; ``None`` divides each output type by the square
            root of three times the number of products that it sums, which keeps outputs of the size that a standard
            ``nn.Linear`` gives. The published code has 0.1 throughout, which explodes where features are of order one.
    """

    def __init__(self, rep_in: Rep, rep_out: Rep, scale: float | None = None) -> None:
        super().__init__()
        self.layout_in, self.layout_out = TypeLayout.of(rep_in), TypeLayout.of(rep_out)
        self.blocks = contractions(rep_in, rep_out)
        self.products = [c for c in self.blocks if c.products_first]
        self.features = _by_input([c for c in self.blocks if not c.products_first])
        self.weights = nn.ParameterDict(
            {_key(c): nn.Parameter(torch.randn(self._weight_shape(c))) for c in self.blocks}
        )
        self.scales = [self._type_scale(b) if scale is None else scale for b in range(len(self.layout_out.types))]
        self.constants = Constants.of(_orders, rep_in, rep_out)

    def _type_scale(self, b: int) -> float:
        products = sum(c.tensors * self.layout_in.types[c.inn][1] * c.d_in for c in self.blocks if c.out == b)
        return 1 / math.sqrt(3 * products) if products else 0.0

    def _weight_shape(self, c: Contraction) -> tuple[int, int, int]:
        return c.tensors, self.layout_in.types[c.inn][1], self.layout_out.types[c.out][1]

    def forward(self, x: Tensor) -> Tensor:
        """``(n, size_in)`` to ``(n, size_out)``."""
        check_read(self.weights)
        n = x.shape[0]  # len(x) would fix the batch size in torch.export
        orders = self.constants.on(x)
        columns = x.T.index_select(0, orders["in"]) if "in" in orders else x.T.contiguous()
        parts = [
            part.view(m, dim, n)
            for part, (_, m), dim in zip(
                columns.split(self.layout_in.sizes), self.layout_in.types, self.layout_in.dims, strict=True
            )
        ]
        sums: dict[int, Tensor] = {}
        for c in self.products:
            self._add_products(c, parts, sums)
        for group in self.features:
            self._add_features(group, parts, sums)
        outputs = [
            self.scales[b] * sums[b].view(size, n) if b in sums else x.new_zeros(size, n)
            for b, size in enumerate(self.layout_out.sizes)
        ]
        y = torch.cat(outputs)
        return in_the_order_of(x, y.index_select(0, orders["out"]) if "out" in orders else y)

    def _maps(self, c: Contraction, parts: list[Tensor]) -> Tensor:
        """The input's tensors as matrices, ``(tensors, d_out, d_in, n)``."""
        stored = parts[c.maps][: c.tensors]
        if c.axes != tuple(range(len(c.axes))):
            shaped = stored.reshape(c.tensors, *self.layout_in.shapes[c.maps], stored.shape[-1])
            stored = shaped.permute(0, *(axis + 1 for axis in c.axes), shaped.ndim - 1)
        return stored.reshape(c.tensors, c.d_out, c.d_in, stored.shape[-1])

    def _add_products(self, c: Contraction, parts: list[Tensor], sums: dict[int, Tensor]) -> None:
        x = parts[c.inn]  # (j, s, n)
        products = contract(x, self._maps(c, parts).flatten(0, 1))  # (j, c o, n)
        products = products.view(x.shape[0] * c.tensors, c.d_out * x.shape[-1])  # (j c, o n)
        weight = self.weights[_key(c)].permute(2, 1, 0).flatten(1)  # (i, j c)
        sums[c.out] = torch.addmm(sums[c.out], weight, products) if c.out in sums else weight @ products  # (i, o n)

    def _add_features(self, group: list[Contraction], parts: list[Tensor], sums: dict[int, Tensor]) -> None:
        """Blocks that read one type of features share one product with their weights one below the other."""
        x = parts[group[0].inn]  # (j, s, n)
        n = x.shape[-1]
        weights = [self.weights[_key(c)].permute(2, 0, 1).flatten(0, 1) for c in group]  # (i c, j)
        combined = torch.cat(weights) @ x.flatten(1)  # (sum_b i c, s n)
        for c, part in zip(group, combined.split([len(w) for w in weights]), strict=True):
            m_out, terms = self.layout_out.types[c.out][1], c.tensors * c.d_in
            maps = self._maps(c, parts).transpose(0, 1).reshape(c.d_out, terms, n)  # (o, c s, n)
            y = contract(part.view(m_out, terms, n), maps).flatten(1)  # (i, o n)
            sums[c.out] = sums[c.out] + y if c.out in sums else y


class ResidualBilinear(nn.Module):
    """An unconstrained quadratic map, linear in its parameters: products of fixed pairs of coordinates, then a matrix.

    A free bilinear map between 400 coordinates has 64 million weights. A low-rank factorisation is small, but it is
    cubic in its factors: a Gaussian prior on them is no Gaussian on the map, and no gradient leads out of zero.
    Here ``y = U z`` with ``z_r = x_i(r) x_j(r)``: the prior on U is a Gaussian on the map itself, zero has a gradient,
    and the cost is that of ``rank`` more columns in a linear layer. Which coordinates meet does not matter, as the soft
    linear layer in front can move anything into them.
    """

    def __init__(self, size_in: int, size_out: int, rank: int, start: float) -> None:
        super().__init__()
        self.constants = Constants.of(even_pairs, size_in, size_in, rank)
        self.weight = nn.Parameter(torch.randn(size_out, rank) * start / math.sqrt(rank))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, size_in)`` to ``(n, size_out)``."""
        # One index for both sides: one gather, and one scatter on the way back.
        left, right = x.T.index_select(0, self.constants.on(x)["both"]).chunk(2)
        return in_the_order_of(x, self.weight @ (left * right))


class SoftBilinear(SoftLayer):
    """The equivariant bilinear layer plus an unconstrained quadratic one: ``(..., in)`` to ``(..., out)``.

    Args:
        rep_in, rep_out: representations bound to one group.
        constraint: ``"soft"``, ``"hard"`` or ``"none"``.
        rank: products in the residual pathway; ``None`` takes a sixth of the input's size, at least 8.
        scale: of the equivariant pathway, see ``EquivariantBilinear``.

    Raises:
        SofteqTypeError, SofteqValueError: reps of different groups, an unknown constraint, a rank that is no whole
            number of at least 1, or a scale that is not finite.

    The equivariant pathway is zero where the input has no tensor type that maps into the output: no other layer may be
    so, but this one stands beside a linear layer, whose output is then all. Under O(3) a network
    needs tensors of order 3 to make ``v w^T`` of two vectors: with ``models.dynamics.uniform_rep``, 108 channels.
    """

    def __init__(
        self,
        rep_in: Rep,
        rep_out: Rep,
        *,
        constraint: str = "soft",
        rank: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        check_same_group(rep_in, rep_out)
        names = pathways_of(constraint)
        self.rep_in, self.rep_out, self.constraint = rep_in, rep_out, constraint
        rank = max(8, rep_in.size // 6) if rank is None else whole("rank", rank, 1)
        scale = None if scale is None else finite("scale", scale)
        if EQUIVARIANT in names:
            self.pathways[EQUIVARIANT] = EquivariantBilinear(rep_in, rep_out, scale)
        if RESIDUAL in names:
            start = (1.0 if len(names) == 1 else RESIDUAL_START) / math.sqrt(3)
            self.pathways[RESIDUAL] = ResidualBilinear(rep_in.size, rep_out.size, rank, start)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the pathways."""
        check_width(x, self.rep_in.size, self.rep_in)
        check_dtype(x, next(self.parameters(), None))
        flat = x.reshape(-1, self.rep_in.size)
        columns = turned(flat)
        outputs = [pathway(columns) for pathway in self.pathways.values()]
        return in_the_order_of(flat, sum(outputs[1:], outputs[0]).T).view(*x.shape[:-1], self.rep_out.size)

    def folded(self) -> nn.Module:
        """The sum of the pathways as a plain module; it has no merged weight, as it is not linear."""
        return copy.deepcopy(Sum(*self.pathways.values())).train(self.training)


def _key(c: Contraction) -> str:
    return f"{c.out}_{c.inn}"


def _by_input(blocks: list[Contraction]) -> list[list[Contraction]]:
    groups: dict[int, list[Contraction]] = {}
    for c in blocks:
        groups.setdefault(c.inn, []).append(c)
    return list(groups.values())
