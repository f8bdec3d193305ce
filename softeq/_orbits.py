"""Invariants of signed permutations in closed form: one for each orbit of tensor entries on which signs agree.

Where every generator permutes the entries of a tensor up to signs, an invariant tensor is constant, up to the signs
picked up on the way, on each orbit of entries. An orbit on which a way back to an entry picks up a minus carries none.
Orbits are the connected components of a graph: n numbers and a few passes over them, no matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq._axes import Axis


@dataclass(frozen=True)
class Orbits:
    """A basis whose k-th tensor has the entries ``weights[labels == k]``, and zeros elsewhere.

    Attributes:
        labels: ``(n,)`` int64, which tensor an entry belongs to.
        weights: ``(n,)`` float64, its value there; 0 for an entry at which every invariant is zero.
        rank: how many tensors.
    """

    labels: Tensor
    weights: Tensor
    rank: int

    @property
    def entries(self) -> int:
        """How many entries a tensor has."""
        return len(self.labels)

    @property
    def touched(self) -> Tensor:
        """At which entries some tensor is not zero, ``(n,)``."""
        return self.weights != 0

    def dense(self) -> Tensor:
        """``(rank, n)`` float64."""
        out = self.weights.new_zeros(self.rank, self.entries)
        if self.rank:
            out[self.labels, torch.arange(self.entries)] = self.weights
        return out

    def at(self, where: Tensor) -> Orbits:
        """The entries ``where`` (a mask or indices) alone."""
        return Orbits(self.labels[where], self.weights[where], self.rank)

    def times(self, other: Orbits) -> Orbits:
        """Products of the tensors, those of ``other`` running faster, entries in row-major order."""
        labels = self.labels[:, None] * max(other.rank, 1) + other.labels
        weights = self.weights[:, None] * other.weights
        return Orbits(labels.flatten(), weights.flatten(), self.rank * other.rank)


def orbits(axes: Sequence[Axis]) -> Orbits:
    """The orbits of the entries of a tensor whose every axis is permuted up to signs; at least one axis."""
    generators = []
    for index in range(len(axes[0].discrete)):
        targets, signs = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
        for axis in axes:
            moves = axis.signed_permutations
            if moves is None:
                raise ValueError("orbits: an axis is moved by more than signed permutations")
            targets = (targets[:, None] * axis.size + moves[0][index]).flatten()
            signs = (signs[:, None] * moves[1][index]).flatten()
        generators.append((targets, signs))
    n = 1
    for axis in axes:
        n *= axis.size
    return _of_generators(n, generators)


def _of_generators(n: int, generators: Sequence[tuple[Tensor, Tensor]]) -> Orbits:
    signed = any(bool((signs < 0).any()) for _, signs in generators)
    if not signed:
        root, weights = _components(n, [targets for targets, _ in generators]), torch.ones(n, dtype=torch.float64)
    else:
        # Entry i stands at i with a plus and at n + i with a minus; a generator that flips signs changes sides.
        doubled = []
        for targets, signs in generators:
            up = torch.where(signs > 0, targets, targets + n)
            doubled.append(torch.cat([up, (up + n) % (2 * n)]))
        both = _components(2 * n, doubled)
        plus, minus = both[:n], both[n:]
        # Roots are the least members, so an orbit without contradiction has one below n on exactly one side.
        weights = torch.where(plus == minus, 0.0, torch.where(plus < minus, 1.0, -1.0)).double()
        root = torch.minimum(plus, minus)
    roots = root[(root == torch.arange(n)) & (weights != 0)]
    labels = torch.zeros(n, dtype=torch.int64)
    labels[roots] = torch.arange(len(roots))
    labels = labels[root]
    sizes = torch.zeros(max(len(roots), 1), dtype=torch.float64).index_add_(0, labels, weights.abs())
    return Orbits(labels * (weights != 0), weights / sizes[labels].clamp_min(1.0).sqrt(), len(roots))


def _components(n: int, permutations: Sequence[Tensor]) -> Tensor:
    """The least member of each entry's connected component, ``(n,)``: roots hooked onto lesser ones, paths halved."""
    root = torch.arange(n)
    while True:
        before = root
        for targets in permutations:
            there = root[targets]
            low, high = torch.minimum(root, there), torch.maximum(root, there)
            root = root.scatter_reduce(0, high, low, "amin")
            while bool((root[root] != root).any()):
                root = root[root]
        if torch.equal(root, before):
            return root
