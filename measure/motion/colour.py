"""Flows of an image's colours: they move no place, and every pixel's channels alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.motion.flows import Flow
from softeq.measure.motion.spaces import square_matrix

COLOURS = ("brightness", "exposure", "contrast", "saturation", "hue")
"""The names of `colour_flows`."""
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)


class ColourFlow(Flow):
    """``c -> exp(t A) c + ...`` on the channels: the flow of the velocity ``A c + b``.

    Args:
        name, unit: for people; the unit of t.
        channels: A, ``(C, C)``.
        offset: b, ``(C,)``.
        channels_last: data are ``(B, ..., C)``; else ``(B, C, ...)``.

    Attributes:
        matrix: None: no place moves.
        channels, offset: in float64.

    Raises:
        SofteqValueError: an A that is not square or not finite, a b of another length; data of other channels.
    """

    def __init__(
        self, name: str, unit: str, channels: Tensor, offset: Tensor | None = None, *, channels_last: bool = False
    ) -> None:
        self.name, self.unit, self.matrix, self.channels_last = name, unit, None, channels_last
        self.channels = square_matrix("channels", channels)
        n = len(self.channels)
        self.offset = torch.zeros(n, dtype=torch.float64) if offset is None else torch.as_tensor(offset).double().cpu()
        if self.offset.shape != (n,) or not bool(self.offset.isfinite().all()):
            raise SofteqValueError(f"offset: expected {n} finite numbers, got {self.offset.tolist()}")

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The images after a motion of length t."""
        n = len(self.channels)
        generator = torch.zeros(n + 1, n + 1, dtype=torch.float64)
        generator[:n, :n], generator[:n, n] = self.channels, self.offset
        moved = torch.linalg.matrix_exp(t * generator)
        return self._on_channels(x, moved[:n, :n], moved[:n, n])

    def tangent(self, x: Tensor) -> Tensor:
        """``A c + b`` at every pixel."""
        return self._on_channels(x, self.channels, self.offset)

    def _on_channels(self, x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
        axis = -1 if self.channels_last else 1
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 3 or x.shape[axis] != len(matrix):
            came = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise SofteqValueError(f"x: {self.name} moves floating data with {len(matrix)} channels, got {came}")
        return (x.movedim(axis, -1) @ matrix.to(x).mT + offset.to(x)).movedim(-1, axis).contiguous()


def colour_flows(
    mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0), *, channels_last: bool = False
) -> tuple[ColourFlow, ...]:
    """brightness, exposure, contrast, saturation and hue of red, green and blue images, as a network is fed them.

    In intensities from 0 to 1: `brightness` adds t to all; `exposure` multiplies by e^t; `contrast` multiplies the
    distance from middle grey, `saturation` that from the pixel's own grey (luma of ITU-R BT.601), by e^t; `hue` turns
    colours by t radians about the grey axis.

    Args:
        mean, std: by which the images were normalised, ``(intensity - mean) / std`` per channel.
        channels_last: images are ``(B, H, W, 3)``; else ``(B, 3, H, W)``.

    Raises:
        SofteqValueError: not three finite numbers each, or a standard deviation that is not positive.
    """
    m, s = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, std))
    if m.shape != (3,) or s.shape != (3,) or not bool((m.isfinite() & s.isfinite() & (s > 0)).all()):
        raise SofteqValueError(f"mean, std: expected three finite numbers each, std above 0, got {mean!r} and {std!r}")
    eye, one = torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    zero = torch.zeros(3, 3, dtype=torch.float64)
    axis = one / math.sqrt(3)
    kinds = {  # A and b on intensities
        "brightness": (zero, one, "intensity"),
        "exposure": (eye, 0 * one, "dimensionless"),
        "contrast": (eye, -0.5 * one, "dimensionless"),
        "saturation": (eye - torch.outer(one, torch.tensor(_LUMA, dtype=torch.float64)), 0 * one, "dimensionless"),
        "hue": (torch.linalg.cross(axis.expand(3, 3), eye).mT, 0 * one, "radians"),
    }
    return tuple(
        ColourFlow(name, unit, a / s[:, None] * s, (a @ m + b) / s, channels_last=channels_last)
        for name, (a, b, unit) in kinds.items()
    )
