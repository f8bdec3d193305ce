"""Equivariant maps between representations: their basis, and the orthogonal projection onto them.

A map W from rep_in to rep_out is equivariant when ``rho_out(g) W = W rho_in(g)`` for all g; its entries are then an
invariant tensor of rep_out times the dual of rep_in. Both reps are sums of tensor types, so the problem splits: one
solve per pair of types, whatever the multiplicities, and no matrix of shape (out * in, rank) is ever formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softeq._cache import cached_invariants
from softeq._constants import Constants
from softeq._kernels import Blocks, add_projection, split_squared_norm
from softeq.errors import SofteqValueError
from softeq.groups import Group
from softeq.reps import Rep, Word, check_same_group, dual_word

_DENSE_BASIS_LIMIT = 2**28  # float64 entries of equivariant_basis: 2 GiB


def canonical_word(group: Group, word: Word) -> Word:
    """The word that stands for this type: under an orthogonal group a dual index moves as a vector index does."""
    return (True,) * len(word) if group.is_orthogonal else word


def sorted_map_word(group: Group, word_in: Word, word_out: Word) -> tuple[Word, tuple[int, ...]]:
    """The word on which maps between two types live, vector indices first, and the axis order that sorts it.

    Pairs of types that differ in index order alone so share one solve.
    """
    word = canonical_word(group, word_out + dual_word(word_in))
    order = tuple(sorted(range(len(word)), key=lambda axis: not word[axis]))
    return tuple(word[axis] for axis in order), order


def type_pair_basis(group: Group, word_in: Word, word_out: Word) -> Tensor:
    """An orthonormal basis of the equivariant maps between two types, ``(rank, d_out, d_in)`` float64."""
    word, order = sorted_map_word(group, word_in, word_out)
    tensors = cached_invariants(group, word).reshape(-1, *[group.d] * len(word))
    back = [order.index(axis) + 1 for axis in range(len(word))]
    return tensors.permute(0, *back).reshape(len(tensors), group.d ** len(word_out), group.d ** len(word_in))


@dataclass(frozen=True)
class TypeLayout:
    """A rep's coordinates sorted by type: ``types`` with multiplicities, and where in the rep their copies lie."""

    types: tuple[tuple[Word, int], ...]
    order: tuple[tuple[int, ...], ...]
    d: int

    @staticmethod
    def of(rep: Rep) -> TypeLayout:
        """The layout of a bound rep; types keep the order of their first appearance."""
        group = rep.bound_group
        places: dict[Word, list[int]] = {}
        counts: dict[Word, int] = {}
        start = 0
        for word, multiplicity in rep.terms:
            size = multiplicity * group.d ** len(word)
            key = canonical_word(group, word)
            places.setdefault(key, []).extend(range(start, start + size))
            counts[key] = counts.get(key, 0) + multiplicity
            start += size
        return TypeLayout(tuple(counts.items()), tuple(tuple(of_type) for of_type in places.values()), group.d)

    @property
    def sizes(self) -> list[int]:
        """Coordinates per type, multiplicities included."""
        return [multiplicity * self.d ** len(word) for word, multiplicity in self.types]

    def places(self, index: int) -> Tensor:
        """Where the coordinates of a type lie, ``(multiplicity, d ** indices)``."""
        return torch.tensor(self.order[index], dtype=torch.int64).view(self.types[index][1], -1)


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
            (b, a): len(cached_invariants(group, sorted_map_word(group, word_in, word_out)[0]))
            for b, (word_out, _) in enumerate(self.layout_out.types)
            for a, (word_in, _) in enumerate(self.layout_in.types)
        }
        self.constants = Constants.of(_projection, rep_in, rep_out)
        self._row_shapes: list[tuple[int, int]] = [(n, m) for n, m in self.constants.exact["shapes"].tolist()]

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
        bases = [found.get(f"basis_{index}") for index in range(len(self._row_shapes))]
        return Blocks(found["places"], self._row_shapes, bases)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"shape={self.shape}, rank={self.rank}"


def _projection(rep_in: Rep, rep_out: Rep) -> dict[str, Tensor]:
    """What the projection works with: flat places, per type the rows' shape, and a basis where it is no identity."""
    group, layout_in, layout_out = rep_in.bound_group, TypeLayout.of(rep_in), TypeLayout.of(rep_out)
    gathered: dict[Word, list[Tensor]] = {}
    for b, (word_out, _) in enumerate(layout_out.types):
        for a, (word_in, _) in enumerate(layout_in.types):
            word, order = sorted_map_word(group, word_in, word_out)
            if len(cached_invariants(group, word)):
                gathered.setdefault(word, []).append(_places(layout_out, b, layout_in, a, order))
    found: dict[str, Tensor] = {}
    places, shapes = [torch.zeros(0, dtype=torch.int64)], []
    for index, (word, blocks) in enumerate(gathered.items()):
        rows, basis = torch.cat(blocks), cached_invariants(group, word)
        # Products of deltas are mostly zeros, and what no map touches need not be gathered.
        touched = (basis != 0).any(0)
        rows, basis = rows[:, touched], basis[:, touched]
        places.append(rows.flatten())
        shapes.append(rows.shape)
        if len(basis) < basis.shape[1]:  # elsewhere (scalars to scalars) every map is equivariant
            found[f"basis_{index}"] = basis.T.contiguous()
    return {**found, "places": torch.cat(places), "shapes": torch.tensor(shapes, dtype=torch.int64).view(-1, 2)}


def _places(layout_out: TypeLayout, b: int, layout_in: TypeLayout, a: int, axis_order: tuple[int, ...]) -> Tensor:
    """Flat places of all blocks of a pair of types, ``(m_out m_in, d_out d_in)``, tensor axes sorted."""
    rows, columns = layout_out.places(b), layout_in.places(a)
    flat = rows[:, None, :, None] * sum(layout_in.sizes) + columns[None, :, None, :]
    tensors = flat.reshape(-1, *[layout_in.d] * len(axis_order))
    return tensors.permute(0, *(axis + 1 for axis in axis_order)).reshape(len(tensors), -1)


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
    if projector.rank * out * inn > _DENSE_BASIS_LIMIT:
        raise SofteqValueError(
            f"the dense basis would have shape ({projector.rank}, {out}, {inn}), over 2 GiB: use equivariant_projector"
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
