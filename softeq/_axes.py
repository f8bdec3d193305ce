"""An index of a tensor as the solver sees it: the matrices of the group's generators on it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from softeq._factors import Defining, Dual, Factor, Word
from softeq.groups import Group
from softeq.groups._group import Moves, as_signed_permutations, check_size, eye, fingerprint, is_orthogonal


@dataclass(frozen=True, eq=False)
class Axis:
    """The generators of a group on one index of a tensor.

    Attributes:
        lie: ``(n, size, size)``, the Lie algebra's generators.
        discrete: ``(m, size, size)``, the discrete ones.
    """

    lie: Tensor
    discrete: Tensor

    @property
    def size(self) -> int:
        """The number of values of the index."""
        return self.lie.shape[-1]

    @cached_property
    def _moves(self) -> Moves | None:
        return as_signed_permutations(self.discrete)

    @cached_property
    def fingerprint(self) -> str:
        """Of the matrices, rounded to 12 digits."""
        return fingerprint(self.lie, self.discrete, self._moves)

    @cached_property
    def is_orthogonal(self) -> bool:
        """Whether the index turns as its dual does."""
        return is_orthogonal(self.lie, self.discrete, self._moves)

    @cached_property
    def signed_permutations(self) -> Moves | None:
        """Targets and signs ``(m, size)`` where the whole group permutes the values up to signs, else ``None``."""
        return None if bool((self.lie != 0).any()) else self._moves

    @cached_property
    def is_permuted(self) -> bool:
        """Whether the whole group permutes the values of the index."""
        moves = self.signed_permutations
        return moves is not None and bool((moves[1] > 0).all())

    @cached_property
    def moved_by(self) -> tuple[bool, ...]:
        """Per generator, the Lie algebra's first, whether it moves anything."""
        still = (self.discrete == eye(self.size)).flatten(1).all(1)
        return tuple((self.lie != 0).flatten(1).any(1).tolist()) + tuple((~still).tolist())

    def only(self, generators: tuple[bool, ...]) -> Axis:
        """The axis under some of the generators alone."""
        keep = torch.tensor(generators, dtype=torch.bool)
        lie, discrete = self.lie[keep[: len(self.lie)]], self.discrete[keep[len(self.lie) :]]
        return Axis(lie, discrete)


@lru_cache(maxsize=1024)
def axis_of(group: Group, factor: Factor) -> Axis:
    """How a group acts on an index.

    Raises:
        SofteqValueError: the factor means nothing for the group, or its generators take more than 2 GiB.
    """
    if isinstance(factor, Defining):
        return Axis(group.lie_algebra, group.discrete_generators)
    size = factor.size(group)
    count = len(group.lie_algebra) + len(group.discrete_generators)
    check_size(f"{factor.name} of {group}", count, size)
    empty = torch.zeros(0, size, size, dtype=torch.float64)
    lie = factor.drho(group, group.lie_algebra).detach() if len(group.lie_algebra) else empty
    discrete = factor.rho(group, group.discrete_generators).detach() if len(group.discrete_generators) else empty
    return Axis(lie, discrete)


def canonical_factor(group: Group, factor: Factor) -> Factor:
    """The factor that stands for this one: where it acts by orthogonal matrices, a dual moves as the factor does."""
    if isinstance(factor, Dual) and axis_of(group, factor.base).is_orthogonal:
        return factor.base
    return factor


def axes_of(group: Group, word: Word) -> tuple[Axis, ...]:
    """The axes of a tensor type, duals of orthogonal factors replaced by the factors."""
    return tuple(axis_of(group, canonical_factor(group, factor)) for factor in word)


def word_shape(group: Group, word: Word) -> tuple[int, ...]:
    """The shape of a tensor of this type."""
    return tuple(factor.size(group) for factor in word)


def is_permuted(group: Group, word: Word) -> bool:
    """Whether the group permutes the entries of tensors of this type, so that any function of each commutes with it."""
    return all(axis_of(group, canonical_factor(group, factor)).is_permuted for factor in word)
