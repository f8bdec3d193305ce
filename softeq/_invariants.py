"""Invariant tensors of a word in V and V*: the null space of the generators' constraints, in float64.

A tensor v of the word is invariant under the whole group exactly when drho(A) v = 0 for every generator A of the Lie
algebra and (rho(h) - 1) v = 0 for every discrete generator h (Finzi, Welling, Wilson 2021, theorem 1). The null space
of the stacked constraints C is that of the Gram operator C^T C.

Memory: up to ``DENSE_LIMIT`` tensor entries n the Gram matrix is formed (8 n^2 bytes, 8.4 MB at the limit, a few
copies). Above it C is only ever applied, one tensor axis at a time: about 6 blocks of n x k float64 numbers, k the
first power of two (from 16) that exceeds the number of invariants; T(3) -> T(3) of Lorentz, n = 4096: 6 MB.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softeq.errors import SofteqError
from softeq.groups import Group
from softeq.reps import Word

DENSE_LIMIT = 1024
CONSTRAINT_TOLERANCE = 1e-10
"""The largest constraint residual, per unit vector and unit generator, that a returned basis may have."""

_FILTER_DEGREE = 24
_MAX_FILTERS = 400


def invariant_tensors(group: Group, word: Word) -> Tensor:
    """An orthonormal basis of the invariant tensors, ``(rank, d ** len(word))`` float64, the same on every machine.

    Raises:
        SofteqError: the iterative solver did not converge.
    """
    n = group.d ** len(word)
    if not len(group.lie_algebra) and not len(group.discrete_generators):
        return torch.eye(n, dtype=torch.float64)
    constraints = Constraints(group, word)
    basis = _dense_null_space(constraints) if n <= DENSE_LIMIT else _iterative_null_space(constraints)
    return _canonical(basis)


class Constraints:
    """The stacked constraints of a word, applied to ``(n, k)`` blocks of tensors without forming a matrix."""

    def __init__(self, group: Group, word: Word) -> None:
        self.d, self.word = group.d, word
        self.n = group.d ** len(word)
        # Unit generators: the constraints' size then says nothing about the units that the user chose.
        norms = [a / max(float(torch.linalg.matrix_norm(a, 2)), 1e-300) for a in group.lie_algebra]
        self._lie = [[a if vector else -a.T for vector in word] for a in norms]
        self._discrete = [
            [h if vector else torch.linalg.inv(h).T for vector in word] for h in group.discrete_generators
        ]

    def each(self, x: Tensor) -> list[Tensor]:
        """``C_i x`` for every generator: each ``(n, k)`` for x of shape ``(n, k)``."""
        return [self._sum_of_modes(f, x) for f in self._lie] + [self._modes(f, x) - x for f in self._discrete]

    def gram(self, x: Tensor) -> Tensor:
        """``sum_i C_i^T C_i x``, ``(n, k)`` to ``(n, k)``."""
        out = torch.zeros_like(x)
        for factors in self._lie:
            out += self._sum_of_modes([f.T for f in factors], self._sum_of_modes(factors, x))
        for factors in self._discrete:
            defect = self._modes(factors, x) - x
            out += self._modes([f.T for f in factors], defect) - defect
        return out

    def residual(self, basis: Tensor) -> float:
        """The largest ``||C_i v||`` over generators and rows v of a ``(rank, n)`` basis; 0 for an empty one."""
        if not len(basis):
            return 0.0
        return max((float(c.norm(dim=0).max()) for c in self.each(basis.T.contiguous())), default=0.0)

    def _mode(self, factor: Tensor, x: Tensor, axis: int) -> Tensor:
        before, after = self.d**axis, self.d ** (len(self.word) - axis - 1)
        return torch.matmul(factor, x.reshape(before, self.d, after * x.shape[1])).reshape(x.shape)

    def _modes(self, factors: list[Tensor], x: Tensor) -> Tensor:
        for axis, factor in enumerate(factors):
            x = self._mode(factor, x, axis)
        return x

    def _sum_of_modes(self, factors: list[Tensor], x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for axis, factor in enumerate(factors):
            out += self._mode(factor, x, axis)
        return out


def _dense_null_space(constraints: Constraints) -> Tensor:
    gram = constraints.gram(torch.eye(constraints.n, dtype=torch.float64))
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    return vectors[:, values < 1e-10 * max(1.0, float(values[-1]))].T.contiguous()


def _iterative_null_space(constraints: Constraints) -> Tensor:
    """Chebyshev-filtered subspace iteration, the block doubled until it holds more than the null space."""
    upper = _largest_eigenvalue(constraints)
    block = 16
    while block < constraints.n:
        basis = _filtered_null_space(constraints, upper, block)
        if basis is not None:
            return basis
        block *= 2
    return _dense_null_space(constraints)


def _largest_eigenvalue(constraints: Constraints) -> float:
    x = torch.randn(constraints.n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(40):
        x = torch.linalg.qr(constraints.gram(x))[0]
    return 1.1 * float(torch.linalg.eigvalsh(x.T @ constraints.gram(x))[-1])


def _filtered_null_space(constraints: Constraints, upper: float, block: int) -> Tensor | None:
    """The null space ``(rank, n)`` if it has fewer than ``block`` dimensions, else ``None``."""
    generator = torch.Generator().manual_seed(block)
    x = torch.linalg.qr(torch.randn(constraints.n, block, generator=generator, dtype=torch.float64))[0]
    gap = float("nan")
    for _ in range(_MAX_FILTERS):
        gram_x = constraints.gram(x)
        values, rotation = torch.linalg.eigh(x.T @ gram_x)
        x = x @ rotation
        # Measured on the vectors: a computed eigenvalue of zero carries rounding of the size of the largest one.
        violation = torch.stack([c.square().sum(0) for c in constraints.each(x)]).sum(0)
        rank = int((violation < 1e-22 * upper).sum())
        if rank == block:
            return None
        # Ritz values bound eigenvalues from above: one still on its way to zero keeps falling, a resolved one stands.
        resolved = abs(float(values[rank]) - gap) < 1e-3 * float(values[rank])
        if resolved and float(values[rank]) > 1e-8 * upper:
            return x[:, :rank].T.contiguous()
        gap = float(values[rank])
        # The floor keeps the filter sharp while the whole block lies in the null space, where its values are rounding.
        lower = max(float(values[-1]), 1e-3 * upper)
        x = torch.linalg.qr(_chebyshev(constraints.gram, x, lower, upper))[0]
    raise SofteqError(
        f"the invariants of a {len(constraints.word)}-index tensor in {constraints.d} dimensions did not converge "
        f"(smallest non-zero Ritz value {gap:.1e}): two generators may agree to rounding, or a gap may be tiny"
    )


def _chebyshev(gram: Callable[[Tensor], Tensor], x: Tensor, lower: float, upper: float) -> Tensor:
    """The Chebyshev polynomial that is at most 1 on [lower, upper], applied to x; it grows fast below lower."""
    centre, half = (upper + lower) / 2, max((upper - lower) / 2, 1e-12 * upper)
    previous, current = x, (gram(x) - centre * x) / half
    for _ in range(_FILTER_DEGREE - 1):
        previous, current = current, 2 * (gram(current) - centre * current) / half - previous
        # The recurrence is linear: one common factor keeps it finite and changes no subspace.
        size = current.abs().amax()
        if size > 1e100:
            previous, current = previous / size, current / size
    return current / current.abs().amax()


def _canonical(basis: Tensor) -> Tensor:
    """Another orthonormal basis of the same space ``(rank, n)``, fixed by the space alone.

    Gram-Schmidt on columns of the projector, the pivot being the coordinate with the largest remaining norm (the first
    one within 1e-6 of it). Null vectors from an eigensolver are an arbitrary rotation that differs between machines.
    """
    rows: list[Tensor] = []
    remaining = basis.square().sum(0)
    found = basis.new_zeros(0, basis.shape[1])
    for _ in range(len(basis)):
        pivot = int(torch.nonzero(remaining >= remaining.max() - 1e-6)[0])
        column = basis.T @ basis[:, pivot]
        for _again in range(2):
            column = column - found.T @ (found @ column)
        column = column / column.norm()
        rows.append(torch.where(column.abs() < 1e-15, 0.0, column))
        found = torch.stack(rows)
        remaining = remaining - column.square()
    return found
