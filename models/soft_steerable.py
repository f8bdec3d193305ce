"""A classifier of images that may leave the rotations and reflections of the plane: soft steerable convolutions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.fields import FieldBatchNorm
from softeq.models.images import _positive
from softeq.models.soft_images import Size, check_images, check_size, halved
from softeq.steerable import SoftR2Conv

if TYPE_CHECKING:
    from escnn.gspaces import GSpace

MULTIPLES = (1, 2, 4)
"""The fields of the convolutions, in units of ``width``."""


def plane(group: str) -> GSpace:
    """The action on the plane of ``"C<n>"`` (n rotations) or ``"D<n>"`` (with reflections).

    Raises:
        SofteqValueError: another name.
        MissingExtraError: escnn is not installed.
    """
    found = re.fullmatch(r"([CD])([1-9]\d*)", group) if isinstance(group, str) else None
    if found is None:
        raise SofteqValueError(f"group: expected 'C<n>' or 'D<n>' with n of at least 1, such as 'C8', got {group!r}")
    try:
        from escnn import gspaces
    except ImportError as error:
        raise MissingExtraError("steerable networks need escnn: pip install 'softeq[escnn]'") from error
    return (gspaces.rot2dOnR2 if found[1] == "C" else gspaces.flipRot2dOnR2)(int(found[2]))


class FieldMaximum(nn.Module):
    """The largest of each regular field's channels: ``(B, fields * order, H, W)`` to ``(B, fields, H, W)``."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """The fields' maxima."""
        return x.unflatten(1, (-1, self.order)).amax(2)


def halving(size: Size) -> nn.AvgPool2d:
    """Averages over windows in steps of 2 that a flip of the image maps onto each other.

    Per axis 2 pixels where their number is even, and 3 where it is odd: windows of 2 would leave out the last pixel.
    """
    odd = size[0] % 2, size[1] % 2
    return nn.AvgPool2d((2 + odd[0], 2 + odd[1]), stride=2, padding=odd, count_include_pad=False)


def _kernels(sizes: int | Sequence[int]) -> list[int]:
    each = [sizes] * len(MULTIPLES) if isinstance(sizes, int) else list(sizes)
    if len(each) != len(MULTIPLES) or not all(isinstance(k, int) and k > 0 and k % 2 == 1 for k in each):
        raise SofteqValueError(f"kernel_size: expected an odd number of at least 1, or three of them, got {sizes!r}")
    return each


class SteerableCNN(nn.Module):
    """Three soft steerable convolutions between regular fields, each with a norm and ReLU, halved in between.

    The norm is `softeq.FieldBatchNorm`. Then the maximum over the group, the average over positions, and a linear head,
    all on invariants.

    Args:
        size: (H, W) of the input in pixels. Quarter turns need square ones.
        in_channels: scalar fields of the input.
        classes: of the output.
        width: regular fields of the first convolution; the next have twice and four times as many.
        group: ``"C<n>"`` or ``"D<n>"``.
        kernel_size: odd; of all convolutions, or one for each of the three.
        constraint: ``"soft"``; ``"hard"``, invariant under the group: to rounding under quarter turns and flips, as far
            as sampled filters allow under other rotations; or ``"none"``: the same network with free filters.

    Raises:
        SofteqValueError, SofteqTypeError: an argument out of its range, by its name.
        MissingExtraError: escnn is not installed.
    """

    def __init__(
        self,
        size: Size = (28, 28),
        in_channels: int = 1,
        classes: int = 10,
        *,
        width: int = 4,
        group: str = "C4",
        kernel_size: int | Sequence[int] = 5,
        constraint: str = "soft",
    ) -> None:
        super().__init__()
        _positive(in_channels=in_channels, classes=classes, width=width)
        kernels = _kernels(kernel_size)
        space = plane(group)  # before escnn.nn, so that its absence is told by name

        from escnn.nn import FieldType

        self.size, self.in_channels = check_size(size), in_channels
        order = space.fibergroup.order()
        counts = [m * width for m in MULTIPLES]
        regular = (FieldType(space, [space.regular_repr] * count) for count in counts)
        types = [FieldType(space, [space.trivial_repr] * in_channels), *regular]
        layers: list[nn.Module] = []
        here = self.size
        for k, (before, after) in enumerate(itertools.pairwise(types)):
            if k:
                layers.append(halving(here))
                here = halved(here)
            conv = SoftR2Conv(
                before, after, kernels[k], padding=kernels[k] // 2, bias=False, constraint=constraint
            )  # the norm that follows has the bias
            layers += [conv, FieldBatchNorm(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            FieldMaximum(order), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(counts[-1], classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, classes)``."""
        check_images(x, self.in_channels, self.size)
        return self.head(self.features(x))
