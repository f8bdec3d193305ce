"""How a convolution's window walks over an image: sizes, padding, and which place each tap of the kernel reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq.errors import SofteqTypeError, SofteqValueError

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")


def pair(value: Any, name: str, least: int) -> tuple[int, int]:
    """One or two whole numbers of at least ``least`` as ``(vertical, horizontal)``."""
    both = tuple(value) if isinstance(value, list | tuple | torch.Size) else (value, value)
    if len(both) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in both):
        raise SofteqTypeError(f"{name}: expected a whole number or a pair of them, got {value!r}")
    if min(both) < least:
        raise SofteqValueError(f"{name}: expected at least {least}, got {value!r}")
    return both[0], both[1]


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """Raises unless both numbers of channels are positive and fall into equal groups."""
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        if not isinstance(channels, int) or isinstance(channels, bool):
            raise SofteqTypeError(f"{name}: expected a whole number, got {channels!r}")
        if channels < 1 or channels % max(groups, 1):
            needed = "at least 1" if channels < 1 else f"a multiple of groups={groups}"
            raise SofteqValueError(f"{name}: expected {needed}, got {channels}")


def padding_of(conv: nn.Conv2d) -> tuple[int, int]:
    """The padding of an ``nn.Conv2d`` as pixels, ``"same"`` and ``"valid"`` included.

    Raises:
        SofteqValueError: ``"same"`` with a kernel of even extent, which pads one side more than the other.
    """
    if not isinstance(conv.padding, str):
        return pair(conv.padding, "padding", 0)
    if conv.padding == "valid":
        return 0, 0
    spare = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    if any(n % 2 for n in spare):
        raise SofteqValueError(f"conv: expected equal padding on opposite sides, got padding='same' with {conv}")
    return spare[0] // 2, spare[1] // 2


@dataclass(frozen=True)
class Window:
    """A convolution's geometry, as in ``torch.nn.Conv2d``; pairs are ``(vertical, horizontal)``, in pixels.

    Args:
        kernel: the kernel's size.
        stride, padding, dilation: padding is the same on opposite sides.
        groups: channels fall into this many groups that do not see each other.
        mode: of padding, among ``PADDING_MODES``.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    mode: str = "zeros"

    def __post_init__(self) -> None:
        if self.mode not in PADDING_MODES:
            raise SofteqValueError(f"padding_mode: expected one of {PADDING_MODES}, got {self.mode!r}")

    @property
    def taps(self) -> int:
        """How many entries a kernel has per pair of channels."""
        return self.kernel[0] * self.kernel[1]

    @property
    def extent(self) -> tuple[int, int]:
        """The pixels from the kernel's first tap to its last, dilation included."""
        height, width = (d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return height, width

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """``(H', W')`` for an image of ``(H, W)``.

        Raises:
            SofteqValueError: the kernel is larger than the padded image.
        """
        sizes = []
        for n, p, e, s in zip(size, self.padding, self.extent, self.stride, strict=True):
            if n + 2 * p < e:
                raise SofteqValueError(
                    f"kernel_size: the kernel covers {self.extent[0]} x {self.extent[1]} pixels and the image has "
                    f"{size[0]} x {size[1]} with padding {self.padding}: expected a kernel that fits; take a smaller "
                    "one or pad more"
                )
            sizes.append((n + 2 * p - e) // s + 1)
        return sizes[0], sizes[1]

    def padded(self, x: Tensor) -> Tensor:
        """``(..., H, W)`` with its border, where the mode is not zeros; torch's own operations pad with zeros."""
        if self.mode == "zeros" or self.padding == (0, 0):
            return x
        vertical, horizontal = self.padding
        return F.pad(x, (horizontal, horizontal, vertical, vertical), mode=self.mode)

    def _zeros(self) -> tuple[int, int]:
        return self.padding if self.mode == "zeros" else (0, 0)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """``conv2d`` of ``(..., C, H, W)`` with a kernel ``(out, C / groups, *kernel)``."""
        return F.conv2d(self.padded(x), kernel, bias, self.stride, self._zeros(), self.dilation, self.groups)

    def columns(self, x: Tensor) -> Tensor:
        """What every tap reads at every output position: ``(N, C, H, W)`` to ``(H' * W', C, taps, N)``, contiguous.

        Images go last at once, so that everything after copies runs of N numbers: four times faster on a CPU than
        ``unfold`` and a permutation of its larger result.
        """
        size = self.output_size((x.shape[-2], x.shape[-1]))
        vertical, horizontal = self._zeros()
        x = F.pad(self.padded(x), (horizontal, horizontal, vertical, vertical))
        last = x.flatten(1).T.contiguous().view(*x.shape[1:], x.shape[0]).permute(1, 2, 0, 3)
        ends = [(n - 1) * s + 1 for n, s in zip(size, self.stride, strict=True)]
        starts = [range(0, k * d, d) for k, d in zip(self.kernel, self.dilation, strict=True)]
        parts = [
            last[top : top + ends[0] : self.stride[0], left : left + ends[1] : self.stride[1]]
            for top in starts[0]
            for left in starts[1]
        ]
        return torch.stack(parts, 3).flatten(0, 1)

    def sources(self, size: tuple[int, int]) -> Tensor:
        """The flat place in the image that a tap reads at an output position, ``(taps, H' * W')``; -1 outside."""
        height, width = size
        places = torch.arange(1, height * width + 1, dtype=torch.float64).view(1, 1, height, width)
        return self.columns(places)[:, 0, :, 0].T.long() - 1

    def plain(self, kernel: Tensor, bias: Tensor | None) -> nn.Conv2d:
        """The ``nn.Conv2d`` with this geometry and copies of a kernel ``(out, C / groups, *kernel)`` and bias."""
        conv = nn.Conv2d(
            kernel.shape[1] * self.groups,
            kernel.shape[0],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias is not None,
            cast(Any, self.mode),  # checked in __post_init__
            kernel.device,
            kernel.dtype,
        )
        with torch.no_grad():
            conv.weight.copy_(kernel)
            if conv.bias is not None and bias is not None:
                conv.bias.copy_(bias)
        return conv
