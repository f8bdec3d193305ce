"""Classifiers of images whose convolutions may leave the translations: a small residual network, the paper's D-Conv.

Each is one class with ``constraint="soft"``, ``"hard"`` or ``"none"``, and one whole number ``width`` that all channels
are multiples of, so that variants can be compared at the same channels or at the same number of parameters
(`models.matching`).
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from softeq.conv import SoftConv2d
from softeq.errors import SofteqValueError
from softeq.models.images import _positive

Size = tuple[int, int]


def check_size(size: Any) -> Size:
    """``size`` as ``(H, W)``.

    Raises:
        SofteqValueError: not two whole numbers of at least 1.
    """
    whole = isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(n, int) for n in size)
    if not whole or min(size) < 1:
        raise SofteqValueError(f"size: expected the images' (H, W), whole numbers of at least 1, got {size!r}")
    return size[0], size[1]


def check_images(x: Tensor, channels: int, size: Size | None) -> None:
    """Raises `SofteqValueError` unless ``x`` is a batch ``(B, channels, H, W)`` of the declared size."""
    if x.dim() != 4 or x.shape[1] != channels or (size is not None and tuple(x.shape[2:]) != size):
        wanted = "H, W" if size is None else f"{size[0]}, {size[1]}"
        raise SofteqValueError(f"x: expected shape (B, {channels}, {wanted}), got {tuple(x.shape)}")


def halved(size: Size) -> Size:
    """The size of a map after a step of 2, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


class SoftBlock(nn.Module):
    """Two soft 3x3 convolutions with batch norm beside a shortcut, which is one soft 1x1 convolution (He et al. 2016).

    ``(B, before, H, W)`` to ``(B, after, H / 2, W / 2)``, rounded up.
    """

    def __init__(self, before: int, after: int, size: Size, **options: Any) -> None:
        super().__init__()
        small = halved(size)
        self.inner = nn.Sequential(
            SoftConv2d(before, after, 3, size=size, stride=2, padding=1, bias=False, **options),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            SoftConv2d(after, after, 3, size=small, padding=1, bias=False, **options),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Sequential(
            SoftConv2d(before, after, 1, size=size, stride=2, bias=False, **options), nn.BatchNorm2d(after)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's maps."""
        return (self.inner(x) + self.shortcut(x)).relu()


class SoftResNet(nn.Module):
    """A soft 3x3 convolution, then residual blocks that halve the resolution, an average over positions, a linear head.

    Args:
        size: (H, W) of the input in pixels.
        in_channels: of the input.
        classes: of the output.
        width: channels of the first convolution; block k has ``2^k width``.
        blocks: how many.
        stem_stride: of the first convolution.
        constraint: ``"soft"``; ``"hard"``, plain convolutions; ``"none"``, the residual pathways alone, so that each
            position has its own weights.
        residual: ``"local"``, ``"lowrank"`` or ``"dense"``, see `softeq.SoftConv2d`; with ``"none"`` the form of the
            whole layer.
        rank: of the low-rank form.
        padding_mode: ``"zeros"`` or ``"circular"``. With circular padding, and sizes that are multiples of
            ``stem_stride 2^blocks``, the hard network is invariant under circular shifts by multiples of that number of
            pixels, to rounding; zeros let it see where the border is.

    The head, a plain layer, sees no positions. Batch statistics are per channel over all positions.

    Raises:
        SofteqValueError, SofteqTypeError: an argument out of its range, by its name.
    """

    def __init__(
        self,
        size: Size = (28, 28),
        in_channels: int = 1,
        classes: int = 10,
        *,
        width: int = 8,
        blocks: int = 2,
        stem_stride: int = 1,
        constraint: str = "soft",
        residual: str = "local",
        rank: int = 4,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        _positive(in_channels=in_channels, classes=classes, width=width, blocks=blocks, stem_stride=stem_stride)
        self.size, self.in_channels = check_size(size), in_channels
        options: dict[str, Any] = {
            "constraint": constraint,
            "residual": residual,
            "rank": rank,
            "padding_mode": padding_mode,
        }
        stem = SoftConv2d(in_channels, width, 3, size=self.size, stride=stem_stride, padding=1, bias=False, **options)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())
        layers, here = [], check_size(stem.window.output_size(self.size))
        for k in range(blocks):
            layers.append(SoftBlock(2**k * width, 2 ** (k + 1) * width, here, **options))
            here = halved(here)
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2**blocks * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, classes)``."""
        check_images(x, self.in_channels, self.size)
        return self.head(self.blocks(self.stem(x)))


class DConv(nn.Module):
    """The network of Finzi, Benton, Wilson (2021) for CIFAR-10, after Neyshabur (NeurIPS 2020): D-Conv, and its twins.

    Eight layers ReLU(BN(conv3x3(x) + Linear(flatten x))) with a, 2a, 2a, 4a, 4a, 8a, 8a, 16a channels and strides 1 and
    2 in turn; then, on the flattened maps, a linear layer of 64 a with ReLU, and a linear layer to the logits.
    ``constraint="hard"`` is D-Conv, ``"none"`` with ``residual="dense"`` its dense twin (the paper's MLP), ``"soft"``
    RPP. For a = 2 and CIFAR these have 27,270, 10,476,734 and 10,486,022 parameters, the published numbers.

    Args:
        size: (H, W) of the input in pixels.
        in_channels: of the input.
        classes: of the output.
        width: a.
        constraint: see above.
        residual, rank, padding_mode: see `softeq.SoftConv2d`.
        clip_logits: a ReLU on the logits, as in the published code. Off by default: it takes the gradient from every
            class whose logit is below 0, and an image all of whose logits are can never be learnt again.

    The features of the hard network are equivariant; its head, as in the paper, sees positions.

    Raises:
        SofteqValueError, SofteqTypeError: an argument out of its range, by its name.
    """

    MULTIPLES = (1, 2, 2, 4, 4, 8, 8, 16)

    def __init__(
        self,
        size: Size = (32, 32),
        in_channels: int = 3,
        classes: int = 10,
        *,
        width: int = 2,
        constraint: str = "soft",
        residual: str = "dense",
        rank: int = 4,
        padding_mode: str = "zeros",
        clip_logits: bool = False,
    ) -> None:
        super().__init__()
        _positive(in_channels=in_channels, classes=classes, width=width)
        self.size, self.in_channels = check_size(size), in_channels
        options: dict[str, Any] = {
            "constraint": constraint,
            "residual": residual,
            "rank": rank,
            "padding_mode": padding_mode,
        }
        layers: list[nn.Module] = []
        here = self.size
        channels = [in_channels, *(m * width for m in self.MULTIPLES)]
        for k, (before, after) in enumerate(itertools.pairwise(channels)):
            stride = 1 + k % 2
            layers += [SoftConv2d(before, after, 3, size=here, stride=stride, padding=1, **options)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
            here = halved(here) if stride == 2 else here
        self.features = nn.Sequential(*layers)
        hidden = 64 * width
        head = [
            nn.Flatten(),
            nn.Linear(channels[-1] * here[0] * here[1], hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        ]
        self.head = nn.Sequential(*head, *[nn.ReLU()] * clip_logits)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, classes)``."""
        check_images(x, self.in_channels, self.size)
        return self.head(self.features(x))
