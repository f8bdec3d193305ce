"""Invariants by weights: first those of a torus in the group, in closed form, then those of the rest among them.

Commuting generators that are normal matrices have eigenvectors in common. In products of these every generator is a
sum of eigenvalues, one for each index (a weight), and the tensors that it leaves alone are those of weight zero. There
are far fewer of them than entries, so what is left is a small dense problem.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from softeq._axes import Axis
from softeq._constraints import CONSTRAINT_TOLERANCE, Constraints, range_of

_TOLERANCE = 1e-10
_MAX_NUMBERS = 2**26  # of the tensors of weight zero: 512 MiB
_GENERIC = 0.7310585786300049
_MIXED = 2  # combinations of generators
_MAX_COMMUTING = 1e9  # multiplications of the products that say what commutes: a second
_MAX_WORK = 4e10  # multiplications of the products among them: seconds


@dataclass(frozen=True)
class Torus:
    """Commuting normal generators, and what they leave alone.

    Attributes:
        generators: their places in the Lie algebra.
        vectors: for each axis the unitary matrix of their common eigenvectors, ``(size, size)`` complex.
        zero: ``(n,)``, which products of eigenvectors have weight zero.
        rank: how many.
    """

    generators: tuple[int, ...]
    vectors: list[Tensor]
    zero: Tensor
    rank: int


def torus_of(axes: Sequence[Axis]) -> Torus | None:
    """The torus of the first generators that commute, or ``None`` where it would not help."""
    chosen = _commuting(axes)
    if not chosen:
        return None
    # A generic combination has the weight zero only where all of them have.
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.rand(len(chosen), generator=generator, dtype=torch.float64) + 0.5
    vectors, weights = [], []
    for axis in axes:
        combined = torch.einsum("i,iab->ab", coefficients, axis.lie[chosen])
        symmetric, antisymmetric = (combined + combined.T) / 2, (combined - combined.T) / 2
        # The two parts commute, and a Hermitian combination of them keeps degenerate eigenvectors orthogonal.
        unitary = torch.linalg.eigh(torch.complex(symmetric, -_GENERIC * antisymmetric))[1]
        vectors.append(unitary)
        weights.append((unitary.mH @ combined.to(unitary.dtype) @ unitary).diagonal())
    total = reduce(lambda a, b: (a[:, None] + b).flatten(), weights)
    zero = total.abs() < 1e-8 * max(1.0, max(float(w.abs().max()) for w in weights))
    rank = int(zero.sum())
    n = len(zero)
    if rank * n > _MAX_NUMBERS or n * float(rank) ** 2 > _MAX_WORK or 2 * rank > n:
        return None
    return Torus(tuple(chosen), vectors, zero, rank)


def torus_null_space(constraints: Constraints, torus: Torus) -> Tensor:
    """An orthonormal basis ``(rank, n)`` of all invariants, from those of the torus."""
    inward = {axis: vectors.mH.contiguous() for axis, vectors in enumerate(torus.vectors)}
    outward = dict(enumerate(torus.vectors))

    def project(x: Tensor) -> Tensor:
        kept = constraints.modes(inward, x.to(torch.complex128)) * torus.zero[:, None]
        return constraints.modes(outward, kept).real

    if not torus.rank:
        return torch.zeros(0, constraints.n, dtype=torch.float64)
    z = range_of(project, constraints.n, torus.rank)
    # A torus and a generic element generate a semisimple algebra, so that a few combinations of the other generators do
    # for all of them; where they do not, more is left than is invariant, and all of them are asked.
    for few in (constraints.mixed(_MIXED, skip=torus.generators), constraints):
        gram = torch.zeros(torus.rank, torus.rank, dtype=torch.float64)
        for c in few.each(z, skip=torus.generators if few is constraints else ()):
            gram += c.T @ c
        values, rotation = torch.linalg.eigh(gram)
        null = values < _TOLERANCE * max(1.0, float(values[-1]))
        basis = (z @ rotation[:, null]).T.contiguous()
        if constraints.residual(basis) < CONSTRAINT_TOLERANCE:
            break
    return basis


def _commuting(axes: Sequence[Axis]) -> list[int]:
    """Normal generators that commute with each other on every axis: the largest of the sets that are found greedily.

    A set begins with each generator in turn, where that is little work, else with the first and the last, and goes
    through the others forwards and backwards: diagonal ones often come last.
    """
    distinct = list({axis.fingerprint: axis for axis in axes}.values())
    count = len(axes[0].lie)
    normal = [i for i in range(count) if all(_commutes_with(a.lie[i].T, a.lie[[i]])[0] for a in distinct)]

    @functools.cache
    def partners(index: int) -> Tensor:
        return torch.stack([_commutes_with(axis.lie[index], axis.lie) for axis in distinct]).all(0)

    def greedy(start: int, order: Sequence[int]) -> list[int]:
        chosen, free = [start], partners(start)
        for index in order:
            if index != start and free[index]:
                chosen.append(index)
                free = free & partners(index)
        return sorted(chosen)

    little = count**2 * sum(axis.size**3 for axis in distinct) < _MAX_COMMUTING
    starts = normal if little else [*normal[:1], *normal[1:][-1:]]
    found = [greedy(start, order) for start in starts for order in (normal, normal[::-1])]
    return max(found, key=len, default=[])


def _commutes_with(a: Tensor, others: Tensor) -> Tensor:
    """Whether a matrix ``(d, d)`` commutes with each of ``(m, d, d)``."""
    size = (float(a.abs().amax()) * others.abs().amax((1, 2))).clamp_min(1.0)
    return (a @ others - others @ a).abs().amax((1, 2)) < _TOLERANCE * size
