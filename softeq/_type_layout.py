"""Where the tensor types of a representation lie, and on which tensors the maps between two types live."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq._axes import canonical_factor, word_shape
from softeq._factors import Word
from softeq._rep import Rep, dual_word
from softeq.groups import Group


def canonical_word(group: Group, word: Word) -> Word:
    """The word that stands for this type: where an index is orthogonal, its dual moves as it does."""
    return tuple(canonical_factor(group, factor) for factor in word)


def sorted_map_word(group: Group, word_in: Word, word_out: Word) -> tuple[Word, tuple[int, ...]]:
    """The word on which maps between two types live, like indices together, and the axis order that sorts it.

    Pairs of types that differ in index order alone so share one solve.
    """
    word = canonical_word(group, word_out + dual_word(word_in))
    order = tuple(sorted(range(len(word)), key=lambda axis: word[axis].name))
    return tuple(word[axis] for axis in order), order


@dataclass(frozen=True)
class TypeLayout:
    """A rep's coordinates sorted by type.

    Attributes:
        types: each type with its multiplicity, in the order of their first appearance.
        shapes: of each type's tensors.
        order: for each type, where in the rep its copies lie.
    """

    types: tuple[tuple[Word, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    order: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(rep: Rep) -> TypeLayout:
        """The layout of a bound rep."""
        group = rep.bound_group
        places: dict[Word, list[int]] = {}
        counts: dict[Word, int] = {}
        start = 0
        for word, multiplicity in rep.terms:
            size = multiplicity * math.prod(word_shape(group, word))
            key = canonical_word(group, word)
            places.setdefault(key, []).extend(range(start, start + size))
            counts[key] = counts.get(key, 0) + multiplicity
            start += size
        shapes = tuple(word_shape(group, word) for word in counts)
        return TypeLayout(tuple(counts.items()), shapes, tuple(tuple(of_type) for of_type in places.values()))

    @property
    def dims(self) -> list[int]:
        """Coordinates of one tensor of each type."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def sizes(self) -> list[int]:
        """Coordinates per type, multiplicities included."""
        return [multiplicity * dim for (_, multiplicity), dim in zip(self.types, self.dims, strict=True)]

    def places(self, index: int) -> Tensor:
        """Where the coordinates of a type lie, ``(multiplicity, coordinates)``."""
        return torch.tensor(self.order[index], dtype=torch.int64).view(self.types[index][1], -1)


def map_places(layout_out: TypeLayout, b: int, layout_in: TypeLayout, a: int, axis_order: tuple[int, ...]) -> Tensor:
    """Flat places in a weight of all blocks of a pair of types, ``(m_out m_in, d_out d_in)``, tensor axes sorted."""
    rows, columns = layout_out.places(b), layout_in.places(a)
    flat = rows[:, None, :, None] * sum(layout_in.sizes) + columns[None, :, None, :]
    tensors = flat.reshape(-1, *layout_out.shapes[b], *layout_in.shapes[a])
    return tensors.permute(0, *(axis + 1 for axis in axis_order)).reshape(len(tensors), -1)
