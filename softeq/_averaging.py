"""Invariants of a finite group by averaging over its elements, and the rank by its characters.

The mean of rho(g) over a finite group projects onto the invariants, and its trace, the mean of the characters, is their
number: no iteration, and a count that does not depend on any tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from softeq._axes import Axis
from softeq._constraints import Constraints, range_of

MAX_ORDER = 512
"""The largest group that is enumerated."""

_MAX_SIZE = 64


def elements_of(axes: Sequence[Axis]) -> list[Tensor] | None:
    """For each axis the matrices of all elements, ``(order, size, size)``; ``None`` unless they are few.

    The axes turn together: element i of one belongs to element i of another.
    """
    distinct = {axis.fingerprint: axis for axis in axes}
    sizes = [axis.size for axis in distinct.values()]
    if sum(sizes) > _MAX_SIZE or any(bool((axis.lie != 0).any()) for axis in axes):
        return None
    generators = torch.stack(
        [torch.block_diag(*matrices) for matrices in zip(*(a.discrete for a in distinct.values()), strict=True)]
    )
    found = closure(generators)
    if found is None:
        return None
    blocks, start = {}, 0
    for name, size in zip(distinct, sizes, strict=True):
        blocks[name] = found[:, start : start + size, start : start + size].contiguous()
        start += size
    return [blocks[axis.fingerprint] for axis in axes]


def closure(generators: Tensor) -> Tensor | None:
    """Every product of the generators ``(m, d, d)``; ``None`` if there are more than ``MAX_ORDER``."""
    d = generators.shape[-1]
    found = frontier = torch.eye(d, dtype=torch.float64)[None]
    seen = {_key(found[0])}
    while len(frontier):
        new = []
        for element in torch.einsum("aij,bjk->abik", frontier, generators).reshape(-1, d, d):
            key = _key(element)
            if key not in seen:
                seen.add(key)
                new.append(element)
        if len(seen) > MAX_ORDER:
            return None
        frontier = torch.stack(new) if new else generators[:0]
        found = torch.cat([found, frontier])
    return found


def _key(element: Tensor) -> bytes:
    # Entries of elements of a finite group lie far apart, or are equal; +0.5 keeps zeros off the edge of rounding.
    return ((element.numpy() + 0.5).round(6) + 0.0).tobytes()


def rank_by_characters(elements: Sequence[Tensor]) -> int:
    """The number of invariants: the mean over the elements of the product of the traces."""
    characters = math.prod(matrices.diagonal(dim1=1, dim2=2).sum(1) for matrices in elements)
    return round(float(torch.as_tensor(characters).mean()))


def averaged_null_space(constraints: Constraints, elements: Sequence[Tensor], rank: int) -> Tensor:
    """An orthonormal basis of the invariants, ``(rank, n)``: the range of the mean, of random tensors."""
    if not rank:
        return torch.zeros(0, constraints.n, dtype=torch.float64)
    return range_of(lambda x: _mean(constraints, elements, x), constraints.n, rank).T.contiguous()


def _mean(constraints: Constraints, elements: Sequence[Tensor], x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for index in range(len(elements[0])):
        total += constraints.modes({axis: matrices[index] for axis, matrices in enumerate(elements)}, x)
    return total / len(elements[0])
