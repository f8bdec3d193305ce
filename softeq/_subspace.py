"""The null space of constraints that are too many for a matrix: Chebyshev-filtered subspace iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from softeq._axes import Axis
from softeq._constraints import Constraints
from softeq.errors import SofteqError, SofteqValueError
from softeq.groups._group import MAX_NUMBERS, in_bytes
from softeq.groups._sampling import sample_products

_FILTER_DEGREE = 24
_MAX_FILTERS = 400
_FIRST_BLOCK = 16
_BLOCKS_HELD = 6
_MAX_WORK = 2**30  # float64 numbers in all blocks: 8 GiB
_SAMPLES = 2000
_MAX_SIZE = 32


class Deflated:
    """Constraints whose null space lacks that of a basis ``(rank, n)``: empty where the basis is complete."""

    def __init__(self, constraints: Constraints, basis: Tensor, weight: float) -> None:
        self.n, self.sizes = constraints.n, constraints.sizes
        self._constraints, self._basis, self._weight = constraints, basis, weight

    def each(self, x: Tensor) -> Iterator[Tensor]:
        """The constraints' values and the coefficients of the basis."""
        yield from self._constraints.each(x)
        yield math.sqrt(self._weight) * (self._basis @ x)

    def gram(self, x: Tensor) -> Tensor:
        """Of all of these."""
        return self._constraints.gram(x) + self._weight * (self._basis.T @ (self._basis @ x))


def iterative_null_space(constraints: Constraints) -> Tensor:
    """An orthonormal basis ``(rank, n)``: the block is doubled until it holds more than the null space.

    Raises:
        SofteqValueError: the basis or the blocks would take too much memory.
        SofteqError: no convergence.
    """
    n = constraints.n
    rank = expected_rank(constraints.axes) if n * _FIRST_BLOCK * _BLOCKS_HELD <= _MAX_WORK else None
    if rank is not None and rank * n > MAX_NUMBERS:
        raise SofteqValueError(
            f"the equivariant maps of this pair of types, about {round(rank):,} tensors of {n:,} entries, need about "
            f"{in_bytes(round(rank) * n)}, and at most {in_bytes(MAX_NUMBERS)} are taken: choose tensors of lower order"
        )
    block = _FIRST_BLOCK if rank is None else max(_FIRST_BLOCK, 2 ** math.ceil(math.log2(1.1 * rank + 4)))
    upper: float | None = None
    while block < n:
        if n * block * _BLOCKS_HELD > _MAX_WORK:
            raise SofteqValueError(
                f"the equivariant maps of this pair of types, tensors of {n:,} entries, need "
                f"{'more than ' if rank is None else ''}{in_bytes(n * block * _BLOCKS_HELD)} to solve for, and at most "
                f"{in_bytes(_MAX_WORK)} are taken: choose tensors of lower order"
            )
        upper = largest_eigenvalue(constraints) if upper is None else upper
        if upper == 0:  # no constraint at all
            return torch.eye(n, dtype=torch.float64)
        basis = filtered_null_space(constraints, upper, block)
        if basis is not None:
            return basis
        block *= 2
    return dense_null_space(constraints)


def dense_null_space(constraints: Constraints) -> Tensor:
    """An orthonormal basis ``(rank, n)`` from the eigenvectors of the Gram matrix, ``(n, n)``."""
    gram = constraints.gram(torch.eye(constraints.n, dtype=torch.float64))
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    return vectors[:, values < 1e-10 * max(1.0, float(values[-1]))].T.contiguous()


def expected_rank(axes: Sequence[Axis]) -> float | None:
    """About how many invariants there are, where the group is compact: the mean of the character over random elements.

    The elements are products of three random exponentials and words, near to Haar measure; ``None`` for a group that
    is not orthogonal, or on many coordinates.
    """
    distinct = {axis.fingerprint: axis for axis in axes}
    sizes = [axis.size for axis in distinct.values()]
    if sum(sizes) > _MAX_SIZE or not all(axis.is_orthogonal for axis in axes):
        return None
    algebra, discrete = (
        torch.stack([torch.block_diag(*matrices) for matrices in zip(*kinds, strict=True)])
        if len(kinds[0])
        else torch.zeros(0, sum(sizes), sum(sizes), dtype=torch.float64)
        for kinds in ([axis.lie for axis in distinct.values()], [axis.discrete for axis in distinct.values()])
    )
    generator = torch.Generator().manual_seed(0)
    g = sample_products(algebra, discrete, _SAMPLES, generator)
    for _ in range(2):
        g = g @ sample_products(algebra, discrete, _SAMPLES, generator)
    traces = {
        name: part.sum(1) for name, part in zip(distinct, g.diagonal(dim1=1, dim2=2).split(sizes, dim=1), strict=True)
    }
    characters = torch.stack([traces[axis.fingerprint] for axis in axes]).prod(0)
    return max(0.0, float(characters.mean()))


def largest_eigenvalue(constraints: Constraints) -> float:
    """A bound on the Gram operator's eigenvalues that is near to the largest one."""
    x = torch.randn(constraints.n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(40):
        x = torch.linalg.qr(constraints.gram(x))[0]
    return 1.1 * float(torch.linalg.eigvalsh(x.T @ constraints.gram(x))[-1])


def filtered_null_space(constraints: Constraints | Deflated, upper: float, block: int) -> Tensor | None:
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
        f"the invariants of tensors of shape {tuple(constraints.sizes)} did not converge "
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
