"""The flows of a measurement with the stencil, boundary and margin under which they are applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.checks import check_integer
from softeq.measure.motion.flows import FLOWS, GENERATORS, AffineFlow, Flow, inside, resolve_flows
from softeq.measure.motion.grids import GridFlow

FlowChoice = str | Flow | Iterable[str | Flow] | Mapping[str, Flow]


@dataclass(frozen=True)
class Settings:
    """Flows as they will be applied, and what they have in common.

    Attributes:
        flows: with their stencil, boundary and margin.
        images: there are affine flows of images among them, all understood alike.
        stencil, boundary, margin: of flows on grids; "own", "own" and 0 where there are none, or several.
        channels_last: images are (B, H, W, C).
    """

    flows: tuple[Flow, ...]
    images: bool = False
    stencil: str = "own"
    boundary: str = "own"
    margin: int = 0
    channels_last: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The flows' names."""
        return tuple(flow.name for flow in self.flows)

    def coefficients(self) -> Tensor:
        """(n_flows, 6) float64: flows of images in terms of GENERATORS, 0 for the others."""
        zero = torch.zeros(len(GENERATORS), dtype=torch.float64)
        return torch.stack([flow.coefficients if isinstance(flow, AffineFlow) else zero for flow in self.flows])

    def pushed(self) -> tuple[list[Flow], Tensor]:
        """What goes through f together, and the (n_flows, n_pushed) float64 matrix that puts the flows together.

        Affine flows of images understood alike come from GENERATORS, which stand first; every other flow is its own.
        """
        if not self.images:
            return list(self.flows), torch.eye(len(self.flows), dtype=torch.float64)
        options = {"stencil": self.stencil, "boundary": self.boundary, "margin": self.margin}
        generators = [FLOWS[name].with_(**options, channels_last=self.channels_last) for name in GENERATORS]
        others = [k for k, flow in enumerate(self.flows) if not isinstance(flow, AffineFlow)]
        own = torch.eye(len(self.flows), dtype=torch.float64)[:, others]
        return [*generators, *(self.flows[k] for k in others)], torch.cat([self.coefficients(), own], 1)

    def image_size(self, x: Tensor) -> tuple[int, int] | None:
        """(H, W) of images, None for other data."""
        if not self.images:
            return None
        height, width = x.shape[1:3] if self.channels_last else x.shape[-2:]
        return height, width

    def noise(self, x: Tensor, generator: torch.Generator, draws: int = 1) -> Tensor:
        """White-noise tangents, (draws, *x.shape), 0 in the margin.

        They are drawn sample by sample in float32, so that neither the batching nor the dtype changes them.
        """
        shape = (draws, *x.shape[1:])
        drawn = torch.stack([torch.randn(shape, generator=generator) for _ in range(len(x))], 1)
        size = self.image_size(x)
        if size is not None and self.margin:
            mask = inside(*size, self.margin)
            drawn = drawn * (mask[:, :, None] if self.channels_last else mask)
        return drawn.to(x)

    def still(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Whether images are the same along every axis along which a flow moves them.

        Rounding leaves a stencil's derivative of a blank image at 1e-8 rather than at 0, so the pixels are asked.

        Args:
            x: (B, ...) images.
            coefficients: (k, 6), flows in terms of GENERATORS; a row of zeros is none of them and never still here.

        Returns:
            (B, k) bool, on the CPU.
        """
        height, width = self.image_size(x) or (1, 1)
        images = x.movedim(-1, 1) if self.channels_last else x
        flat = [(images == images.narrow(axis, 0, 1)).flatten(1).all(1).cpu() for axis in (-1, -2)]
        # translation, shear and stretch along an axis; the middle row or column of a single one has no shear or stretch
        in_x = torch.tensor([True, height > 1, width > 1])
        in_y = torch.tensor([True, width > 1, height > 1])
        moved = coefficients != 0
        along_columns, along_rows = (moved[:, 0::2] & in_x).any(1), (moved[:, 1::2] & in_y).any(1)
        return (flat[0][:, None] | ~along_columns) & (flat[1][:, None] | ~along_rows) & moved.any(1)


def resolve(flows: FlowChoice, stencil: str | None, boundary: str, margin: int) -> Settings:
    """Resolve `flows`, giving those of images one stencil, boundary and margin.

    Args:
        flows: names, flows or a mapping.
        stencil, boundary, margin: see measure.flows.AffineFlow. With stencil None every flow keeps its own three.

    Raises:
        SofteqValueError: unknown or repeated names, unknown stencil or boundary, a bad margin.
    """
    check_integer("margin", margin, 0)
    chosen = resolve_flows(flows)
    names = [flow.name for flow in chosen]
    if len(set(names)) < len(names):
        raise SofteqValueError(f"flows: expected each name once, got {', '.join(names)}")
    if stencil is not None:
        chosen = tuple(
            flow.with_(stencil=stencil, boundary=boundary, margin=margin) if hasattr(flow, "with_") else flow
            for flow in chosen
        )
    gridded = [flow for flow in chosen if isinstance(flow, AffineFlow | GridFlow)]
    affine = [flow for flow in chosen if isinstance(flow, AffineFlow)]
    if len({(flow.stencil, flow.boundary, flow.margin) for flow in gridded}) != 1:
        return Settings(chosen)
    first, images = gridded[0], bool(affine) and all(affine[0].alike(flow) for flow in affine)
    return Settings(chosen, images, first.stencil, first.boundary, first.margin, images and affine[0].channels_last)
