"""Equivariant filters between lists of fields, in coordinates: the hard pathway of a steerable convolution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softeq._planar import filters_between, invariants_of

if TYPE_CHECKING:
    from escnn.group import Representation
    from escnn.gspaces import GSpace


class ExactConstants(nn.Module):
    """Constants in the module's dtype and on its device, rounded from float64 at every move, never saved."""

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._exact = dict(constants)
        for name, constant in constants.items():
            exact = constant.is_floating_point()
            value = constant.to(torch.get_default_dtype()) if exact else constant
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> ExactConstants:
        super()._apply(fn, recurse)
        for name, constant in self._exact.items():
            if constant.is_floating_point():
                # Not what a narrow dtype left of the buffer.
                setattr(self, name, constant.to(getattr(self, name)))
        return self


class Fields:
    """Which kinds of field a type is made of and where their channels are.

    Attributes:
        kinds: the different representations, in the order in which they first occur.
        copies: how often each occurs.
        order: ``(channels,)``, the channels sorted by kind; ``None`` where they are sorted already.
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
        self.order = None if order == list(range(self.size)) else torch.tensor(order)


class FilterBasis(ExactConstants):
    """Coordinates of the equivariant filters between two lists of fields, in an orthonormal basis.

    Args:
        rep_in, rep_out: the fields' representations.
        gspace: their group and how it acts on the plane.
        kernel_size, dilation: of the filter, in taps.
        options: for escnn's ``R2Conv``, see ``softeq._planar.OPTIONS``.

    Attributes:
        rank: of the basis; a filter is ``sum_n w_n E_n`` and ``||w||`` its Frobenius norm.
        start: standard deviations ``(rank,)`` at which every output field gets the variance that a standard
            ``nn.Conv2d`` gives, 1/3 of the mean square input.
    """

    def __init__(
        self,
        rep_in: Sequence[Representation],
        rep_out: Sequence[Representation],
        gspace: GSpace,
        kernel_size: int,
        dilation: int,
        options: Mapping[str, Any],
    ) -> None:
        fields_in, fields_out = Fields(rep_in), Fields(rep_out)
        constants: dict[str, Tensor] = {}
        for b, out in enumerate(fields_out.kinds):
            for a, inn in enumerate(fields_in.kinds):
                filters = filters_between(inn, out, gspace, kernel_size, dilation, options)
                constants[f"block_{b}_{a}"] = filters.flatten(1)
        for name, fields in (("in", fields_in), ("out", fields_out)):
            if fields.order is not None:
                constants[f"order_{name}"] = fields.order
                constants[f"place_{name}"] = fields.order.argsort()
        super().__init__(constants)
        self.shape = (fields_out.size, fields_in.size, kernel_size, kernel_size)
        # Without the representations: escnn's objects neither pickle nor need a copy in every layer.
        self.kinds_in = [(kind.size, n) for kind, n in zip(fields_in.kinds, fields_in.copies, strict=True)]
        self.kinds_out = [(kind.size, n) for kind, n in zip(fields_out.kinds, fields_out.copies, strict=True)]
        self.rank = sum(n * block.shape[0] for n, _, _, block in self._blocks())
        self.start = self._start()

    def _blocks(self) -> Iterator[tuple[int, int, int, Tensor]]:
        """Per pair of kinds, outputs first: how many pairs of fields, the kinds' numbers, and the basis."""
        for b, (_, n_out) in enumerate(self.kinds_out):
            for a, (_, n_in) in enumerate(self.kinds_in):
                yield n_out * n_in, b, a, getattr(self, f"block_{b}_{a}")

    def _start(self) -> Tensor:
        parts = []
        for b, (d_out, n_out) in enumerate(self.kinds_out):
            ranks = [getattr(self, f"block_{b}_{a}").shape[0] for a in range(len(self.kinds_in))]
            # The filters of an output field have this many coordinates, shared out among its d_out channels.
            count = sum(n_in * rank for (_, n_in), rank in zip(self.kinds_in, ranks, strict=True))
            parts.append(torch.full((n_out * count,), math.sqrt(d_out / (3 * max(count, 1)))))
        return torch.cat(parts)

    def _ordered(self, filters: Tensor, how: str) -> Tensor:
        """Channels put in the ``order`` of their kinds, or back in their ``place``."""
        for dim, side in enumerate(("out", "in")):
            index = getattr(self, f"{how}_{side}", None)
            filters = filters if index is None else filters.index_select(dim, index)
        return filters

    def expand(self, coordinates: Tensor) -> Tensor:
        """The filter with these coordinates: ``(rank,)`` to ``(out, in, k, k)``."""
        taps = self.shape[2] * self.shape[3]
        parts = coordinates.split([n * block.shape[0] for n, _, _, block in self._blocks()])
        rows: list[list[Tensor]] = [[] for _ in self.kinds_out]
        for part, (_, b, a, block) in zip(parts, self._blocks(), strict=True):
            (d_out, n_out), (d_in, n_in) = self.kinds_out[b], self.kinds_in[a]
            filters = part.view(n_out * n_in, -1) @ block.to(part.dtype) if len(block) else None
            if filters is None:
                rows[b].append(part.new_zeros(n_out * d_out, n_in * d_in, taps))
                continue
            apart = filters.view(n_out, n_in, d_out, d_in, taps).transpose(1, 2)
            rows[b].append(apart.reshape(n_out * d_out, n_in * d_in, taps))
        whole = torch.cat([torch.cat(row, 1) if len(row) > 1 else row[0] for row in rows])
        return self._ordered(whole, "place").view(self.shape)

    def coordinates_of(self, filters: Tensor) -> Tensor:
        """The coordinates of the projection of ``(out, in, k, k)``: ``(rank,)``."""
        ordered = self._ordered(filters.flatten(2), "order")
        rows = ordered.split([d * n for d, n in self.kinds_out])
        parts = [part for row in rows for part in row.split([d * n for d, n in self.kinds_in], 1)]
        found = []
        for part, (n, b, a, block) in zip(parts, self._blocks(), strict=True):
            (d_out, n_out), (d_in, n_in) = self.kinds_out[b], self.kinds_in[a]
            together = part.reshape(n_out, d_out, n_in, d_in, -1).transpose(1, 2).reshape(n, -1)
            found.append((together @ block.to(part.dtype).T).flatten())
        return torch.cat(found)

    def forward(self, filters: Tensor) -> Tensor:
        """The nearest equivariant filter in the Frobenius norm, ``(out, in, k, k)``."""
        return self.expand(self.coordinates_of(filters))


class BiasBasis(ExactConstants):
    """Coordinates of the biases that commute with the group: one per trivial irrep of the output.

    Attributes:
        rank: how many there are.
    """

    rows: Tensor

    def __init__(self, rep_out: Sequence[Representation], gspace: GSpace) -> None:
        own = {kind: invariants_of(kind, gspace) for kind in dict.fromkeys(rep_out)}
        super().__init__({"rows": torch.block_diag(*(own[rep] for rep in rep_out))})
        self.rank = len(self.rows)

    def expand(self, coordinates: Tensor) -> Tensor:
        """``(rank,)`` to ``(out,)``."""
        return coordinates @ self.rows.to(coordinates.dtype)

    def coordinates_of(self, bias: Tensor) -> Tensor:
        """``(out,)`` to ``(rank,)``."""
        return self.rows.to(bias.dtype) @ bias
