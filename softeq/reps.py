"""Representations: how the coordinates of a feature vector move under a group.

A representation is an ordered direct sum of tensor types. A type is a word in ``V`` (vector index) and ``V*`` (dual
index): ``Scalar`` is the empty word, ``Vector`` is ``V``, ``T(p, q)`` has p vector indices and then q dual ones. The
coordinates of a type are its tensor's entries in row-major order; those of a sum are the blocks one after the other.

Write a representation first and bind it to a group after: ``rep = (5 * Scalar + 5 * Vector)(O(3))``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import Group

Word = tuple[bool, ...]
"""A tensor type: ``True`` for each vector index, ``False`` for each dual one."""


def dual_word(word: Word) -> Word:
    """The type on which the dual space's tensors live: each index turned into its dual, order kept."""
    return tuple(not vector for vector in word)


def word_name(word: Word) -> str:
    """``Scalar``, ``Vector``, ``T(p)``, ``T(p, q)``, or the word itself where dual indices come before vector ones."""
    p, q = sum(word), len(word) - sum(word)
    if word != (True,) * p + (False,) * q:
        return " x ".join("V" if vector else "V*" for vector in word)
    if len(word) == 0:
        return "Scalar"
    return "Vector" if (p, q) == (1, 0) else (f"T({p})" if q == 0 else f"T({p}, {q})")


class Rep:
    """An ordered direct sum of tensor types, each with a multiplicity; bound to a group or not yet.

    Args:
        terms: pairs of a word and its multiplicity, in the order of the coordinates.
        group: the group that acts; ``None`` leaves the representation unbound (see ``__call__``).
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
        d = self.bound_group.d
        return sum(multiplicity * d ** len(word) for word, multiplicity in self.terms)

    @property
    def dual(self) -> Rep:
        """The dual representation, rho*(g) = rho(g)^-T."""
        return Rep([(dual_word(word), multiplicity) for word, multiplicity in self.terms], self.group)

    def rho(self, g: Tensor) -> Tensor:
        """The matrices of group elements: ``(..., d, d)`` to ``(..., size, size)``, in the dtype of ``g``."""
        g = self._check_square("g", g)
        dual = torch.linalg.inv(g).mT if any(False in word for word, _ in self.terms) else g
        blocks = []
        for word, multiplicity in self.terms:
            block = g.new_ones(*g.shape[:-2], 1, 1)
            for vector in word:
                block = _kron(block, g if vector else dual)
            blocks.extend([block] * multiplicity)
        return _block_diagonal(blocks, g)

    def drho(self, A: Tensor) -> Tensor:
        """The matrices of Lie algebra elements: ``(..., d, d)`` to ``(..., size, size)``; d/dt rho(exp(t A)) at 0."""
        A = self._check_square("A", A)
        eye = torch.eye(self.bound_group.d, dtype=A.dtype, device=A.device)
        blocks = []
        for word, multiplicity in self.terms:
            block, identity = A.new_zeros(*A.shape[:-2], 1, 1), A.new_ones(1, 1)
            for vector in word:
                block = _kron(block, eye) + _kron(identity, A if vector else -A.mT)
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

    def __add__(self, other: Rep) -> Rep:
        if not isinstance(other, Rep):
            return NotImplemented
        return Rep(self.terms + other.terms, _same_group(self, other))

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rep) and self.terms == other.terms and self.group == other.group

    def __hash__(self) -> int:
        return hash((self.terms, self.group))

    def __repr__(self) -> str:
        named = [word_name(word) if m == 1 else f"{m}*{word_name(word)}" for word, m in self.terms]
        text = " + ".join(named) or "0"
        return text if self.group is None else f"({text})({self.group})"


Scalar = Rep([((), 1)])
"""An invariant coordinate."""

Vector = Rep([((True,), 1)])
"""A vector of the group's defining space."""


def T(p: int, q: int = 0) -> Rep:
    """The tensor type with p vector and q dual indices; ``T(0)`` is ``Scalar`` and ``T(1)`` is ``Vector``."""
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SofteqValueError(f"T(p, q): expected integers of at least 0, got {name} = {value!r}")
    return Rep([((True,) * p + (False,) * q, 1)])


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


def _same_group(left: Rep, right: Rep) -> Group | None:
    if left.group is not None and right.group is not None and left.group != right.group:
        raise SofteqValueError(f"cannot combine representations of different groups: {left.group} and {right.group}")
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
