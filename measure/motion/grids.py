"""Flows of data on other grids than images: series (B, C, T) and volumes (B, C, D, H, W), and maps on such grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.checks import check_integer
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.actions import Action
from softeq.measure.motion.colour import ColourFlow
from softeq.measure.motion.flows import Flow
from softeq.measure.motion.spaces import ZeroFlow
from softeq.measure.motion.stencils import axis_taps, check_choice, fold, on_pixels, prefiltered, slope

_LETTERS = "xyz"
_HALF = 0.5 + 1e-9  # a step of the grid reaches as far to each side, and rounding a little further


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class GridFlow(Flow):
    """Moves data ``(B, C, *grid)`` along ``v(p) = matrix p + shift``, p in steps of the grid from its centre.

    Positions run over the axes from the last to the first: (x, y, z) over ``(D, H, W)``, time over ``(T,)``. What
    measure.motion.flows.AffineFlow is to images, with the same stencils and boundaries.

    Args:
        name, unit: see `Flow`.
        matrix: ``(d, d)``, per unit of t.
        shift: ``(d,)`` steps per unit of t.
        stencil, boundary: see measure.motion.stencils.
        margin: steps from each edge that do not move.

    Raises:
        SofteqValueError: wrong shapes, unknown stencil or boundary, a bad margin; data of other axes.
    """

    name: str
    unit: str
    matrix: Tensor
    shift: Tensor
    stencil: str = "bspline"
    boundary: str = "mirror"
    margin: int = 0

    def __post_init__(self) -> None:
        matrix, shift = (torch.as_tensor(v, dtype=torch.float64).detach().cpu() for v in (self.matrix, self.shift))
        if shift.ndim != 1 or matrix.shape != (len(shift),) * 2 or not bool(matrix.isfinite().all()):
            raise SofteqValueError(f"matrix, shift: expected (d, d) and (d,), got {matrix.tolist()}, {shift.tolist()}")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "shift", shift)
        check_choice(self.stencil, self.boundary)
        check_integer("margin", self.margin, 0)

    @property
    def axes(self) -> tuple[int, ...]:  # type: ignore[override]
        """The grid's."""
        return tuple(range(2, 2 + len(self.shift)))

    def with_(self, **changes: Any) -> GridFlow:
        """A copy with these fields changed, such as ``stencil="central"``."""
        return replace(self, **changes)

    def tangent(self, x: Tensor) -> Tensor:
        """-v . grad x, shaped like `x`; 0 within the margin."""
        sizes = self._sizes(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        velocity = _positions(sizes) @ self.matrix.T + self.shift  # (*grid, d)
        total = torch.zeros_like(wide)
        for k, axis in enumerate(reversed(self.axes)):
            total -= velocity[..., k].to(wide) * slope(wide, axis, self.stencil, self.boundary)
        return (total * self.inside(sizes).to(total)).to(x.dtype)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The data after a motion of length t; beyond the edge they go on as `boundary` says."""
        sizes = self._sizes(x)
        points = self._sources(t, sizes)
        moved = self._at(x, points).reshape(x.shape)
        return torch.where(self.inside(sizes).to(x.device), moved, x)

    def exact(self, t: float, *sizes: int) -> bool:
        """Whether a motion of length t takes grid points to grid points, so that nothing is interpolated."""
        return on_pixels(self._sources(t, sizes))

    def stays(self, x: Tensor, t: float) -> Tensor | None:
        """See `Flow`; periodic shifts lose nothing."""
        if self.boundary == "periodic" and not bool(self.matrix.any()):
            return None
        sizes = self._sizes(x)
        last = torch.tensor([n - 1 for n in reversed(sizes)], dtype=torch.float64)
        places = self._sources(-t, sizes)
        return ((places >= -_HALF) & (places <= last + _HALF)).all(-1).to(x.device)

    def _at(self, x: Tensor, points: Tensor) -> Tensor:
        """Values at points (*grid, d), (B, C, n)."""
        sizes, flat = x.shape[2:], points.reshape(-1, len(self.shift)).flip(-1)  # in the order of the axes
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if on_pixels(points):
            folded = [fold(flat[:, k].round().long(), n, self.stencil, self.boundary) for k, n in enumerate(sizes)]
            taps = [(index[None], torch.ones(1, len(flat), dtype=torch.float64)) for index in folded]
        elif self.stencil == "fourier":
            raise NotMeasurable("stencil: 'fourier' moves series and volumes by whole steps alone; use 'bspline'")
        else:
            if self.stencil == "bspline":
                for axis in self.axes:
                    wide = prefiltered(wide, axis, self.boundary)
            taps = [axis_taps(flat[:, k], n, self.stencil, self.boundary) for k, n in enumerate(sizes)]
        found = torch.zeros(*x.shape[:2], len(flat), dtype=wide.dtype, device=x.device)
        for chosen in product(*(range(len(weights)) for _, weights in taps)):
            weight = torch.stack([taps[k][1][tap] for k, tap in enumerate(chosen)]).prod(0)
            place = torch.zeros(len(flat), dtype=torch.long)
            for k, tap in enumerate(chosen):
                place = place * sizes[k] + taps[k][0][tap]
            found += wide.flatten(2)[..., place.to(x.device)] * weight.to(wide)
        return found.to(x.dtype)

    def _sources(self, t: float, sizes: Sequence[int]) -> Tensor:
        d = len(self.shift)
        generator = torch.zeros(d + 1, d + 1, dtype=torch.float64)
        generator[:d, :d], generator[:d, d] = self.matrix, self.shift
        back = torch.linalg.matrix_exp(-t * generator)
        centre = torch.tensor([(n - 1) / 2 for n in reversed(sizes)], dtype=torch.float64)
        return _positions(sizes) @ back[:d, :d].T + back[:d, d] + centre

    def inside(self, sizes: Sequence[int]) -> Tensor:
        """(*sizes) bool: False within the margin."""
        kept = torch.ones(*sizes, dtype=torch.bool)
        for axis, n in enumerate(sizes):
            index = torch.arange(n)
            free = (index >= self.margin) & (index < n - self.margin)
            kept &= free.view(-1, *[1] * (len(sizes) - 1 - axis))
        return kept

    def _sizes(self, x: Tensor) -> tuple[int, ...]:
        d = len(self.shift)
        if not isinstance(x, Tensor) or x.ndim != d + 2 or not (x.is_floating_point() or x.is_complex()):
            axes = {1: "(B, C, T)", 3: "(B, C, D, H, W)"}.get(d, f"with {d} axes after (B, C)")
            came = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise SofteqValueError(f"x: {self.name} moves floating data {axes}, got {came}")
        return tuple(x.shape[2:])


def _positions(sizes: Sequence[int]) -> Tensor:
    """(*sizes, d): positions from the centre, the last axis first."""
    lines = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in sizes]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], -1)


def time_flows() -> tuple[GridFlow, ...]:
    """Of series ``(B, C, T)``: `time_shift` to later times, in samples; `time_stretch` about the middle."""
    zero, one = torch.zeros(1), torch.ones(1)
    return (
        GridFlow("time_shift", "samples", zero[None], one),
        GridFlow("time_stretch", "dimensionless", one[None], zero),
    )


def volume_flows() -> tuple[GridFlow, ...]:
    """Of volumes ``(B, C, D, H, W)``: translation_x, _y, _z in voxels, right-handed rotation_x, _y, _z, and scale.

    x runs along W, y along H, z along D.
    """
    eye, still = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    shifts = [GridFlow(f"translation_{a}", "voxels", still, e) for a, e in zip(_LETTERS, eye, strict=True)]
    turns = [
        GridFlow(f"rotation_{a}", "radians", torch.linalg.cross(e.expand(3, 3), eye).mT, 0 * e)
        for a, e in zip(_LETTERS, eye, strict=True)
    ]
    return (*shifts, *turns, GridFlow("scale", "dimensionless", eye, torch.zeros(3)))


class GridMap(Action):
    """The output is on the same kind of grid as the input, of any resolution: ``(B, C, T')``, ``(B, C, D', H', W')``.

    It covers the same frame, as measure.ImageMap does for images; under a flow of colours it stays.
    """

    name = "map on the input's grid"

    def flow(self, flow_in: Flow, input_shape: Sequence[int], output_shape: Sequence[int]) -> Flow:
        """The input's flow in the steps of the output's grid."""
        if isinstance(flow_in, ColourFlow):
            return ZeroFlow(flow_in.name, flow_in.unit)
        if not isinstance(flow_in, GridFlow):
            raise NotMeasurable(f"output: such a map moves under flows of series and volumes; {flow_in.name} is none")
        if len(output_shape) != len(input_shape):
            raise NotMeasurable(
                f"output: expected {len(input_shape)} axes, as the input has, got {tuple(output_shape)}"
            )
        pairs = list(zip(output_shape[2:], input_shape[2:], strict=True))[::-1]
        zoom = torch.tensor([out / own for out, own in pairs], dtype=torch.float64)
        return flow_in.with_(
            matrix=zoom[:, None] * flow_in.matrix / zoom,
            shift=zoom * flow_in.shift,
            margin=int(flow_in.margin * float(zoom.min())),
        )
