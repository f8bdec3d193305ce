"""What tensors are made of: a representation per index. ``Factor`` is what a user's own representation subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Group
from softeq.groups._group import eye

_CHECK_TOLERANCE = 1e-6


class Factor(ABC):
    """One index of a tensor: a representation of a group that sums and products are built from.

    For a representation of your own give ``name``, ``size`` and ``rho``, and be hashable, with equality that means "the
    same matrices": a frozen dataclass is. ``softeq.reps.of_factor`` makes a ``Rep`` of it, with sums, products, duals
    and multiplicities, for every layer that takes reps. Where the rep is bound to a group, the factor is tested once:
    ``rho`` must multiply as group elements do and ``drho`` be its derivative.

    Bases are cached by the matrices of the group's generators and by nothing else, so two factors never share one by
    accident, and one whose ``rho`` was edited is solved anew.
    """

    trusted = False
    """Whether binding skips the test; for the factors of this package."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For messages, and the order in which a tensor's indices are sorted."""

    @abstractmethod
    def size(self, group: Group) -> int:
        """The number of coordinates under this group.

        Raises:
            SofteqValueError: the factor means nothing for the group.
        """

    @abstractmethod
    def rho(self, group: Group, g: Tensor) -> Tensor:
        """The matrices of elements: ``(..., d, d)`` to ``(..., size, size)`` in the dtype of ``g``, differentiable."""

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """The matrices of Lie algebra elements, by forward differentiation of ``rho`` at the identity."""
        identity = torch.eye(group.d, dtype=A.dtype, device=A.device).expand(A.shape).contiguous()
        return torch.func.jvp(lambda g: self.rho(group, g), (identity,), (A,))[1]

    @property
    def dual(self) -> Factor:
        """The representation on the dual space, ``rho(g)^-T``."""
        return Dual(self)


@dataclass(frozen=True)
class Defining(Factor):
    """The group's own matrices: a vector index."""

    trusted = True

    @property
    def name(self) -> str:
        """``V``."""
        return "V"

    def size(self, group: Group) -> int:
        """The dimension of the defining space."""
        return group.d

    def rho(self, group: Group, g: Tensor) -> Tensor:
        """The element itself."""
        return g

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """The algebra element itself."""
        return A


@dataclass(frozen=True)
class Dual(Factor):
    """The dual of another factor."""

    base: Factor

    @property
    def trusted(self) -> bool:  # type: ignore[override]
        """As the factor itself."""
        return self.base.trusted

    @property
    def name(self) -> str:
        """The factor's with a star."""
        return f"{self.base.name}*"

    def size(self, group: Group) -> int:
        """That of the factor."""
        return self.base.size(group)

    def rho(self, group: Group, g: Tensor) -> Tensor:
        """``rho(g)^-T`` of the factor."""
        return torch.linalg.inv(self.base.rho(group, g)).mT

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """``-drho(A)^T`` of the factor."""
        return -self.base.drho(group, A).mT

    @property
    def dual(self) -> Factor:
        """The factor itself."""
        return self.base


@dataclass(frozen=True)
class OfFactor(Factor):
    """A representation of one factor of ``groups.separate(...)``; the other factors leave it alone."""

    index: int
    base: Factor

    @property
    def trusted(self) -> bool:  # type: ignore[override]
        """As the representation of the factor."""
        return self.base.trusted

    @property
    def name(self) -> str:
        """E.g. ``V[0]``."""
        return f"{self.base.name}[{self.index}]"

    def _part(self, group: Group) -> tuple[Group, slice]:
        if not 0 <= self.index < len(group.factors):
            what = f"has {len(group.factors)} factors" if group.factors else "is no separate product"
            raise SofteqValueError(
                f"rep.of({self.index}): {group} {what}; make one with softeq.groups.separate(G1, G2) "
                "(G1 * G2 acts on the Kronecker product, where no index belongs to one factor alone)"
            )
        start = sum(factor.d for factor in group.factors[: self.index])
        return group.factors[self.index], slice(start, start + group.factors[self.index].d)

    def size(self, group: Group) -> int:
        """The size under that factor."""
        return self.base.size(self._part(group)[0])

    def rho(self, group: Group, g: Tensor) -> Tensor:
        """Of that factor's block of the element."""
        own, block = self._part(group)
        return self.base.rho(own, g[..., block, block])

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """Of that factor's block of the algebra element."""
        own, block = self._part(group)
        return self.base.drho(own, A[..., block, block])


@dataclass(frozen=True)
class Given(Factor):
    """A representation given by functions of the matrix.

    Args:
        label: its name.
        dimension: the number of coordinates.
        of_element: ``g`` of shape ``(..., d, d)`` to ``(..., dimension, dimension)``.
        of_algebra: the derivative at the identity, ``A`` to ``(..., dimension, dimension)``; ``None`` differentiates
            ``of_element``, which then has to be made of torch's operations.

    Functions of a module pickle, closures and lambdas do not. Two of these are equal where their functions are the
    same objects.
    """

    label: str
    dimension: int
    of_element: Callable[[Tensor], Tensor]
    of_algebra: Callable[[Tensor], Tensor] | None = None

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    def size(self, group: Group) -> int:
        """As given."""
        return self.dimension

    def rho(self, group: Group, g: Tensor) -> Tensor:
        """The first function's value."""
        return self.of_element(g)

    def drho(self, group: Group, A: Tensor) -> Tensor:
        """The second function's value, or the first one's derivative."""
        return super().drho(group, A) if self.of_algebra is None else self.of_algebra(A)


V: Factor = Defining()
"""The vector index."""

Word = tuple[Factor, ...]
"""A tensor type: a factor for each index."""


@lru_cache(maxsize=1024)
def check_factor(factor: Factor, group: Group) -> None:
    """Raises unless the factor is a representation of the group, tried on a few elements in float64.

    Raises:
        SofteqTypeError: something that is no ``Factor``.
        SofteqValueError: a wrong shape or dtype, ``rho(g h) != rho(g) rho(h)``, or a ``drho`` that is no derivative.
    """
    if not isinstance(factor, Factor):
        raise SofteqTypeError(f"rep: expected a softeq.reps.Factor for every index, got {type(factor).__name__}")
    size = factor.size(group)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SofteqValueError(f"{factor.name}: expected a size of at least 1 under {group}, got {size!r}")
    if factor.trusted:
        return
    where = f"{factor.name} is no representation of {group}"
    generator = torch.Generator().manual_seed(0)
    g, h = group.sample(4, generator), group.sample(4, generator)
    try:
        rho_g, rho_h, rho_gh = (factor.rho(group, x) for x in (g, h, g @ h))
        drho = factor.drho(group, g) if len(group.lie_algebra) else rho_g
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise SofteqValueError(
            f"{where}: rho or drho failed on float64 matrices of shape (4, {group.d}, {group.d}): {error}"
        ) from error
    for value, what in ((rho_g, "rho(g)"), (drho, "drho(A)")):
        if not isinstance(value, Tensor) or value.shape != (4, size, size) or value.dtype != torch.float64:
            came = (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise SofteqValueError(f"{where}: {what} should be float64 of shape (4, {size}, {size}) here, got {came}")
    if not _close(rho_g @ rho_h, rho_gh):
        raise SofteqValueError(f"{where}: rho(g h) differs from rho(g) rho(h)")
    if not _close(factor.rho(group, eye(group.d)[None]), eye(size)[None]):
        raise SofteqValueError(f"{where}: rho of the identity is not the identity")
    for A in group.lie_algebra:
        step = 1e-3 / max(1.0, float(A.abs().amax()))
        values = [factor.rho(group, torch.linalg.matrix_exp(k * step * A)[None]) for k in (-2, -1, 1, 2)]
        numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        if not _close(factor.drho(group, A[None]), numeric):
            raise SofteqValueError(f"{where}: drho(A) is not the derivative of rho(exp(t A)) at t = 0")


def _close(a: Tensor, b: Tensor) -> bool:
    scale = max(1.0, float(a.abs().amax()), float(b.abs().amax()))
    return bool((a - b).abs().amax() < _CHECK_TOLERANCE * scale)
