"""Equivariant maps between representations: their basis, and the orthogonal projection onto them.

A map W from rep_in to rep_out is equivariant when ``rho_out(g) W = W rho_in(g)`` for all g; its entries are then an
invariant tensor of rep_out times the dual of rep_in. Both reps are sums of tensor types, so the problem splits: one
solve per pair of types, whatever the multiplicities, and no matrix of shape (out * in, rank) is ever formed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from softeq._axes import word_shape
from softeq._blocks import Basis, Blocks, OrbitBasis
from softeq._cache import cached_invariants
from softeq._constants import Constants
from softeq._invariants import dense, rank_of
from softeq._kernels import add_projection, split_squared_norm
from softeq._orbits import Orbits
from softeq._type_layout import TypeLayout, map_places, sorted_map_word
from softeq.errors import SofteqValueError
from softeq.groups import Group
from softeq.groups._group import MAX_NUMBERS, in_bytes
from softeq.reps import Rep, Word, check_same_group

_DENSE_ORBITS = 2**16  # numbers of a basis up to which a matrix product is faster than sums over orbits


def type_pair_basis(group: Group, word_in: Word, word_out: Word) -> Tensor:
    """An orthonormal basis of the equivariant maps between two types, ``(rank, d_out, d_in)`` float64."""
    word, order = sorted_map_word(group, word_in, word_out)
    shape_out, shape_in = word_shape(group, word_out), word_shape(group, word_in)
    tensors = dense(cached_invariants(group, word)).reshape(-1, *word_shape(group, word))
    back = [order.index(axis) + 1 for axis in range(len(word))]
    return tensors.permute(0, *back).reshape(len(tensors), math.prod(shape_out), math.prod(shape_in))


class EquivariantProjector(nn.Module):
    """Orthogonal projection of weights ``(out, in)`` onto the equivariant maps.

    Blocks of the weight that are copies of the same tensor type (after sorting indices) are gathered into one matrix
    with a row per block, multiplied by that type's basis and scattered back: a few large operations, whatever the
    number of types. Entries at which every equivariant map is zero are never touched.

    It has neither parameters nor buffers: it computes on the weight's device and in its dtype, float32 at least, with
    constants that are rounded from float64.

    Raises:
        SofteqValueError: reps of different groups, unbound, or empty.
    """

    def __init__(self, rep_in: Rep, rep_out: Rep) -> None:
        super().__init__()
        group = check_same_group(rep_in, rep_out)
        self.shape = (rep_out.size, rep_in.size)
        self.layout_in, self.layout_out = TypeLayout.of(rep_in), TypeLayout.of(rep_out)
        self.ranks = {
            (b, a): rank_of(cached_invariants(group, sorted_map_word(group, word_in, word_out)[0]))
            for b, (word_out, _) in enumerate(self.layout_out.types)
            for a, (word_in, _) in enumerate(self.layout_in.types)
        }
        self.constants = Constants.of(_projection, rep_in, rep_out)
        self._shapes: list[list[int]] = self.constants.exact["shapes"].tolist()

    @property
    def rank(self) -> int:
        """The dimension of the space of equivariant maps, multiplicities included."""
        return sum(
            rank * self.layout_out.types[b][1] * self.layout_in.types[a][1] for (b, a), rank in self.ranks.items()
        )

    def forward(self, weight: Tensor, base: Tensor | None = None) -> Tensor:
        """``P(weight)``, or ``base + P(weight)``: ``(out, in)`` to ``(out, in)``, projected in float32 at least."""
        self._check(weight)
        return add_projection(base, weight, self._blocks(weight))

    def split_squared_norm(self, weight: Tensor, inside: float = 1.0, outside: float = 0.0) -> Tensor:
        """``inside ||P(W)||^2 + outside ||W - P(W)||^2``, a 0-d tensor, without forming ``P(W)``."""
        self._check(weight)
        return split_squared_norm(weight, self._blocks(weight), inside, outside)

    def _check(self, weight: Tensor) -> None:
        if weight.shape != self.shape:
            raise SofteqValueError(f"weight: expected shape {self.shape}, got {tuple(weight.shape)}")

    def _blocks(self, weight: Tensor) -> Blocks:
        found = self.constants.on(weight)
        bases: list[Basis] = []
        for index, (_, _, rank) in enumerate(self._shapes):
            basis: Basis = found.get(f"basis_{index}")
            if f"labels_{index}" in found:
                basis = OrbitBasis(found[f"labels_{index}"], found[f"weights_{index}"], rank)
            bases.append(basis)
        return Blocks(found["places"], [(rows, entries) for rows, entries, _ in self._shapes], bases)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"shape={self.shape}, rank={self.rank}"


def _projection(rep_in: Rep, rep_out: Rep) -> dict[str, Tensor]:
    """What the projection works with: flat places; per type rows, entries and rank; a basis where it is no identity."""
    group, layout_in, layout_out = rep_in.bound_group, TypeLayout.of(rep_in), TypeLayout.of(rep_out)
    gathered: dict[Word, list[Tensor]] = {}
    for b, (word_out, _) in enumerate(layout_out.types):
        for a, (word_in, _) in enumerate(layout_in.types):
            word, order = sorted_map_word(group, word_in, word_out)
            if rank_of(cached_invariants(group, word)):
                gathered.setdefault(word, []).append(map_places(layout_out, b, layout_in, a, order))
    found: dict[str, Tensor] = {}
    places, shapes = [torch.zeros(0, dtype=torch.int64)], []
    for index, (word, blocks) in enumerate(gathered.items()):
        rows, basis = torch.cat(blocks), cached_invariants(group, word)
        # Products of deltas are mostly zeros, and what no map touches need not be gathered.
        touched = basis.touched if isinstance(basis, Orbits) else (basis != 0).any(0)
        if not bool(touched.all()):
            rows = rows[:, touched]
            basis = basis.at(touched) if isinstance(basis, Orbits) else basis[:, touched]
        places.append(rows.flatten())
        entries, rank = rows.shape[1], rank_of(basis)
        shapes.append([len(rows), entries, rank])
        if rank == entries:  # scalars to scalars: every map is equivariant
            continue
        if isinstance(basis, Orbits) and rank * entries > _DENSE_ORBITS:
            found |= {f"labels_{index}": basis.labels, f"weights_{index}": basis.weights}
        else:
            found[f"basis_{index}"] = dense(basis).T.contiguous()
    return {**found, "places": torch.cat(places), "shapes": torch.tensor(shapes, dtype=torch.int64).view(-1, 3)}


def equivariant_projector(rep_in: Rep, rep_out: Rep) -> EquivariantProjector:
    """A callable that maps a weight ``(rep_out.size, rep_in.size)`` to the nearest equivariant one (Frobenius norm)."""
    return EquivariantProjector(rep_in, rep_out)


def equivariant_basis(rep_in: Rep, rep_out: Rep) -> Tensor:
    """An orthonormal basis of the equivariant maps, ``(rank, rep_out.size, rep_in.size)`` in float64, dense.

    For small reps, users and tests; layers use ``equivariant_projector``, which keeps the block structure.

    Raises:
        SofteqValueError: reps of different groups, unbound or empty, or a basis of more than 2 GiB.
    """
    projector = EquivariantProjector(rep_in, rep_out)
    out, inn = projector.shape
    if projector.rank * out * inn > MAX_NUMBERS:
        raise SofteqValueError(
            f"the dense basis would have shape ({projector.rank}, {out}, {inn}) and need "
            f"{in_bytes(projector.rank * out * inn)}, over {in_bytes(MAX_NUMBERS)}: use equivariant_projector"
        )
    layout_in, layout_out = projector.layout_in, projector.layout_out
    basis = torch.zeros(projector.rank, out, inn, dtype=torch.float64)
    k = 0
    for b, (word_out, _) in enumerate(layout_out.types):
        for a, (word_in, _) in enumerate(layout_in.types):
            maps = type_pair_basis(rep_in.bound_group, word_in, word_out)
            for rows in layout_out.places(b):
                for columns in layout_in.places(a):
                    basis[k : k + len(maps), rows[:, None], columns] = maps
                    k += len(maps)
    return basis
