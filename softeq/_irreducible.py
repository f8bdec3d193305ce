"""Representations that are no tensors of the defining space: determinants, cosets, irreps of rotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from softeq._averaging import MAX_ORDER, closure
from softeq._factors import Factor
from softeq.errors import SofteqValueError
from softeq.groups import Group
from softeq.groups._group import as_matrices

_MAX_DEGREE = 8
_NEAR = 1e-3  # elements of groups of at most 512 elements lie further apart


@dataclass(frozen=True)
class Determinant(Factor):
    """The sign of the determinant: one coordinate."""

    trusted = True

    @property
    def name(self) -> str:
        """``sign(det)``."""
        return "sign(det)"

    def size(self, group: Group) -> int:
        """One."""
        return 1

    def rho(self, group: Group, g: Tensor) -> Tensor:
        """Plus or minus one, ``(..., 1, 1)``."""
        return torch.linalg.det(g).sign()[..., None, None]

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """Zero."""
        return A.new_zeros(*A.shape[:-2], 1, 1)


@dataclass(frozen=True)
class RotationIrrep(Factor):
    """Harmonic polynomials of one degree, and their parity; see ``softeq.reps.Irrep``."""

    degree: int
    parity: int | None = None

    trusted = True

    def __post_init__(self) -> None:
        if isinstance(self.degree, bool) or not isinstance(self.degree, int) or not 0 <= self.degree <= _MAX_DEGREE:
            raise SofteqValueError(f"Irrep: expected a degree from 0 to {_MAX_DEGREE}, got {self.degree!r}")
        if self.parity not in (None, 1, -1) or isinstance(self.parity, bool):
            raise SofteqValueError(f"Irrep: expected the parity 1, -1 or None, got {self.parity!r}")

    @property
    def name(self) -> str:
        """E.g. ``Irrep(2)``, or ``Irrep(1, 1)`` for a pseudovector."""
        return f"Irrep({self.degree})" if self.parity is None else f"Irrep({self.degree}, {self.parity})"

    @property
    def _turns_over(self) -> bool:
        return self.parity is not None and self.parity != (-1) ** self.degree

    def size(self, group: Group) -> int:
        """``2 degree + 1``, for groups of orthogonal matrices of R^3."""
        if group.d != 3 or not group.is_orthogonal:
            raise SofteqValueError(
                f"{self.name} is a representation of rotations and reflections of R^3, not of {group}"
            )
        return 2 * self.degree + 1

    def rho(self, group: Group, g: Tensor) -> Tensor:
        """The harmonics, as symmetric traceless tensors, with every index turned: ``Q g x ... x g Q^T``."""
        q = harmonics(self.degree).to(g)
        out = self._turned(g, q)
        return out * torch.linalg.det(g).sign()[..., None, None] if self._turns_over else out

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """The sum over the indices of those with one turned by ``A``."""
        q = harmonics(self.degree).to(A)
        if self.degree == 0:
            return A.new_zeros(*A.shape[:-2], 1, 1)
        # Harmonics are symmetric, so every index gives the same.
        own = q.view(len(q), 3, -1)
        return self.degree * torch.einsum("mar,...ab,nbr->...mn", own, A, own)

    def _turned(self, g: Tensor, q: Tensor) -> Tensor:
        batch, m = g.shape[:-2], len(q)
        out = q.expand(*batch, m, q.shape[1])
        for axis in range(self.degree):
            shaped = out.reshape(*batch, m, 3**axis, 3, -1)
            out = torch.einsum("...ab,...mpbr->...mpar", g, shaped).reshape(*batch, m, -1)
        return torch.einsum("mk,...nk->...mn", q, out)


@lru_cache
def harmonics(degree: int) -> Tensor:
    """An orthonormal basis of the symmetric traceless tensors of R^3, ``(2 degree + 1, 3 ** degree)`` float64.

    From the highest weight vector ``(x + i y)^degree`` by lowering about the z axis; then real and imaginary parts,
    orders -degree (sines) to degree (cosines).
    """
    i = torch.complex(torch.zeros(()), torch.ones(())).to(torch.complex128)
    top = torch.ones(1, dtype=torch.complex128)
    for _ in range(degree):
        top = torch.kron(top, torch.stack([i / i, i, 0 * i]) / math.sqrt(2))
    # L_a has entries -i epsilon_abc; the lowering operator is L_x - i L_y, on each index in turn.
    epsilon = torch.zeros(3, 3, 3, dtype=torch.complex128)
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        epsilon[a, b, c], epsilon[a, c, b] = 1, -1
    lower = -i * epsilon[0] - i * (-i * epsilon[1])
    of_order, v = {}, top
    for order in range(degree, -1, -1):
        of_order[order] = v
        shaped = [torch.einsum("ab,pbr->par", lower, v.reshape(3**k, 3, -1)).flatten() for k in range(degree)]
        v = sum(shaped, torch.zeros_like(v))
        v = v / v.norm() if float(v.norm().real) else v
    rows = [_real(of_order[m].imag) for m in range(degree, 0, -1)] + [_real(of_order[0])]
    return torch.stack(rows + [_real(of_order[m].real) for m in range(1, degree + 1)])


def _real(part: Tensor) -> Tensor:
    """The vector of unit length, its largest entry (the last of those) positive; a complex one has a common phase."""
    if part.is_complex():
        part = part.real if float(part.real.norm()) > 0.5 else part.imag
    part = part / part.norm()
    largest = int(torch.nonzero(part.abs() > part.abs().max() - 1e-9)[-1])
    return part * part[largest].sign()


@dataclass(frozen=True)
class Quotient(Factor):
    """Functions on the cosets of a subgroup; see ``softeq.reps.quotient``. The generators are nested tuples."""

    subgroup: tuple[tuple[tuple[float, ...], ...], ...]

    trusted = True

    @staticmethod
    def of(matrices: Sequence[Tensor]) -> Quotient:
        """From the subgroup's generators, ``(d, d)`` each."""
        given = as_matrices("subgroup", list(matrices))
        return Quotient(tuple(tuple(tuple(row) for row in matrix) for matrix in given.tolist()))

    @property
    def name(self) -> str:
        """``regular``, or ``G/H`` with the number of H's generators."""
        return f"G/H{len(self.subgroup)}" if self.subgroup else "regular"

    def size(self, group: Group) -> int:
        """The number of cosets."""
        return int(_cosets(self, group)[1].max()) + 1

    def rho(self, group: Group, g: Tensor) -> Tensor:
        """Permutation matrices: coset x goes to g x."""
        elements, coset_of = _cosets(self, group)
        count = int(coset_of.max()) + 1
        first = torch.stack([torch.nonzero(coset_of == k)[0, 0] for k in range(count)])
        products = g.double().cpu()[..., None, :, :] @ elements[first]
        distance = torch.cdist(products.flatten(-2).reshape(-1, group.d**2).detach(), elements.flatten(1))
        if float(distance.amin(1).max()) > _NEAR:
            raise SofteqValueError(f"g: expected elements of {group}, got a matrix that is none")
        targets = coset_of[distance.argmin(1)].view(*products.shape[:-2])
        return torch.nn.functional.one_hot(targets, count).mT.to(g)

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """Zero: a finite group has no directions."""
        size = self.size(group)
        return A.new_zeros(*A.shape[:-2], size, size)


@lru_cache(maxsize=64)
def _cosets(factor: Quotient, group: Group) -> tuple[Tensor, Tensor]:
    """The group's elements ``(order, d, d)`` and the number of the coset g H that each lies in, ``(order,)``."""
    if bool((group.lie_algebra != 0).any()):
        raise SofteqValueError(f"{factor.name}: expected a finite group, and {group} has a Lie algebra")
    elements = closure(group.discrete_generators)
    if elements is None:
        raise SofteqValueError(f"{factor.name}: expected a group of at most {MAX_ORDER} elements, {group} has more")
    own = torch.tensor(factor.subgroup, dtype=torch.float64)
    if len(own) and own.shape[1:] != (group.d, group.d):
        raise SofteqValueError(f"{factor.name}: expected subgroup generators of shape ({group.d}, {group.d})")
    subgroup = closure(own) if len(own) else elements[:1]
    flat = elements.flatten(1)
    if subgroup is None or float(torch.cdist(subgroup.flatten(1), flat).amin(1).max()) > 1e-6:
        raise SofteqValueError(f"{factor.name}: the subgroup's generators are no elements of {group}")
    coset_of = torch.full((len(elements),), -1)
    count = 0
    for index, element in enumerate(elements):
        if coset_of[index] < 0:
            members = torch.cdist((element @ subgroup).flatten(1), flat).argmin(1)
            coset_of[members] = count
            count += 1
    return elements, coset_of
