"""Invariant tensors: the null space of the generators' constraints, in float64, by whatever way is shortest.

- Indices that share no generator are solved apart, and the solutions multiplied.
- What no generator moves is all invariant.
- Signed permutations: orbits, in closed form (``_orbits``).
- Small finite groups: the mean over the elements (``_averaging``).
- A torus in the group: the tensors of weight zero in closed form, the rest among them (``_torus``).
- Else the null space of the Gram operator C^T C of the stacked constraints: up to ``DENSE_LIMIT`` entries n as a matrix
  (8 n^2 bytes, a few copies), above it by filtered subspace iteration, which takes about 6 blocks of n x k numbers, k
  the first power of two (from 16) that exceeds the number of invariants; T(3) -> T(3) of Lorentz, n = 4096: 6 MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from softeq._averaging import averaged_null_space, elements_of, rank_by_characters
from softeq._axes import Axis
from softeq._constraints import CONSTRAINT_TOLERANCE, Constraints
from softeq._orbits import Orbits, orbits
from softeq._subspace import dense_null_space, iterative_null_space
from softeq._torus import torus_null_space, torus_of
from softeq.errors import SofteqError, SofteqValueError
from softeq.groups._group import MAX_NUMBERS, in_bytes

Invariants = Tensor | Orbits
"""An orthonormal basis of invariant tensors: dense, ``(rank, n)`` float64, or by orbits of entries."""

DENSE_LIMIT = 1024
_TORUS_FROM, _TORUS_TO = 200, 2**20
_FEW_ELEMENTS = 64
_NUMBERS_PER_ENTRY = 4  # that the leanest form, orbits, needs while it is found
_FEW_TENSORS = 128


def rank_of(basis: Invariants) -> int:
    """How many tensors a basis has."""
    return basis.rank if isinstance(basis, Orbits) else len(basis)


def dense(basis: Invariants) -> Tensor:
    """The basis as ``(rank, n)`` float64.

    Raises:
        SofteqValueError: it would take more than 2 GiB.
    """
    if not isinstance(basis, Orbits):
        return basis
    _check_numbers(basis.rank, basis.entries)
    return basis.dense()


def invariant_tensors(axes: Sequence[Axis], solve: Callable[[tuple[Axis, ...]], Tensor] | None = None) -> Invariants:
    """An orthonormal basis of the invariant tensors with these axes, the same on every machine.

    Args:
        axes: of the tensors, all under one group.
        solve: solves what has no closed form; ``numeric_invariants``, or a cache of it.

    Raises:
        SofteqValueError: the basis or the work would take too much memory; the message names the size.
        SofteqError: the iterative solver did not converge.
    """
    _check_numbers(_NUMBERS_PER_ENTRY, math.prod(axis.size for axis in axes))
    whole = Orbits(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64), 1)
    parts: list[tuple[list[int], Invariants]] = []
    for places, generators in _components(axes):
        own = [axes[place].only(generators) for place in places]
        n = math.prod(axis.size for axis in own)
        if _is_still(own, generators):
            basis: Invariants = Orbits(torch.arange(n), torch.ones(n, dtype=torch.float64), n)
        elif all(axis.signed_permutations is not None for axis in own):
            basis = orbits(own)
        else:
            basis = (solve or numeric_invariants)(tuple(own))
        parts.append((places, basis))
    if not parts:
        return whole
    return _product(parts, [axis.size for axis in axes])


def _is_still(axes: Sequence[Axis], generators: Sequence[bool]) -> bool:
    """Whether no generator moves the tensors: it moves no index, or what it does to the indices cancels (scalings)."""
    if not any(generators):
        return True
    if any(axis.is_orthogonal for axis in axes) or math.prod(axis.size for axis in axes) > _TORUS_TO:
        return False
    constraints = Constraints(axes)
    x = torch.randn(constraints.n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return all(float(c.norm()) < 1e-13 * float(x.norm()) for c in constraints.each(x))


def _components(axes: Sequence[Axis]) -> list[tuple[list[int], tuple[bool, ...]]]:
    """Axes that share a generator, directly or through others, and the generators that move them.

    A group whose generators fall apart so acts on each part on its own, and its invariants are products.
    """
    found: list[tuple[list[int], tuple[bool, ...]]] = []
    for place, axis in enumerate(axes):
        places, moved = [place], axis.moved_by
        apart = []
        for others, theirs in found:
            if any(a and b for a, b in zip(moved, theirs, strict=True)):
                places, moved = others + places, tuple(a or b for a, b in zip(moved, theirs, strict=True))
            else:
                apart.append((others, theirs))
        found = [*apart, (sorted(places), moved)]
    return sorted(found)


def _product(parts: Sequence[tuple[list[int], Invariants]], sizes: Sequence[int]) -> Invariants:
    """The products of the parts' tensors, their axes brought back into order."""
    order = [place for places, _ in parts for place in places]
    back = sorted(range(len(order)), key=order.__getitem__)
    shape = [sizes[place] for place in order]
    bases = [basis for _, basis in parts]
    if all(isinstance(basis, Orbits) for basis in bases):
        product = bases[0]
        for basis in bases[1:]:
            product = product.times(basis)  # type: ignore[union-attr, arg-type]
        entries = torch.arange(math.prod(shape)).view(shape).permute(back).flatten()
        return product if len(bases) == 1 else product.at(entries)  # type: ignore[union-attr]
    if len(bases) == 1:
        return bases[0]
    _check_numbers(math.prod(rank_of(basis) for basis in bases), math.prod(shape))
    tensors = dense(bases[0])
    for basis in bases[1:]:
        tensors = torch.kron(tensors, dense(basis))
    rank = len(tensors)
    return tensors.view(rank, *shape).permute(0, *(axis + 1 for axis in back)).reshape(rank, math.prod(shape))


def numeric_invariants(axes: tuple[Axis, ...]) -> Tensor:
    """``invariant_tensors`` where there is no closed form, dense."""
    constraints = Constraints(axes)
    basis = _null_space(constraints, axes)
    residual = constraints.residual(basis)
    if residual > CONSTRAINT_TOLERANCE:
        raise SofteqError(
            f"the invariants of tensors of shape {tuple(constraints.sizes)} hold to {residual:.0e} only, so that their "
            "number is a guess: the generators are inexact (float32?) or nearly agree; give them in float64"
        )
    return canonical(basis)


def _null_space(constraints: Constraints, axes: tuple[Axis, ...]) -> Tensor:
    elements = elements_of(axes)
    if elements is not None and (constraints.n > DENSE_LIMIT or len(elements[0]) <= _FEW_ELEMENTS):
        rank = rank_by_characters(elements)
        _check_numbers(2 * rank, constraints.n)
        return averaged_null_space(constraints, elements, rank)
    torus = torus_of(axes) if _TORUS_FROM < constraints.n <= _TORUS_TO else None
    if torus is not None:
        return torus_null_space(constraints, torus)
    return dense_null_space(constraints) if constraints.n <= DENSE_LIMIT else iterative_null_space(constraints)


def canonical(basis: Tensor) -> Tensor:
    """Another orthonormal basis of the same space ``(rank, n)``, fixed by the space alone.

    Null vectors from an eigensolver are an arbitrary rotation that differs between machines. Up to ``_FEW_TENSORS``:
    Gram-Schmidt on columns of the projector, the pivot being the coordinate with the largest remaining norm (the first
    one within 1e-6 of it), which keeps the zeros of products of deltas. Beyond: on projections of fixed random tensors.
    """
    if len(basis) > _FEW_TENSORS:
        generator = torch.Generator().manual_seed(0)
        fixed = torch.randn(basis.shape[1], len(basis), generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(basis @ fixed)
        found = (q * r.diagonal().sign()).T @ basis
        return torch.where(found.abs() < 1e-15, 0.0, found)
    remaining = basis.square().sum(0)
    found = torch.zeros_like(basis)
    for k in range(len(basis)):
        pivot = int(torch.nonzero(remaining >= remaining.max() - 1e-6)[0])
        column = basis[:, pivot] @ basis
        for _again in range(2):
            column = column - (found[:k] @ column) @ found[:k]
        column = column / column.norm()
        found[k] = torch.where(column.abs() < 1e-15, 0.0, column)
        remaining = remaining - column.square()
    return found


def _check_numbers(rank: int, n: int) -> None:
    """Raises if ``rank`` tensors of ``n`` entries would take more than 2 GiB."""
    if rank * n > MAX_NUMBERS:
        raise SofteqValueError(
            f"the equivariant maps of this pair of types, {rank:,} tensors of {n:,} entries, need "
            f"{in_bytes(rank * n)}, and at most {in_bytes(MAX_NUMBERS)} are taken: choose tensors of lower order"
        )
