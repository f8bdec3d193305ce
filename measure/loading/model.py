"""A network to be measured, and how images are prepared for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError


@dataclass(frozen=True)
class Preparation:
    """What a user says of the preparation of images; None leaves it to what the network says of itself.

    Attributes:
        mean, std: per channel, of pixels in [0, 1]; one value serves for all channels.
        size: (H, W) of the images that the network gets, one number for both.
        crop: the share of the resized image's shorter side that they show, in (0, 1].
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | tuple[int, int] | None = None
    crop: float | None = None


@dataclass(frozen=True)
class Model:
    """A model and how its images are to be prepared.

    Attributes:
        name: as it was asked for.
        module: in evaluation mode.
        image_size: (H, W) of its input.
        mean, std: per channel, of pixels in [0, 1]; as many values as the network takes channels.
        interpolation: "bilinear", "bicubic", "nearest" or another of Pillow's.
        classes: how many logits it gives; None where it has no class head.
        prefix_tokens: tokens in front of the grid, for a transformer; None where unknown.
        source: where the weights come from, for people.
        crop: the share of the resized image's shorter side that the input shows.
        crop_mode: "center" keeps the image's proportions, "squash" does not; see `measure.loading.images.prepare`.
        choices: what was chosen for the user, in words, for the report.

    Raises:
        SofteqValueError: a size, crop, mean or standard deviation that no image can be prepared with.
    """

    name: str
    module: nn.Module
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    classes: int | None
    prefix_tokens: int | None
    source: str
    crop: float = 0.875
    crop_mode: str = "center"
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise SofteqValueError(f"image_size: expected (H, W), both at least 1, got {self.image_size}")
        numbers = (*self.mean, *self.std, 1.0)
        if not self.mean or len(self.std) != len(self.mean) or not all(map(math.isfinite, numbers)):
            raise SofteqValueError(
                f"mean, std: expected finite numbers, one per channel each, got mean {self.mean} and std {self.std}"
            )
        if min(self.std) <= 0:
            raise SofteqValueError(f"std: expected numbers above 0, got {self.std}")
        if not 0 < self.crop <= 1:
            raise SofteqValueError(f"crop: expected a share in (0, 1], got {self.crop}")

    def prepared(self, own: Preparation) -> Model:
        """This model with a user's preparation in place of its own.

        Raises:
            SofteqValueError: a wrong number of values, or one that no image can be prepared with.
        """
        channels = len(self.mean)
        return replace(
            self,
            mean=self.mean if own.mean is None else _per_channel("mean", own.mean, channels),
            std=self.std if own.std is None else _per_channel("std", own.std, channels),
            image_size=self.image_size if own.size is None else pair(own.size),
            crop=self.crop if own.crop is None else own.crop,
        )


def _per_channel(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise SofteqValueError(
            f"{name}: expected 1 value or {channels}, one per channel of the network, got {len(values)}"
        )
    return tuple(values) * (channels if len(values) == 1 else 1)


def pair(size: Any) -> tuple[int, int]:
    """(H, W) of one number or two.

    Raises:
        SofteqTypeError: it is neither.
    """
    try:
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return int(height), int(width)
    except (TypeError, ValueError) as error:
        raise SofteqTypeError(f"image_size: expected a number or (H, W), got {size!r}") from error
