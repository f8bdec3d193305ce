"""Flows: one-parameter groups acting on data, and the nine affine ones of images.

A flow moves the content of an image along a velocity field v: flow(x, t)(p) = x(phi_{-t}(p)) with phi the motion of
the points, so its tangent is d/dt at 0 = -v . grad x. Positions p = (column, row) are in pixels from the image's
centre ((W - 1) / 2, (H - 1) / 2), the row axis points down, pixels are square: right for H != W.
The flows are those of Gruver, Finzi, Goldblum, Wilson (ICLR 2023), in pixels and radians; `scale` enlarges for
positive t, where their code shrinks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.checks import check_integer
from softeq.measure.motion.stencils import check_choice, image_slope, on_pixels, resample


class Flow(ABC):
    """A one-parameter group acting on a batch of data, the batch axis first.

    Attributes:
        name: for tables and messages.
        unit: of t, such as "pixels" or "radians".
        matrix: (d, d) float64, the Lie algebra element that it belongs to, or None where there is none.
        axes: of the data's grid (rows and columns of images, times, ...); empty where there is none.
    """

    name: str
    unit: str
    matrix: Tensor | None
    axes: tuple[int, ...] = ()

    @abstractmethod
    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The data after a motion of length t, shaped like `x`."""

    @abstractmethod
    def tangent(self, x: Tensor) -> Tensor:
        """d/dt at 0 of flow(x, t), shaped like `x`."""

    def stays(self, x: Tensor, t: float) -> Tensor | None:
        """What of `x` is still in the frame after a motion of length t: bool, broadcasts with `x`; None: all of it."""
        return None


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class AffineFlow(Flow):
    """Moves images along v(p) = matrix p + shift.

    Args:
        name, unit: see `Flow`.
        matrix: (2, 2) on (column, row), per unit of t.
        shift: (2,) columns and rows, in pixels per unit of t.
        stencil: how the image between its pixels is understood; one of measure.stencils.STENCILS.
        boundary: how it goes on beyond its edge; one of measure.stencils.BOUNDARIES.
        margin: pixels from each edge that do not move: there the tangent is 0 and flow(x, t) is x.
        channels_last: images are (B, H, W, C); else (B, C, H, W).

    Raises:
        SofteqValueError: a wrong shape, or an unknown stencil or boundary, or a negative margin.
    """

    name: str
    unit: str
    matrix: Tensor
    shift: Tensor
    stencil: str = "bspline"
    boundary: str = "mirror"
    margin: int = 0
    channels_last: bool = False

    def __post_init__(self) -> None:
        for field, shape in (("matrix", (2, 2)), ("shift", (2,))):
            value = torch.as_tensor(getattr(self, field), dtype=torch.float64, device="cpu").detach()
            if value.shape != shape or not value.isfinite().all():
                raise SofteqValueError(f"{field}: expected finite numbers of shape {shape}, got {value.tolist()}")
            object.__setattr__(self, field, value)
        check_choice(self.stencil, self.boundary)
        check_integer("margin", self.margin, 0)

    def with_(self, **changes: Any) -> AffineFlow:
        """A copy with these fields changed, such as ``stencil="central"``."""
        return replace(self, **changes)

    @property
    def axes(self) -> tuple[int, ...]:  # type: ignore[override]
        """Rows and columns."""
        return (1, 2) if self.channels_last else (2, 3)

    @property
    def coefficients(self) -> Tensor:
        """(6,) float64: this flow's velocity as a combination of GENERATORS."""
        (a, b), (c, d) = self.matrix.tolist()
        return torch.tensor([*self.shift.tolist(), b, c, a, d], dtype=torch.float64)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The images after a motion of length t; beyond the edge they go on as `boundary` says."""
        images = self.images(x)
        height, width = images.shape[-2:]
        moved = resample(images, self.sources(t, height, width), self.stencil, self.boundary)
        if self.margin:
            moved = torch.where(inside(height, width, self.margin).to(x.device), moved, images)
        return moved.movedim(1, -1) if self.channels_last else moved

    def exact(self, t: float, height: int, width: int) -> bool:
        """Whether a motion of length t takes pixels to pixels, so that nothing is interpolated: whole shifts, turns."""
        return on_pixels(self.sources(t, height, width))

    def within(self, t: float, height: int, width: int) -> Tensor:
        """(H, W) bool: pixels whose content comes from within the frame, up to half a pixel."""
        last = torch.tensor([width - 1, height - 1], dtype=torch.float64)
        sources = self.sources(t, height, width)
        return ((sources >= -0.5 - 1e-9) & (sources <= last + 0.5 + 1e-9)).all(-1)

    def stays(self, x: Tensor, t: float) -> Tensor | None:
        """See `Flow`; periodic shifts lose nothing."""
        if self.boundary == "periodic" and not bool(self.matrix.any()):
            return None
        mask = self.within(-t, *self.images(x).shape[-2:]).to(x.device)
        return mask[..., None] if self.channels_last else mask

    def sources(self, t: float, height: int, width: int) -> Tensor:
        """(H, W, 2): where each pixel's content comes from, (column, row) in pixels from pixel (0, 0)."""
        generator = torch.zeros(3, 3, dtype=torch.float64)
        generator[:2, :2], generator[:2, 2] = self.matrix, self.shift
        back = torch.linalg.matrix_exp(-t * generator)
        centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
        columns, rows = positions(height, width)
        return torch.stack(torch.broadcast_tensors(columns, rows), dim=-1) @ back[:2, :2].T + back[:2, 2] + centre

    def tangent(self, x: Tensor) -> Tensor:
        """-v . grad x, shaped like `x`; 0 within the margin."""
        return tangents((self,), x)[0]

    def alike(self, other: Flow) -> bool:
        """Whether `other` is an affine flow with the same stencil, boundary, margin and layout."""
        fields = ("stencil", "boundary", "margin", "channels_last")
        return isinstance(other, AffineFlow) and all(getattr(self, name) == getattr(other, name) for name in fields)

    def images(self, x: Tensor) -> Tensor:
        """`x` as (B, C, H, W), a view.

        Raises:
            SofteqValueError: `x` is no batch of floating images.
        """
        axes = "(B, H, W, C)" if self.channels_last else "(B, C, H, W)"
        if not isinstance(x, Tensor) or x.ndim != 4 or not (x.is_floating_point() or x.is_complex()):
            came = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise SofteqValueError(f"x: {self.name} moves floating images {axes}, got {came}")
        return x.movedim(-1, 1) if self.channels_last else x


def positions(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Columns (1, W) and rows (H, 1) in pixels from the image's centre, float64."""
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    return columns[None, :], rows[:, None]


def inside(height: int, width: int, margin: int) -> Tensor:
    """(H, W) bool: False within `margin` pixels of the edge."""
    rows, columns = (torch.arange(n) for n in (height, width))
    near = [(index < margin) | (index >= n - margin) for index, n in ((rows, height), (columns, width))]
    return ~(near[0][:, None] | near[1][None, :])


def affine_tangents(
    x: Tensor, coefficients: Tensor, stencil: str = "bspline", boundary: str = "mirror", margin: int = 0
) -> Tensor:
    """Tangents of images under combinations of GENERATORS, from one gradient.

    Args:
        x: (B, C, H, W), floating.
        coefficients: (k, 6), per row a velocity field in GENERATORS' order.
        stencil, boundary, margin: see `AffineFlow`.

    Returns:
        (k, B, C, H, W), in x's dtype and on its device.
    """
    height, width = x.shape[-2:]
    columns, rows = positions(height, width)
    one = torch.ones(height, width, dtype=torch.float64)
    across = torch.stack([one, rows * one, columns * one])  # of translation_x, shear_x, stretch_x
    down = torch.stack([one, columns * one, rows * one])  # of translation_y, shear_y, stretch_y
    wanted = coefficients.detach().to("cpu", torch.float64)
    mask = inside(height, width, margin)
    velocity = [
        torch.einsum("kj,jhw->khw", wanted[:, start::2], base) * mask for start, base in ((0, across), (1, down))
    ]
    total: Tensor | None = None
    for axis, v in zip((-1, -2), velocity, strict=True):
        if bool(v.any()):  # most flows of a map deep in a network go along one axis alone
            part = -v[:, None, None].to(x) * image_slope(x, axis, stencil, boundary)
            total = part if total is None else total.add_(part)
    return x.new_zeros(len(wanted), *x.shape) if total is None else total


def tangents(flows: Sequence[Flow], x: Tensor) -> Tensor:
    """The flows' tangents at `x`, stacked: (n_flows, *x.shape). Affine flows understood alike share one gradient."""
    first = flows[0]
    if isinstance(first, AffineFlow) and all(first.alike(flow) for flow in flows):
        coefficients = torch.stack([flow.coefficients for flow in flows if isinstance(flow, AffineFlow)])
        fields = affine_tangents(first.images(x), coefficients, first.stencil, first.boundary, first.margin)
        return fields.movedim(2, -1) if first.channels_last else fields
    return torch.stack([flow.tangent(x) for flow in flows])


def _flow(name: str, unit: str, matrix: list[list[float]], shift: tuple[float, float] = (0.0, 0.0)) -> AffineFlow:
    return AffineFlow(name, unit, torch.tensor(matrix, dtype=torch.float64), torch.tensor(shift, dtype=torch.float64))


_STILL = [[0.0, 0.0], [0.0, 0.0]]
FLOWS: Mapping[str, AffineFlow] = MappingProxyType(
    {
        flow.name: flow
        for flow in (
            _flow("translation_x", "pixels", _STILL, (1.0, 0.0)),  # to the right
            _flow("translation_y", "pixels", _STILL, (0.0, 1.0)),  # down
            _flow("rotation", "radians", [[0.0, 1.0], [-1.0, 0.0]]),  # counter-clockwise on the screen
            _flow("scale", "dimensionless", [[1.0, 0.0], [0.0, 1.0]]),
            _flow("shear_x", "dimensionless", [[0.0, 1.0], [0.0, 0.0]]),
            _flow("shear_y", "dimensionless", [[0.0, 0.0], [1.0, 0.0]]),
            _flow("stretch_x", "dimensionless", [[1.0, 0.0], [0.0, 0.0]]),
            _flow("stretch_y", "dimensionless", [[0.0, 0.0], [0.0, 1.0]]),
            _flow("hyperbolic", "radians", [[0.0, 1.0], [1.0, 0.0]]),
        )
    }
)
GENERATORS: tuple[str, ...] = ("translation_x", "translation_y", "shear_x", "shear_y", "stretch_x", "stretch_y")
COEFFICIENTS: Tensor = torch.stack([flow.coefficients for flow in FLOWS.values()])  # (9, 6): FLOWS from GENERATORS


def resolve_flows(flows: str | Flow | Iterable[str | Flow] | Mapping[str, Flow]) -> tuple[Flow, ...]:
    """Flows by name or as they are.

    Args:
        flows: one name of FLOWS or one flow, several of them, or a mapping whose values are flows.

    Raises:
        SofteqValueError: an unknown name, or none at all.
        SofteqTypeError: neither a name nor a flow.
    """
    wanted: list[Any]
    if isinstance(flows, str | Flow):
        wanted = [flows]
    elif isinstance(flows, Mapping):
        wanted = list(flows.values())
    elif isinstance(flows, Iterable):
        wanted = list(flows)
    else:
        raise SofteqTypeError(f"flows: expected names or flows, got {type(flows).__name__}")
    if not wanted:
        raise SofteqValueError(f"flows: expected at least one of {', '.join(FLOWS)}, got none")
    return tuple(_one(flow) for flow in wanted)


def _one(flow: Any) -> Flow:
    if isinstance(flow, Flow):
        return flow
    if not isinstance(flow, str):
        raise SofteqTypeError(f"flows: expected names or flows, got a {type(flow).__name__}")
    if flow not in FLOWS:
        close = get_close_matches(flow, FLOWS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SofteqValueError(f"flows: expected names among {', '.join(FLOWS)}, got {flow!r}{hint}")
    return FLOWS[flow]
