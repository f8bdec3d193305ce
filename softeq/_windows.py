"""How a convolution's window walks over a grid: sizes, padding, and which place each tap of the kernel reads.

Grids have one, two or three axes: series, images, volumes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq.errors import SofteqTypeError, SofteqValueError

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")
CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""torch's own, by the number of axes."""
TRANSPOSED: dict[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONVOLVE_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_SEVERAL = {1: "one of them in a tuple", 2: "a pair of them", 3: "three of them"}


def per_axis(value: Any, name: str, least: int, dims: int) -> tuple[int, ...]:
    """A whole number of at least ``least`` for each of the grid's axes; one alone is for all of them."""
    each = tuple(value) if isinstance(value, list | tuple | torch.Size) else (value,) * dims
    if len(each) != dims or not all(isinstance(n, int) and not isinstance(n, bool) for n in each):
        raise SofteqTypeError(f"{name}: expected a whole number or {_SEVERAL[dims]}, got {value!r}")
    if min(each) < least:
        raise SofteqValueError(f"{name}: expected at least {least}, got {value!r}")
    return each


def pair(value: Any, name: str, least: int) -> tuple[int, int]:
    """One or two whole numbers of at least ``least`` as ``(vertical, horizontal)``."""
    vertical, horizontal = per_axis(value, name, least, 2)
    return vertical, horizontal


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """Raises unless both numbers of channels are positive and fall into equal groups."""
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        if not isinstance(channels, int) or isinstance(channels, bool):
            raise SofteqTypeError(f"{name}: expected a whole number, got {channels!r}")
        if channels < 1 or channels % max(groups, 1):
            needed = "at least 1" if channels < 1 else f"a multiple of groups={groups}"
            raise SofteqValueError(f"{name}: expected {needed}, got {channels}")


def padding_of(conv: Any) -> tuple[int, ...]:
    """The padding of a convolution of torch's, per axis, ``"same"`` and ``"valid"`` included.

    Raises:
        SofteqValueError: ``"same"`` with a kernel of even extent, which pads one side more than the other.
    """
    dims = len(conv.kernel_size)
    if not isinstance(conv.padding, str):
        return per_axis(conv.padding, "padding", 0, dims)
    if conv.padding == "valid":
        return (0,) * dims
    spare = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    if any(n % 2 for n in spare):
        raise SofteqValueError(f"conv: expected equal padding on opposite sides, got padding='same' with {conv}")
    return tuple(n // 2 for n in spare)


def square_geometry(conv: Any) -> dict[str, int]:
    """The numbers of a square convolution; raises where they differ between the axes."""
    sides = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": padding_of(conv)}
    sides |= {"dilation": conv.dilation, "output_padding": conv.output_padding}
    for name, each in sides.items():
        if len(set(each)) > 1:
            raise SofteqValueError(f"conv: expected one {name} for all directions, got {each}")
    return {name: each[0] for name, each in sides.items()}


def times(sizes: Sequence[int]) -> str:
    """Sizes in words: ``3 x 3``."""
    return " x ".join(map(str, sizes))


@dataclass(frozen=True)
class Window:
    """A convolution's geometry, as in ``torch.nn.Conv2d``, per axis of the grid (of an image vertical, horizontal).

    Args:
        kernel: the kernel's size.
        stride, padding, dilation: padding is the same on opposite sides; () is as torch's default.
        groups: channels fall into this many groups that do not see each other.
        mode: of padding, among ``PADDING_MODES``.
        transposed: whether it is torch's ``ConvTranspose2d``, which puts a kernel down for every input.
        output_padding: of a transposed one, more outputs at the end of each axis.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    mode: str = "zeros"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0)):
            object.__setattr__(self, name, getattr(self, name) or (default,) * self.dims)
        if self.mode not in PADDING_MODES:
            raise SofteqValueError(f"padding_mode: expected one of {PADDING_MODES}, got {self.mode!r}")
        if self.transposed and self.mode != "zeros":
            raise SofteqValueError(f"padding_mode: expected 'zeros' of a transposed convolution, got {self.mode!r}")
        for more, stride, dilation in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if more and not (self.transposed and more < max(stride, dilation)):
                raise SofteqValueError(
                    "output_padding: expected 0, or, of a transposed convolution, less than its stride or dilation, "
                    f"got {self.output_padding} with stride {self.stride}"
                )

    @property
    def dims(self) -> int:
        """The number of the grid's axes."""
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """How many entries a kernel has per pair of channels."""
        return math.prod(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """The places from the kernel's first tap to its last, dilation included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The output's size, for an input of this size.

        Raises:
            SofteqValueError: the kernel is larger than the padded input, or nothing is left of the output.
        """
        padding = [2 * p for p in self.padding]
        if self.transposed:
            ends = [e + more for e, more in zip(self.extent, self.output_padding, strict=True)]
            each = zip(size, padding, ends, self.stride, strict=True)
            found = tuple((n - 1) * s - p + e for n, p, e, s in each)
            if min(found) < 1:
                raise SofteqValueError(
                    f"padding: of an input of {times(size)} padding {self.padding} leaves {times(found)}: expected less"
                )
            return found
        if any(n + p < e for n, p, e in zip(size, padding, self.extent, strict=True)):
            raise SofteqValueError(
                f"kernel_size: the kernel covers {times(self.extent)} pixels and the image has {times(size)} with "
                f"padding {self.padding}: expected a kernel that fits; take a smaller one or pad more"
            )
        each = zip(size, padding, self.extent, self.stride, strict=True)
        return tuple((n + p - e) // s + 1 for n, p, e, s in each)

    def padded(self, x: Tensor) -> Tensor:
        """The input with its border, where the mode is not zeros; torch's own operations pad with zeros."""
        if self.mode == "zeros" or not any(self.padding):
            return x
        return F.pad(x, _both_sides(self.padding), mode=self.mode)

    def _zeros(self) -> tuple[int, ...]:
        return self.padding if self.mode == "zeros" else (0,) * self.dims

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolves ``(..., C, *size)`` with a kernel in torch's own layout.

        That is ``(out, C / groups, *kernel)``, and ``(C, out / groups, *kernel)`` where the window is transposed.
        """
        if self.transposed:
            convolve = _CONVOLVE_TRANSPOSED[self.dims]
            return convolve(x, kernel, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        function = cast(Any, _CONVOLVE[self.dims])
        return function(self.padded(x), kernel, bias, self.stride, self._zeros(), self.dilation, self.groups)

    def swapped(self, kernel: Tensor) -> Tensor:
        """``(a, b / groups, *kernel)`` as ``(b, a / groups, *kernel)``: torch's two layouts of a kernel, either way."""
        return kernel.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def columns(self, x: Tensor) -> Tensor:
        """What every tap reads at every output position: ``(N, C, *size)`` to ``(positions, C, taps, N)``, contiguous.

        Samples go last at once, so that everything after copies runs of N numbers: four times faster on a CPU than
        ``unfold`` and a permutation of its larger result.
        """
        size = self.output_size(x.shape[2:])
        x = F.pad(self.padded(x), _both_sides(self._zeros()))
        last = x.flatten(1).T.contiguous().view(*x.shape[1:], x.shape[0]).movedim(0, -2)
        ends = [(n - 1) * s + 1 for n, s in zip(size, self.stride, strict=True)]
        starts = [range(0, k * d, d) for k, d in zip(self.kernel, self.dilation, strict=True)]
        parts = []
        for tap in itertools.product(*starts):
            each = zip(tap, ends, self.stride, strict=True)
            parts.append(last[tuple(slice(start, start + end, step) for start, end, step in each)])
        return torch.stack(parts, self.dims + 1).flatten(0, self.dims - 1)

    def sources(self, size: Sequence[int]) -> Tensor:
        """The flat place in the input that a tap reads at an output position, ``(taps, positions)``; -1 outside."""
        places = torch.arange(1, math.prod(size) + 1, dtype=torch.float64).view(1, 1, *size)
        return self.columns(places)[:, 0, :, 0].T.long() - 1

    def plain(self, kernel: Tensor, bias: Tensor | None) -> nn.Module:
        """torch's convolution with this geometry and copies of a kernel, in its own layout, and bias."""
        out = kernel.shape[1] * self.groups if self.transposed else kernel.shape[0]
        inn = kernel.shape[0] if self.transposed else kernel.shape[1] * self.groups
        options: dict[str, Any] = {"output_padding": self.output_padding} if self.transposed else {}
        conv: Any = (TRANSPOSED if self.transposed else CONVOLUTIONS)[self.dims](
            inn,
            out,
            cast(Any, self.kernel),
            cast(Any, self.stride),
            cast(Any, self.padding),
            dilation=cast(Any, self.dilation),
            groups=self.groups,
            bias=bias is not None,
            padding_mode=cast(Any, self.mode),  # checked in __post_init__
            device=kernel.device,
            dtype=kernel.dtype,
            **options,
        )
        with torch.no_grad():
            conv.weight.copy_(kernel)
            if bias is not None:
                conv.bias.copy_(bias)
        return cast(nn.Module, conv)

    def __str__(self) -> str:
        """As arguments, for ``print(model)``: one number where all axes have the same."""
        parts = {"kernel_size": self.kernel, "stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        if self.transposed:
            parts["output_padding"] = self.output_padding
        texts = [f"{name}={each[0] if len(set(each)) == 1 else each}" for name, each in parts.items()]
        tail = ", transposed=True" if self.transposed else ""
        return f"{', '.join(texts)}, groups={self.groups}, padding_mode={self.mode!r}{tail}"


def _both_sides(padding: Sequence[int]) -> list[int]:
    """As ``F.pad`` takes it: the last axis first, each side of it."""
    return [n for n in reversed(padding) for _ in range(2)]
