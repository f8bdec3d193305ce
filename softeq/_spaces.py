"""What inputs and outputs are, and how group elements transform them: for the checks of `softeq.testing`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.reps import Rep, check_same_group


@runtime_checkable
class Space(Protocol):
    """Inputs or outputs of a function, with a group acting on them."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` random inputs, in float64."""

    def elements(self, n: int, generator: torch.Generator) -> Sequence[Any]:
        """``n`` random group elements, as ``act`` takes them."""

    def act(self, element: Any, x: Tensor) -> Tensor:
        """One input or output, without the batch axis, transformed; NaN where an output is not known."""


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Vectors:
    """Vectors ``(..., rep.size)`` under a representation of a matrix group."""

    rep: Rep

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal, ``(n, size)``."""
        return _normal((n, self.rep.size), generator)

    def elements(self, n: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Of the group, ``(d, d)`` each."""
        return list(self.rep.bound_group.sample(n, generator))

    def act(self, element: Tensor, x: Tensor) -> Tensor:
        """``rho(g) x``."""
        return x @ self.rep.rho(element).T


@dataclass(frozen=True)
class IrrepsVectors:
    """Vectors ``(..., irreps.dim)`` in e3nn's layout, under rotations and the inversion."""

    irreps: Any

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal, ``(n, dim)``."""
        return _normal((n, self.irreps.dim), generator)

    def elements(self, n: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Of O(3), ``(3, 3)`` each."""
        from softeq.groups import O

        return list(O(3).sample(n, generator))

    def act(self, element: Tensor, x: Tensor) -> Tensor:
        """``D(g) x``."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # in which e3nn then makes its matrices
        try:
            return x @ self.irreps.D_from_matrix(element).T
        finally:
            torch.set_default_dtype(before)


@dataclass(frozen=True)
class GridFields:
    """Fields ``(..., channels, side, side)``, or over a cube, of an escnn type, under what maps the grid to itself."""

    type: Any
    side: int

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal, ``(n, channels, side, side)``."""
        return _normal((n, self.type.size, *[self.side] * self.type.gspace.dimensionality), generator)

    def elements(self, n: int, generator: torch.Generator) -> Sequence[Any]:
        """Quarter turns and flips, as far as they belong to the group."""
        from softeq._grid_filters import symmetries_of_the_grid

        found = symmetries_of_the_grid(self.type.gspace)
        return [found[int(i)] for i in torch.randint(len(found), (n,), generator=generator)]

    def act(self, element: Any, x: Tensor) -> Tensor:
        """The pixels moved, the channels mixed."""
        from softeq._grid_filters import move_pixels

        g, matrix = element
        blocks = [torch.as_tensor(rep(g), dtype=torch.float64) for rep in self.type.representations]
        return torch.einsum("oi,i...->o...", torch.block_diag(*blocks), move_pixels(x, matrix))


@dataclass(frozen=True)
class Shifts:
    """Images ``(..., H, W)``, series or volumes under shifts by whole multiples of a step.

    Args:
        shape: of an image, ``(..., H, W)``.
        step: pixels per unit of a shift along each of the last axes, as many as there are steps: of an input what a
            stride makes one of an output.
        fill: what comes in at the border; ``None`` what left on the other side. 0 for an input, NaN for an output.
            Where something comes in, shifts go towards the ends by at most one unit, and inputs have zeros to lose.
    """

    shape: tuple[int, ...]
    step: tuple[int, ...] = (1, 1)
    fill: float | None = None

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal, ``(n, ..., H, W)``."""
        x = _normal((n, *self.shape), generator)
        one = (1,) * len(self.step)
        return x if self.fill is None else self.act(tuple(-k for k in one), self.act(one, x))

    def elements(self, n: int, generator: torch.Generator) -> Sequence[tuple[int, ...]]:
        """Units towards the ends, per axis."""
        sizes = zip(self.shape[-len(self.step) :], self.step, strict=True)
        most = [1 if self.fill is not None else max(m // s - 1, 0) for m, s in sizes]
        each = [torch.randint(m + 1, (n,), generator=generator).tolist() for m in most]
        return list(zip(*each, strict=True))

    def act(self, element: tuple[int, ...], x: Tensor) -> Tensor:
        """Shifted."""
        for dim, units, step in zip(range(-len(self.step), 0), element, self.step, strict=True):
            x = x.roll(units * step, dim)
            if self.fill is not None and units:
                gone = x.narrow(dim, 0 if units > 0 else x.shape[dim] - abs(units * step), abs(units * step))
                gone.fill_(self.fill)
        return x


@dataclass(frozen=True)
class TokenShifts:
    """Tokens ``(..., prefix + H * W, dim)`` under shifts of their grid; see `Shifts` for ``fill``."""

    dim: int
    size: tuple[int, int]
    prefix: int = 0
    fill: float | None = None

    @property
    def grid(self) -> Shifts:
        """The tokens of the grid, as an image."""
        return Shifts((self.dim, *self.size), fill=self.fill)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal, ``(n, tokens, dim)``."""
        grid = self.grid.draw(n, generator).flatten(2).mT
        return torch.cat([_normal((n, self.prefix, self.dim), generator), grid], 1)

    def elements(self, n: int, generator: torch.Generator) -> Sequence[tuple[int, ...]]:
        """Tokens down and right."""
        return self.grid.elements(n, generator)

    def act(self, element: tuple[int, ...], x: Tensor) -> Tensor:
        """Shifted; the prefix stays."""
        prefix, grid = x.split([self.prefix, len(x) - self.prefix])
        moved = self.grid.act(element, grid.T.unflatten(1, self.size))
        return torch.cat([prefix, moved.flatten(1).T])


@dataclass(frozen=True)
class Invariant:
    """Inputs or outputs of a shape that the group leaves alone; elements come from the other inputs."""

    shape: tuple[int, ...]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal, ``(n, *shape)``."""
        return _normal((n, *self.shape), generator)

    def elements(self, n: int, generator: torch.Generator) -> Sequence[None]:
        """None at all: alone it has no group."""
        raise SofteqValueError("space: expected an input on which the group acts, got invariant ones alone")

    def act(self, element: Any, x: Tensor) -> Tensor:
        """As it was."""
        return x


def as_space(value: Any, name: str) -> Space:
    """``value`` as a space: a `Rep`, irreps of e3nn or their text, or a space already.

    Raises:
        SofteqTypeError: something else.
    """
    if isinstance(value, Rep):
        return Vectors(value)
    if isinstance(value, Space):
        return value
    if isinstance(value, str) or type(value).__name__ == "Irreps":
        from softeq.irreps import as_irreps

        return IrrepsVectors(as_irreps(value, name))
    raise SofteqTypeError(f"{name}: expected a Rep, e3nn irreps, or a space of softeq.testing, got {value!r}")


def check_spaces(spaces_in: Sequence[Space], space_out: Space) -> None:
    """Raises where input and output are under different groups, as far as that can be told."""
    for space in spaces_in:
        if isinstance(space, Vectors) and isinstance(space_out, Vectors):
            check_same_group(space.rep, space_out.rep)


def spaces_of(layer: Any, inputs: Sequence[Tensor]) -> tuple[tuple[Space, ...], Space] | None:
    """The input's and the output's space of a layer of ours, or of one with attributes named alike; else ``None``."""
    if hasattr(layer, "rep_in") and hasattr(layer, "rep_out"):
        return (Vectors(layer.rep_in),), Vectors(layer.rep_out)
    if hasattr(layer, "irreps_in") and hasattr(layer, "irreps_out"):
        return (IrrepsVectors(layer.irreps_in),), IrrepsVectors(layer.irreps_out)
    if hasattr(layer, "irreps_in1") and len(inputs) == 2:
        return (IrrepsVectors(layer.irreps_in1), IrrepsVectors(layer.irreps_in2)), IrrepsVectors(layer.irreps_out)
    if hasattr(layer, "in_type") and hasattr(layer, "out_type"):
        side = inputs[0].shape[-1]
        return (GridFields(layer.in_type, side),), GridFields(
            layer.out_type, layer.window.output_size([side] * layer.window.dims)[0]
        )
    if hasattr(layer, "window") and hasattr(layer, "in_channels"):
        return image_shifts(layer, inputs[0])
    if hasattr(layer, "dim") and hasattr(layer, "prefix"):
        fill = None if layer.periodic else 0.0
        tokens = TokenShifts(layer.dim, layer.size, layer.prefix, fill)
        return (tokens,), tokens if layer.periodic else replace(tokens, fill=math.nan)
    return None


def image_shifts(layer: Any, x: Tensor) -> tuple[tuple[Space, ...], Space]:
    """The shifts with which a convolution commutes: cyclic ones if its padding is, and its steps divide the image."""
    window = layer.window
    size = tuple(x.shape[-window.dims :])
    out = window.output_size(size)
    cyclic = window.mode == "circular" and all(n * s == m for n, s, m in zip(out, window.stride, size, strict=True))
    own = Shifts((layer.in_channels, *size), window.stride, None if cyclic else 0.0)
    return (own,), Shifts((layer.out_channels, *out), (1,) * window.dims, None if cyclic else math.nan)
