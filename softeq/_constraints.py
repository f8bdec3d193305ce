"""The linear constraints that make a tensor invariant, applied one index at a time.

A tensor v is invariant under the whole group exactly when drho(A) v = 0 for every generator A of the Lie algebra and
(rho(h) - 1) v = 0 for every discrete generator h (Finzi, Welling, Wilson 2021, theorem 1).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from softeq._axes import Axis

CONSTRAINT_TOLERANCE = 1e-10
"""The largest constraint residual, per unit vector and unit generator, that a returned basis may have."""

_OVERSAMPLING = 12

Factors = dict[int, Tensor]
"""A matrix for each axis on which a generator acts."""


class Constraints:
    """The stacked constraints of a tensor type, applied to ``(n, k)`` blocks of tensors without forming a matrix."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self.sizes = [axis.size for axis in axes]
        self.n = math.prod(self.sizes)
        generators = len(axes[0].lie) if axes else 0
        self._lie = [self._unit([axis.lie[index] for axis in axes]) for index in range(generators)]
        elements = len(axes[0].discrete) if axes else 0
        self._discrete = [self._acting(index, [axis.discrete[index] for axis in axes]) for index in range(elements)]

    def _unit(self, matrices: Sequence[Tensor]) -> Factors:
        """Of unit size: the constraints' size then says nothing about the units that the user chose."""
        acting = {place: a for place, a in enumerate(matrices) if bool((a != 0).any())}
        size = max((float(torch.linalg.matrix_norm(a, 2)) for a in acting.values()), default=1.0)
        return {place: a / size for place, a in acting.items()}

    def _acting(self, index: int, matrices: Sequence[Tensor]) -> Factors:
        return {
            place: h
            for place, (axis, h) in enumerate(zip(self.axes, matrices, strict=True))
            if axis.moved_by[len(axis.lie) + index]
        }

    def each(self, x: Tensor, skip: Sequence[int] = ()) -> Iterator[Tensor]:
        """``C_i x`` for every generator, the Lie algebra's ``skip`` left out: ``(n, k)`` for x of shape ``(n, k)``."""
        for index, factors in enumerate(self._lie):
            if index not in skip:
                yield self._sum_of_modes(factors, x)
        for factors in self._discrete:
            yield self.modes(factors, x) - x

    def mixed(self, count: int, skip: Sequence[int] = ()) -> Constraints:
        """``count`` random combinations of the Lie algebra's generators, ``skip`` left out, and all discrete ones.

        These constraints themselves where there are no more generators than that.
        """
        kept = [index for index in range(len(self._lie)) if index not in skip]
        found = copy.copy(self)
        found._lie = [self._lie[index] for index in kept]
        if len(kept) <= count:
            return found
        generator = torch.Generator().manual_seed(0)
        coefficients = torch.randn(count, len(kept), generator=generator, dtype=torch.float64)
        stacks = [
            torch.stack([self._full(self._lie[index], place) for index in kept]) for place in range(len(self.axes))
        ]
        combined = [torch.einsum("ki,iab->kab", coefficients, stack) for stack in stacks]
        found._lie = [self._unit([matrices[k] for matrices in combined]) for k in range(count)]
        return found

    def _full(self, factors: Factors, place: int) -> Tensor:
        size = self.sizes[place]
        return factors.get(place, torch.zeros(size, size, dtype=torch.float64))

    def gram(self, x: Tensor) -> Tensor:
        """``sum_i C_i^T C_i x``, ``(n, k)`` to ``(n, k)``."""
        out = torch.zeros_like(x)
        for factors in self._lie:
            out += self._sum_of_modes(_transposed(factors), self._sum_of_modes(factors, x))
        for factors in self._discrete:
            defect = self.modes(factors, x) - x
            out += self.modes(_transposed(factors), defect) - defect
        return out

    def residual(self, basis: Tensor) -> float:
        """The largest ``||C_i v||`` over generators and rows v of a ``(rank, n)`` basis; 0 for an empty one."""
        if not len(basis):
            return 0.0
        return max((float(c.norm(dim=0).max()) for c in self.each(basis.T.contiguous())), default=0.0)

    def modes(self, factors: Factors, x: Tensor) -> Tensor:
        """The tensors ``x``, ``(n, k)``, with each axis of ``factors`` multiplied by its matrix."""
        for axis, factor in factors.items():
            x = self._mode(factor, x, axis)
        return x

    def _mode(self, factor: Tensor, x: Tensor, axis: int) -> Tensor:
        before = math.prod(self.sizes[:axis])
        return torch.matmul(factor, x.reshape(before, self.sizes[axis], -1)).reshape(x.shape)

    def _sum_of_modes(self, factors: Factors, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for axis, factor in factors.items():
            out += self._mode(factor, x, axis)
        return out


def range_of(project: Callable[[Tensor], Tensor], n: int, rank: int) -> Tensor:
    """An orthonormal basis ``(n, rank)`` of the range of a projector of known rank, which is applied twice to a block.

    Random tensors, projected, span the range; a few more than its dimension keep them far from dependent, and the
    second time takes out what rounding left.
    """
    generator = torch.Generator().manual_seed(0)
    width = min(rank + _OVERSAMPLING, n)
    q, r = torch.linalg.qr(project(torch.randn(n, width, generator=generator, dtype=torch.float64)))
    return torch.linalg.qr(project(q @ torch.linalg.svd(r).U[:, :rank]))[0]


def _transposed(factors: Factors) -> Factors:
    return {axis: factor.T for axis, factor in factors.items()}
