"""Convolutions whose kernel depends on the position: functions, and plain modules that a soft layer folds into.

Sizes are those of the grid, ``(L,)``, ``(H, W)`` or ``(D, H, W)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softeq._windows import Window


def add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """``y + bias`` in y's dtype, so that autocast's narrow outputs stay narrow."""
    return y if bias is None else y + bias.to(y.dtype)


def local_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
    """A convolution with a kernel per output position, as one batched matrix product over positions.

    Args:
        x: ``(N, C, *size)``.
        weight: ``(*out_size, out, C / groups, *kernel)``, the layout in which no position's kernel is copied.
        bias: ``(out, *out_size)`` or ``None``.
        window: the geometry.
    """
    size, out = weight.shape[: window.dims], weight.shape[window.dims]
    n, groups, positions = x.shape[0], window.groups, size.numel()
    columns = window.columns(x).view(positions, groups, -1, n)
    y = weight.reshape(positions, groups, out // groups, -1) @ columns
    return add_bias(y.permute(3, 1, 2, 0).reshape(n, out, *size), bias)


def low_rank_conv(
    x: Tensor, shared: Tensor | None, kernels: Tensor, coefficients: Tensor, bias: Tensor | None, window: Window
) -> Tensor:
    """A convolution with the kernel ``shared + sum_r coefficients[r, p] kernels[r]`` at output position p.

    One convolution with ``(rank + 1) * out`` output channels, then a sum over them per position. Where every channel
    has a kernel of its own, one convolution per term: torch has no fast path for several outputs of one channel, and
    takes two to ten times as long for them.

    Args:
        x: ``(N, C, *size)``.
        shared: ``(out, C / groups, *kernel)`` or ``None``.
        kernels: ``(rank, out, C / groups, *kernel)``.
        coefficients: ``(rank, *out_size)``.
        bias: ``(out, *out_size)`` or ``None``.
        window: the geometry.
    """
    all_kernels = [*([] if shared is None else [shared]), *kernels]
    if kernels.shape[1:3] == (x.shape[1], 1):
        parts = tuple(window.convolve(x, kernel) for kernel in all_kernels)
    else:
        # Stacked behind the output channel, so that the channels of a group stay next to each other.
        stacked = torch.stack(all_kernels, 1)
        parts = window.convolve(x, stacked.flatten(0, 1)).unflatten(1, stacked.shape[:2]).unbind(2)
    scales = coefficients.to(parts[0].dtype).unbind(0)
    if shared is None:
        y, rest = parts[0] * scales[0], zip(parts[1:], scales[1:], strict=True)
    else:
        y, rest = parts[0], zip(parts[1:], scales, strict=True)
    for part, scale in rest:
        y = torch.addcmul(y, part, scale)
    return add_bias(y, bias)


class Unaligned(nn.Module):
    """A module whose parameters have axes of positions, so that none of them lies in memory as an image does."""

    def _apply(self, fn: Any, recurse: bool = True) -> Unaligned:
        # Without their axes: of what has four or five of them torch would put the second last, as it does with images.
        super()._apply(lambda t: fn(t.flatten()).view(t.shape), recurse)
        return self


class LocalConv(Unaligned):
    """A plain layer with a kernel per output position; see ``local_conv``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, window: Window) -> None:
        super().__init__()
        self.window = window
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, *size)`` or ``(C, *size)`` to the outputs of the size that the weight has."""
        y = local_conv(x if x.dim() == self.window.dims + 2 else x[None], self.weight, self.bias, self.window)
        return y if x.dim() == self.window.dims + 2 else y[0]


class LowRankConv(Unaligned):
    """A plain layer whose kernels are combinations of a few; see ``low_rank_conv``."""

    def __init__(
        self, shared: Tensor | None, kernels: Tensor, coefficients: Tensor, bias: Tensor | None, window: Window
    ) -> None:
        super().__init__()
        self.window = window
        self.shared = None if shared is None else nn.Parameter(shared)
        self.kernels, self.coefficients = nn.Parameter(kernels), nn.Parameter(coefficients)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, *size)`` or ``(C, *size)`` to the outputs of the size that the coefficients have."""
        batch = x if x.dim() == self.window.dims + 2 else x[None]
        y = low_rank_conv(batch, self.shared, self.kernels, self.coefficients, self.bias, self.window)
        return y if x.dim() == self.window.dims + 2 else y[0]
