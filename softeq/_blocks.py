"""Projections onto equivariant weights, block by block: where the blocks lie, and what each is projected on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class OrbitBasis(NamedTuple):
    """A basis whose tensors share no entry: entry e is of tensor ``labels[e]`` and has the value ``weights[e]``."""

    labels: Tensor
    weights: Tensor
    rank: int

    def coefficients(self, rows: Tensor) -> Tensor:
        """``(rows, entries)`` to ``(rows, rank)``."""
        return rows.new_zeros(len(rows), self.rank).index_add(1, self.labels, rows * self.weights)

    def expanded(self, coefficients: Tensor) -> Tensor:
        """``(rows, rank)`` to ``(rows, entries)``."""
        return coefficients.index_select(1, self.labels) * self.weights.to(coefficients.dtype)


Basis = Tensor | OrbitBasis | None
"""``(entries, rank)`` with orthonormal columns, or by orbits; ``None`` where the projection is the identity."""


class Blocks:
    """Where the blocks of each tensor type lie in a flat weight, and what they are projected on.

    Args:
        places: flat places of all blocks, type after type, ``(sum rows * entries,)``.
        shapes: per type ``(rows, entries)``: a row per block, its entries in the type's order.
        bases: per type what its blocks are projected on.
    """

    def __init__(self, places: Tensor, shapes: list[tuple[int, int]], bases: Sequence[Basis]) -> None:
        self.places, self.shapes, self.bases = places, shapes, bases

    def gather(self, weight: Tensor) -> list[tuple[Tensor, Basis]]:
        """Per type its blocks ``(rows, entries)`` and its basis, in the wider of the two dtypes."""
        flat = weight.reshape(-1).index_select(0, self.places)
        gathered: list[tuple[Tensor, Basis]] = []
        sizes = [rows * entries for rows, entries in self.shapes]
        for part, shape, basis in zip(flat.split(sizes), self.shapes, self.bases, strict=True):
            if basis is not None:
                part, basis = _in_one_dtype(part, basis)
            gathered.append((part.view(shape), basis))
        return gathered

    def coefficients(self, weight: Tensor) -> list[Tensor]:
        """Per type the blocks in terms of its basis, ``(rows, rank)``, in the wider of the two dtypes."""
        return [_coefficients(part, basis) for part, basis in self.gather(weight)]

    def expanded(self, weight: Tensor, coefficients: list[Tensor]) -> Tensor:
        """What such coefficients stand for, flat, in the order of ``places`` and the weight's dtype."""
        if not self.shapes:  # nothing is equivariant: an empty tensor that still knows its weight
            return weight.reshape(-1).index_select(0, self.places)
        parts = [_expanded(part, basis).reshape(-1) for part, basis in zip(coefficients, self.bases, strict=True)]
        return torch.cat([part.to(weight.dtype) for part in parts])

    def projected(self, weight: Tensor) -> Tensor:
        """The projected blocks of a weight, flat, in the order of ``places`` and the weight's dtype."""
        return self.expanded(weight, self.coefficients(weight))


def _in_one_dtype(part: Tensor, basis: Tensor | OrbitBasis) -> tuple[Tensor, Tensor | OrbitBasis]:
    own = basis.weights if isinstance(basis, OrbitBasis) else basis
    if own.dtype == part.dtype:
        return part, basis
    wide = torch.promote_types(own.dtype, part.dtype)
    own = own.to(wide)
    return part.to(wide), basis._replace(weights=own) if isinstance(basis, OrbitBasis) else own


def _coefficients(part: Tensor, basis: Basis) -> Tensor:
    if basis is None:
        return part
    return basis.coefficients(part) if isinstance(basis, OrbitBasis) else part @ basis


def _expanded(part: Tensor, basis: Basis) -> Tensor:
    if basis is None:
        return part
    return basis.expanded(part) if isinstance(basis, OrbitBasis) else part @ basis.T.to(part.dtype)
