"""Spaces of weights that act on copies of a few kinds of block alike: coordinates, and parts that are replaced.

The derivatives that a training step needs are written out, as in ``softeq._kernels``: automatic ones of gathers and
scatters read and write a whole weight for every node.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softeq._constants import Constants
from softeq._kernels import written_out


class BlockSpace:
    """A space of weights that acts on copies of a few kinds of block alike, in orthonormal coordinates.

    Args:
        shape: of a weight.
        constants: holds the tensors that `spaces` has made.
        name: under which it holds them.

    Attributes:
        rank: the number of coordinates; ``||coordinates||`` is the Frobenius norm of the weight.
    """

    def __init__(self, shape: tuple[int, ...], constants: Constants, name: str) -> None:
        self.shape, self.constants, self.name = shape, constants, name
        sizes = constants.exact[f"{name}.sizes"].tolist()
        self._sizes: list[tuple[int, int, int]] = [(rows, entries, rank) for rows, entries, rank in sizes]
        self.rank = sum(rows * rank for rows, _, rank in self._sizes)

    def expand(self, coordinates: Tensor, base: Tensor | None = None) -> Tensor:
        """``base`` plus the weight with these coordinates, ``(rank,)`` to ``shape``."""
        count = torch.Size(self.shape).numel()
        flat = coordinates.new_zeros(count) if base is None else base.reshape(-1)
        if self.rank:
            found = self.constants.on(coordinates)
            parts = coordinates.split([rows * rank for rows, _, rank in self._sizes])
            values = []
            for i, (part, (rows, _, rank)) in enumerate(zip(parts, self._sizes, strict=True)):
                basis = found[f"{self.name}.basis_{i}"]
                values.append((part.view(rows, rank).to(basis.dtype) @ basis).flatten())
            flat = flat.scatter_add(0, found[f"{self.name}.places"], torch.cat(values).to(flat.dtype))
        return flat.view(self.shape)

    def coordinates_of(self, weight: Tensor) -> Tensor:
        """The coordinates of the projection of a weight, ``shape`` to ``(rank,)``."""
        if not self.rank:
            return weight.new_zeros(0)
        found = self.constants.on(weight)
        gathered = weight.reshape(-1).index_select(0, found[f"{self.name}.places"])
        coordinates = []
        parts = gathered.split([rows * entries for rows, entries, _ in self._sizes])
        for i, (part, (rows, entries, _)) in enumerate(zip(parts, self._sizes, strict=True)):
            basis = found[f"{self.name}.basis_{i}"]
            coordinates.append((part.view(rows, entries).to(basis.dtype) @ basis.T).flatten())
        return torch.cat(coordinates).to(weight.dtype)

    def without(self, weight: Tensor) -> Tensor:
        """A weight less its projection, its own adjoint."""
        if written_out() or not self.rank:
            return self._replaced(weight, None)
        return _Without.apply(weight, self)

    def replaced(self, weight: Tensor, coordinates: Tensor) -> Tensor:
        """A weight with the part that lies in this space replaced by the one with these coordinates."""
        if written_out() or not self.rank:
            return self._replaced(weight, coordinates)
        return _Replaced.apply(weight, coordinates, self)

    def _replaced(self, weight: Tensor, coordinates: Tensor | None) -> Tensor:
        own = self.coordinates_of(weight)
        return self.expand(-own if coordinates is None else coordinates - own, weight)

    def nearest(self, weight: Tensor) -> Tensor:
        """The orthogonal projection of a weight."""
        return self.expand(self.coordinates_of(weight))


class _Without(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, space: BlockSpace) -> Tensor:
        return space._replaced(weight, None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.space = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.space._replaced(grad, None), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return ctx.space._replaced(tangent, None)


class _Replaced(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, coordinates: Tensor, space: BlockSpace) -> Tensor:
        return space._replaced(weight, coordinates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.space = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        own = ctx.space.coordinates_of(grad)
        return ctx.space.expand(-own, grad), own, None

    @staticmethod
    def jvp(ctx: Any, weight: Tensor, coordinates: Tensor, *_: None) -> Tensor:
        return ctx.space._replaced(weight, coordinates)
