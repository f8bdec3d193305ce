"""Equivariant filters between lists of fields, in coordinates: the hard pathway of a steerable convolution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softeq._constants import Constants
from softeq._grid_filters import filters_between, invariants_of
from softeq._grid_types import GridType

if TYPE_CHECKING:
    from escnn.group import Representation


class Fields:
    """Which kinds of field a type is made of and where their channels are.

    Attributes:
        kinds: the different representations, in the order in which they first occur.
        copies: how often each occurs.
        order: the channels sorted by kind; ``None`` where they are sorted already.
    """

    def __init__(self, representations: Sequence[Representation]) -> None:
        self.kinds = list(dict.fromkeys(representations))
        self.copies = [sum(rep == kind for rep in representations) for kind in self.kinds]
        self.size = sum(rep.size for rep in representations)
        channels: list[list[int]] = [[] for _ in self.kinds]
        start = 0
        for rep in representations:
            channels[self.kinds.index(rep)] += range(start, start + rep.size)
            start += rep.size
        order = [channel for kind in channels for channel in kind]
        self.order = None if order == list(range(self.size)) else order


class FilterBasis(nn.Module):
    """Coordinates of the equivariant filters between two lists of fields, in an orthonormal basis.

    Args:
        type_in, type_out: the fields, of one group.
        kernel_size, dilation: of the filter, in taps.
        options: for escnn's ``R2Conv`` or ``R3Conv``, see ``softeq._grid_filters.OPTIONS``.

    Attributes:
        rank: of the basis; a filter is ``sum_n w_n E_n`` and ``||w||`` its Frobenius norm.
        start: standard deviations ``(rank,)`` at which every output field gets the variance that a standard
            ``nn.Conv2d`` gives, 1/3 of the mean square input.
    """

    def __init__(
        self,
        type_in: GridType,
        type_out: GridType,
        kernel_size: int,
        dilation: int,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        fields_in, fields_out = Fields(type_in.representations), Fields(type_out.representations)
        chosen = tuple((name, _hashable(value)) for name, value in sorted(options.items()))
        self.constants = Constants.of(_filters, type_in, type_out, kernel_size, dilation, chosen)
        exact = self.constants.exact
        self.ranks = {
            (b, a): len(exact[f"block_{b}_{a}"])
            for b in range(len(fields_out.kinds))
            for a in range(len(fields_in.kinds))
        }
        self.shape = (fields_out.size, fields_in.size, *[kernel_size] * type_in.gspace.dimensionality)
        self.kinds_in = [(kind.size, n) for kind, n in zip(fields_in.kinds, fields_in.copies, strict=True)]
        self.kinds_out = [(kind.size, n) for kind, n in zip(fields_out.kinds, fields_out.copies, strict=True)]
        self.rank = sum(n * rank for n, _, _, rank in self._blocks())
        self.start = self._start()

    def _blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """Per pair of kinds, outputs first: how many pairs of fields, the kinds' numbers, and the rank between them."""
        for b, (_, n_out) in enumerate(self.kinds_out):
            for a, (_, n_in) in enumerate(self.kinds_in):
                yield n_out * n_in, b, a, self.ranks[b, a]

    def _start(self) -> Tensor:
        parts = []
        for b, (d_out, n_out) in enumerate(self.kinds_out):
            # The filters of an output field have this many coordinates, shared out among its d_out channels.
            count = sum(n_in * self.ranks[b, a] for a, (_, n_in) in enumerate(self.kinds_in))
            parts.append(torch.full((n_out * count,), math.sqrt(d_out / (3 * max(count, 1)))))
        return torch.cat(parts)

    def _ordered(self, filters: Tensor, how: str) -> Tensor:
        """Channels put in the ``order`` of their kinds, or back in their ``place``."""
        found = self.constants.on(filters)
        for dim, side in enumerate(("out", "in")):
            index = found.get(f"{how}_{side}")
            filters = filters if index is None else filters.index_select(dim, index)
        return filters

    def expand(self, coordinates: Tensor) -> Tensor:
        """The filter with these coordinates: ``(rank,)`` to ``(out, in, *kernel)``."""
        taps, found = math.prod(self.shape[2:]), self.constants.on(coordinates)
        parts = coordinates.split([n * rank for n, _, _, rank in self._blocks()])
        rows: list[list[Tensor]] = [[] for _ in self.kinds_out]
        for part, (_, b, a, rank) in zip(parts, self._blocks(), strict=True):
            (d_out, n_out), (d_in, n_in) = self.kinds_out[b], self.kinds_in[a]
            if not rank:
                rows[b].append(part.new_zeros(n_out * d_out, n_in * d_in, taps))
                continue
            filters = part.view(n_out * n_in, -1) @ found[f"block_{b}_{a}"].to(part.dtype)
            apart = filters.view(n_out, n_in, d_out, d_in, taps).transpose(1, 2)
            rows[b].append(apart.reshape(n_out * d_out, n_in * d_in, taps))
        whole = torch.cat([torch.cat(row, 1) if len(row) > 1 else row[0] for row in rows])
        return self._ordered(whole, "place").view(self.shape)

    def coordinates_of(self, filters: Tensor) -> Tensor:
        """The coordinates of the projection of ``(out, in, *kernel)``: ``(rank,)``."""
        constants = self.constants.on(filters)
        ordered = self._ordered(filters.flatten(2), "order")
        rows = ordered.split([d * n for d, n in self.kinds_out])
        parts = [part for row in rows for part in row.split([d * n for d, n in self.kinds_in], 1)]
        found = []
        for part, (n, b, a, _) in zip(parts, self._blocks(), strict=True):
            (d_out, n_out), (d_in, n_in) = self.kinds_out[b], self.kinds_in[a]
            together = part.reshape(n_out, d_out, n_in, d_in, -1).transpose(1, 2).reshape(n, -1)
            found.append((together @ constants[f"block_{b}_{a}"].to(part.dtype).T).flatten())
        return torch.cat(found)

    def forward(self, filters: Tensor) -> Tensor:
        """The nearest equivariant filter in the Frobenius norm, ``(out, in, *kernel)``."""
        return self.expand(self.coordinates_of(filters))


class BiasBasis(nn.Module):
    """Coordinates of the biases that commute with the group: one per trivial irrep of the output.

    Attributes:
        rank: how many there are.
    """

    def __init__(self, type_out: GridType) -> None:
        super().__init__()
        self.constants = Constants.of(_biases, type_out)
        self.rank = len(self.constants.exact["rows"])

    def expand(self, coordinates: Tensor) -> Tensor:
        """``(rank,)`` to ``(out,)``."""
        return coordinates @ self.constants.on(coordinates)["rows"].to(coordinates.dtype)

    def coordinates_of(self, bias: Tensor) -> Tensor:
        """``(out,)`` to ``(rank,)``."""
        return self.constants.on(bias)["rows"].to(bias.dtype) @ bias


def _filters(
    type_in: GridType,
    type_out: GridType,
    kernel_size: int,
    dilation: int,
    options: Sequence[tuple[str, Any]],
) -> dict[str, Tensor]:
    """Per pair of kinds of field its filters, flat; and the channels' order where they are not sorted by kind."""
    sides = {"in": Fields(type_in.representations), "out": Fields(type_out.representations)}
    own = {name: list(value) if isinstance(value, tuple) else value for name, value in options}
    found: dict[str, Tensor] = {}
    for b, out in enumerate(sides["out"].kinds):
        for a, inn in enumerate(sides["in"].kinds):
            filters = filters_between(inn, out, type_in.gspace, kernel_size, dilation, own)
            found[f"block_{b}_{a}"] = filters.flatten(1)
    for name, fields in sides.items():
        if fields.order is not None:
            found[f"order_{name}"] = torch.tensor(fields.order)
            found[f"place_{name}"] = torch.tensor(fields.order).argsort()
    return found


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _biases(type_out: GridType) -> dict[str, Tensor]:
    own = {kind: invariants_of(kind, type_out.gspace) for kind in dict.fromkeys(type_out.representations)}
    return {"rows": torch.block_diag(*(own[rep] for rep in type_out.representations))}
