"""Images transformed by whole pixels, and the augmentation that is usual on CIFAR."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError


def shifted(x: Tensor, shifts: Tensor, fill: float) -> Tensor:
    """Images ``(N, C, H, W)`` transformed by ``(N, 2)`` whole pixels down and right; ``fill`` comes in from outside.

    Raises:
        SofteqValueError: shifts of another shape, or not whole.
    """
    if shifts.shape != (len(x), 2) or shifts.is_floating_point():
        raise SofteqValueError(
            f"shifts: expected whole numbers of shape ({len(x)}, 2), got {shifts.dtype} {tuple(shifts.shape)}"
        )
    if not len(x):
        return x
    n, _, height, width = x.shape
    reach = int(shifts.abs().max())
    padded = nn.functional.pad(x, (reach, reach, reach, reach), value=fill)
    start = reach - shifts.to(x.device)
    rows = (start[:, :1] + torch.arange(height, device=x.device))[:, :, None]
    columns = (start[:, 1:] + torch.arange(width, device=x.device))[:, None, :]
    # The indices stand on both sides of the colon: the axes that they make come first, the channels last.
    return padded[torch.arange(n, device=x.device)[:, None, None], :, rows, columns].movedim(-1, 1).contiguous()


def shifted_at_random(x: Tensor, reach: int, fill: float, generator: torch.Generator) -> Tensor:
    """Images transformed by independent uniform shifts in [-reach, reach] pixels; the generator is on the CPU."""
    return shifted(x, torch.randint(-reach, reach + 1, (len(x), 2), generator=generator), fill)


def flip_and_crop(x: Tensor, reach: int, fill: float, generator: torch.Generator) -> Tensor:
    """The usual augmentation of CIFAR: each image mirrored left to right with probability 1/2, then shifted."""
    mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
    return shifted_at_random(torch.where(mirrored[:, None, None, None], x.flip(-1), x), reach, fill, generator)
