"""The pairing <g, X h> of a gradient with a tangent, for many flows of one tensor, without ever building X h.

Along affine flows of images X h = -v . grad h, so that <g, X h> = -sum over pixels of v . (sum over channels of
g grad h): the tensor's two slopes are taken once, however many flows and gradients there are, and what is left is one
product and one sum.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from softeq.measure.motion.fields import TokenFlow
from softeq.measure.motion.flows import AffineFlow, Flow, inside, positions
from softeq.measure.motion.stencils import slope


def pairing(a: Tensor, b: Tensor) -> Tensor:
    """Per sample the real inner product of (B, ...) tensors, (B,) float64; of complex ones, real and imaginary part."""
    return _product(a, b).flatten(1).sum(1, dtype=torch.float64)


class Slopes:
    """One tensor's slopes along the axes of its grid, each taken when it is first asked for, and kept.

    Args:
        tensor: (B, ...), not to be written into while this is used.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._taken: dict[tuple[int, str, str], Tensor] = {}

    def paired(self, flow: Flow, gradient: Tensor, *, last: bool) -> Tensor:
        """<gradient, flow.tangent(tensor)> per sample, (B,) float64.

        Args:
            flow: of the tensor.
            gradient: shaped like the tensor.
            last: nothing else will be asked, so that slopes need not be kept.
        """
        base, x, g = flow, self.tensor, gradient
        if isinstance(flow, TokenFlow):
            base, x, g = flow.base, flow.on_map(x), flow.on_map(g)
        if not isinstance(base, AffineFlow):
            return pairing(gradient, flow.tangent(self.tensor))
        base.images(x)  # raises where it is no batch of images
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        sizes = tuple(x.shape[axis] for axis in base.axes)
        for axis, velocity in zip(base.axes, _velocity(*_numbers(base), base.margin, *sizes), strict=True):
            if velocity is None:
                continue
            found = self._slope(x, axis, base, keep=not last)
            density = _product(g, found).sum(-1 if base.channels_last else 1)
            total -= (density * velocity.to(density.device)).flatten(1).sum(1)
        return total

    def _slope(self, x: Tensor, axis: int, flow: AffineFlow, *, keep: bool) -> Tensor:
        key = (axis, flow.stencil, flow.boundary)
        found = self._taken.get(key)
        if found is None:
            found = slope(x, *key)
            if keep:
                self._taken[key] = found
        return found


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Entry by entry, real, in float32 at least."""
    product = (a.conj() * b).real if a.is_complex() or b.is_complex() else a * b
    return product.to(torch.promote_types(product.dtype, torch.float32))


def _numbers(flow: AffineFlow) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(flow.matrix.flatten().tolist()), tuple(flow.shift.tolist())


@lru_cache(maxsize=256)
def _velocity(
    matrix: tuple[float, ...], shift: tuple[float, ...], margin: int, height: int, width: int
) -> tuple[Tensor | None, Tensor | None]:
    """(H, W) float64 velocities along rows and columns, in the order of a flow's axes; None where there is none."""
    columns, rows = positions(height, width)
    mask = inside(height, width, margin)
    (a, b, c, d), (across, down) = matrix, shift
    fields = (c * columns + d * rows + down, a * columns + b * rows + across)
    down_field, across_field = (field.expand(height, width) * mask for field in fields)
    moves = [field if bool(field.any()) else None for field in (down_field, across_field)]
    return moves[0], moves[1]
