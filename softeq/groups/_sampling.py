"""Random elements of matrix groups. A sampler is plain data that can be called, so a group pickles with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from softeq.groups._group import Group

Sampler = Callable[[int, torch.Generator | None], Tensor]
"""``sampler(n, generator)`` gives ``(n, d, d)`` group elements in float64."""

# Non-compact directions (boosts, shears) grow exponentially: a unit normal coefficient would swamp any test.
_NONCOMPACT_SCALE = 0.3
_MAX_ORDER = 4096
_ROUNDS = 8


def sample_products(algebra: Tensor, discrete: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """``n`` products of ``exp`` of a random combination of the algebra and of random words in the discrete elements.

    Args:
        algebra: ``(a, d, d)``, may be empty. Standard deviation pi for antisymmetric matrices, 0.3 for the others.
        discrete: ``(m, d, d)``, may be empty.
        n: how many.
        generator: of the random numbers.

    Returns:
        ``(n, d, d)`` in float64.
    """
    elements = _eye(algebra.shape[-1]).expand(n, -1, -1)
    if len(algebra):
        compact = (algebra + algebra.mT).abs().amax((1, 2)) < 1e-10
        scale = torch.where(compact, math.pi, _NONCOMPACT_SCALE).to(torch.float64)
        z = torch.randn(n, len(algebra), generator=generator, dtype=torch.float64) * scale
        elements = torch.linalg.matrix_exp(torch.einsum("ng,gij->nij", z, algebra))
    orders = [_order(h) for h in discrete]
    for _ in range(_rounds(discrete)):
        for h, order in zip(discrete, orders, strict=True):
            elements = _times_power(elements, h, torch.randint(order, (n,), generator=generator))
    return elements.contiguous()


def _rounds(discrete: Tensor) -> int:
    """How often a word runs through the generators: once reaches every element where they commute."""
    products = torch.einsum("aij,bjk->abik", discrete, discrete)
    return 1 if torch.allclose(products, products.transpose(0, 1), atol=1e-9) else _ROUNDS


def _order(h: Tensor) -> int:
    """The smallest k with h^k = 1, or 3 (the powers 0, 1, 2) where none is found."""
    power = h
    for k in range(1, _MAX_ORDER + 1):
        if (power - _eye(h.shape[-1])).abs().amax() < 1e-9:
            return k
        power = power @ h
    return 3


def _times_power(elements: Tensor, h: Tensor, exponents: Tensor) -> Tensor:
    """``elements[i] @ h^exponents[i]``, by repeated squaring."""
    while bool((exponents > 0).any()):
        odd = (exponents % 2 == 1).view(-1, 1, 1)
        elements = torch.where(odd, elements @ h, elements)
        h, exponents = h @ h, exponents // 2
    return elements


@dataclass(frozen=True)
class HaarOrthogonal:
    """Haar-distributed elements of O(d), or of SO(d) where ``special``."""

    d: int
    special: bool

    def __call__(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``(n, d, d)`` in float64."""
        q, r = torch.linalg.qr(torch.randn(n, self.d, self.d, generator=generator, dtype=torch.float64))
        q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
        if self.special:
            q = torch.cat([q[..., :1] * torch.linalg.det(q).view(n, 1, 1).sign(), q[..., 1:]], dim=-1)
        return q


@dataclass(frozen=True)
class UniformPermutation:
    """Uniformly distributed permutation matrices of d coordinates."""

    d: int

    def __call__(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``(n, d, d)`` in float64."""
        order = torch.rand(n, self.d, generator=generator).argsort(dim=-1)
        return _eye(self.d)[order]


@dataclass(frozen=True)
class UniformShift:
    """Uniformly distributed cyclic shifts of d coordinates."""

    d: int

    def __call__(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``(n, d, d)`` in float64."""
        shift = torch.randint(self.d, (n, 1), generator=generator)
        return _eye(self.d)[(torch.arange(self.d) - shift) % self.d]


@dataclass(frozen=True)
class KroneckerSampler:
    """Kronecker products of independent elements of two groups."""

    first: Group
    second: Group

    def __call__(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``(n, d1 d2, d1 d2)`` in float64."""
        a, b = self.first.sample(n, generator), self.second.sample(n, generator)
        return torch.einsum("nij,nkl->nikjl", a, b).reshape(n, self.first.d * self.second.d, -1)


@dataclass(frozen=True)
class BlockSampler:
    """Block-diagonal matrices of independent elements of several groups."""

    factors: tuple[Group, ...]

    def __call__(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``(n, sum d, sum d)`` in float64."""
        d = sum(factor.d for factor in self.factors)
        out, start = torch.zeros(n, d, d, dtype=torch.float64), 0
        for factor in self.factors:
            stop = start + factor.d
            out[:, start:stop, start:stop] = factor.sample(n, generator)
            start = stop
        return out


@dataclass(frozen=True)
class EmbeddedSampler:
    """Elements of a group on some coordinates of a larger space, the identity on the others."""

    group: Group
    d: int
    start: int

    def __call__(self, n: int, generator: torch.Generator | None) -> Tensor:
        """``(n, d, d)`` in float64."""
        out = _eye(self.d).repeat(n, 1, 1)
        stop = self.start + self.group.d
        out[:, self.start : stop, self.start : stop] = self.group.sample(n, generator)
        return out


def _eye(d: int) -> Tensor:
    return torch.eye(d, dtype=torch.float64)
