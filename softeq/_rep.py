"""The class ``Rep``: sums of tensor types, bound to a group."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from softeq._axes import is_permuted, word_shape
from softeq._factors import Dual, Factor, OfFactor, V, Word, check_factor
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Group


def dual_word(word: Word) -> Word:
    """The type on which the dual space's tensors live: each index turned into its dual, order kept."""
    return tuple(factor.dual for factor in word)


def word_name(word: Word) -> str:
    """``Scalar``, ``Vector``, ``T(p)``, ``T(p, q)``, or the word itself where it is none of these."""
    p, q = word.count(V), word.count(V.dual)
    if word != (V,) * p + (V.dual,) * q:
        return " x ".join(factor.name for factor in word)
    if len(word) == 0:
        return "Scalar"
    return "Vector" if (p, q) == (1, 0) else (f"T({p})" if q == 0 else f"T({p}, {q})")


class Rep:
    """An ordered direct sum of tensor types, each with a multiplicity; bound to a group or not yet.

    Args:
        terms: pairs of a word and its multiplicity, in the order of the coordinates.
        group: the group that acts; ``None`` leaves the representation unbound (see ``__call__``).

    Raises:
        SofteqValueError: a factor that is no representation of the group (see ``Factor``).
    """

    def __init__(self, terms: Iterable[tuple[Word, int]], group: Group | None = None) -> None:
        merged: list[tuple[Word, int]] = []
        for word, multiplicity in terms:
            if merged and merged[-1][0] == word:
                merged[-1] = (word, merged[-1][1] + multiplicity)
            elif multiplicity:
                merged.append((word, multiplicity))
        self.terms: tuple[tuple[Word, int], ...] = tuple(merged)
        self.group = group
        if group is not None:
            for factor in {factor for word, _ in self.terms for factor in word}:
                check_factor(factor, group)

    def __call__(self, group: Group) -> Rep:
        """The same representation, bound to ``group``."""
        if not isinstance(group, Group):
            raise SofteqTypeError(f"rep(G): expected a Group, got {type(group).__name__}")
        if self.group is not None and self.group != group:
            raise SofteqValueError(f"rep(G): this representation is bound to {self.group} already, got {group}")
        return Rep(self.terms, group)

    @property
    def bound_group(self) -> Group:
        """The group, or an error that says how to bind one."""
        if self.group is None:
            raise SofteqValueError(f"{self!r} is not bound to a group: call it with one, e.g. rep(SO(3))")
        return self.group

    @property
    def size(self) -> int:
        """The number of coordinates."""
        group = self.bound_group
        return sum(multiplicity * math.prod(word_shape(group, word)) for word, multiplicity in self.terms)

    @property
    def dual(self) -> Rep:
        """The dual representation, rho*(g) = rho(g)^-T."""
        return Rep([(dual_word(word), multiplicity) for word, multiplicity in self.terms], self.group)

    @property
    def T(self) -> Rep:
        """The dual representation, as emlp writes it."""
        return self.dual

    def of(self, index: int) -> Rep:
        """This representation of the factor number ``index`` of ``groups.separate(...)``, which the others leave alone.

        Raises:
            SofteqValueError: it is bound to a group already: bind the result to the product instead.
        """
        if self.group is not None:
            raise SofteqValueError(
                f"rep.of(index): {self!r} is bound; write rep.of({index}) and bind that to the product"
            )
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise SofteqValueError(f"rep.of(index): expected the number of a factor, from 0 on, got {index!r}")
        return Rep([(tuple(_of(factor, index) for factor in word), m) for word, m in self.terms])

    def is_permuted(self, word: Word) -> bool:
        """Whether the group permutes the entries of tensors of this type: any function of each commutes with it."""
        return is_permuted(self.bound_group, word)

    def rho(self, g: Tensor) -> Tensor:
        """The matrices of group elements: ``(..., d, d)`` to ``(..., size, size)``, in the dtype of ``g``."""
        g, group = self._check_square("g", g), self.bound_group
        of_factor = {factor: factor.rho(group, g) for word, _ in self.terms for factor in word}
        blocks = []
        for word, multiplicity in self.terms:
            block = g.new_ones(*g.shape[:-2], 1, 1)
            for factor in word:
                block = _kron(block, of_factor[factor])
            blocks.extend([block] * multiplicity)
        return _block_diagonal(blocks, g)

    def drho(self, A: Tensor) -> Tensor:
        """The matrices of Lie algebra elements: ``(..., d, d)`` to ``(..., size, size)``; d/dt rho(exp(t A)) at 0."""
        A, group = self._check_square("A", A), self.bound_group
        of_factor = {factor: factor.drho(group, A) for word, _ in self.terms for factor in word}
        blocks = []
        for word, multiplicity in self.terms:
            block, identity = A.new_zeros(*A.shape[:-2], 1, 1), A.new_ones(1, 1)
            for factor in word:
                own = of_factor[factor]
                eye = torch.eye(own.shape[-1], dtype=A.dtype, device=A.device)
                block = _kron(block, eye) + _kron(identity, own)
                identity = _kron(identity, eye)
            blocks.extend([block] * multiplicity)
        return _block_diagonal(blocks, A)

    def _check_square(self, argument: str, matrix: Tensor) -> Tensor:
        d = self.bound_group.d
        if matrix.shape[-2:] != (d, d):
            raise SofteqValueError(
                f"{argument}: expected shape (..., {d}, {d}) for {self.group}, got {tuple(matrix.shape)}"
            )
        return matrix

    def __add__(self, other: Rep | int) -> Rep:
        """The direct sum; ``rep + n`` adds n scalars, so that ``sum([...])`` works."""
        if isinstance(other, int) and not isinstance(other, bool):
            other = other * Scalar
        if not isinstance(other, Rep):
            return NotImplemented
        return Rep(self.terms + other.terms, _same_group(self, other))

    def __radd__(self, other: int) -> Rep:
        """``n + rep`` puts n scalars in front."""
        if isinstance(other, int) and not isinstance(other, bool):
            return other * Scalar + self
        return NotImplemented

    def __mul__(self, other: Rep | int) -> Rep:
        """``n * rep`` repeats; ``rep * rep`` is the tensor product, of sums the sum of products term by term.

        The product of two single types has the coordinates of the Kronecker product. For sums the products are laid
        out one after the other (left term outer), which is the Kronecker product up to a fixed order of coordinates.
        """
        if isinstance(other, int) and not isinstance(other, bool):
            if other < 0:
                raise SofteqValueError(f"n * rep: expected a multiplicity of at least 0, got {other}")
            repeated = self.terms * other if len(self.terms) > 1 else tuple((w, m * other) for w, m in self.terms)
            return Rep(repeated, self.group)
        if not isinstance(other, Rep):
            return NotImplemented
        terms = [(w1 + w2, m1 * m2) for w1, m1 in self.terms for w2, m2 in other.terms]
        return Rep(terms, _same_group(self, other))

    __rmul__ = __mul__

    def __pow__(self, power: int) -> Rep:
        """The tensor power: ``Vector**2`` is ``Vector * Vector``, ``rep**0`` is ``Scalar``."""
        if isinstance(power, bool) or not isinstance(power, int) or power < 0:
            raise SofteqValueError(f"rep**n: expected an integer of at least 0, got {power!r}")
        result = Rep(Scalar.terms, self.group)
        for _ in range(power):
            result = result * self
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rep) and self.terms == other.terms and self.group == other.group

    def __hash__(self) -> int:
        return hash((self.terms, self.group))

    def __repr__(self) -> str:
        named = [word_name(word) if m == 1 else f"{m}*{_in_brackets(word_name(word))}" for word, m in self.terms]
        text = " + ".join(named) or "0"
        return text if self.group is None else f"({text})({self.group})"


Scalar = Rep([((), 1)])
"""An invariant coordinate."""

Vector = Rep([((V,), 1)])
"""A vector of the group's defining space."""


def T(p: int, q: int = 0) -> Rep:
    """The tensor type with p vector and q dual indices; ``T(0)`` is ``Scalar`` and ``T(1)`` is ``Vector``."""
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SofteqValueError(f"T(p, q): expected integers of at least 0, got {name} = {value!r}")
    return Rep([((V,) * p + (V.dual,) * q, 1)])


def check_same_group(rep_in: Rep, rep_out: Rep) -> Group:
    """The group that both are bound to.

    Raises:
        SofteqTypeError: an argument is no representation.
        SofteqValueError: one is unbound, has no coordinates, or the groups differ.
    """
    for name, rep in (("rep_in", rep_in), ("rep_out", rep_out)):
        if not isinstance(rep, Rep):
            raise SofteqTypeError(f"{name}: expected a Rep, e.g. (3 * Vector)(SO(3)), got {type(rep).__name__}")
        if rep.size == 0:
            raise SofteqValueError(f"{name}: expected at least one coordinate, got {rep!r}")
    if rep_in.bound_group != rep_out.bound_group:
        raise SofteqValueError(
            f"rep_in is bound to {rep_in.group} and rep_out to {rep_out.group}: bind both to one group"
        )
    return rep_in.bound_group


def _of(factor: Factor, index: int) -> Factor:
    return Dual(_of(factor.base, index)) if isinstance(factor, Dual) else OfFactor(index, factor)


def _in_brackets(name: str) -> str:
    return f"({name})" if " x " in name else name


def _same_group(left: Rep, right: Rep) -> Group | None:
    if left.group is not None and right.group is not None and left.group != right.group:
        raise SofteqValueError(
            f"cannot combine representations of different groups: {left.group} and {right.group}; where each acts "
            "on an index of its own, bind Vector.of(0) * Vector.of(1) to softeq.groups.separate(G1, G2)"
        )
    return left.group or right.group


def _kron(a: Tensor, b: Tensor) -> Tensor:
    """Batched Kronecker product, ``(..., m, m)`` and ``(..., n, n)`` to ``(..., m n, m n)``."""
    product = torch.einsum("...ij,...kl->...ikjl", a, b)
    return product.reshape(*product.shape[:-4], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1])


def _block_diagonal(blocks: list[Tensor], like: Tensor) -> Tensor:
    size = sum(block.shape[-1] for block in blocks)
    out = like.new_zeros(*like.shape[:-2], size, size)
    start = 0
    for block in blocks:
        stop = start + block.shape[-1]
        out[..., start:stop, start:stop] = block
        start = stop
    return out
