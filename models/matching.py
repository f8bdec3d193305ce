"""Networks of one kind at the same number of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.models.images import build


def count_parameters(model: nn.Module) -> int:
    """How many numbers the model's parameters hold."""
    return sum(parameter.numel() for parameter in model.parameters())


def matched(name: str, parameters: int, **config: Any) -> int:
    """The ``width`` at which a network of that name has a number of parameters closest to ``parameters``.

    Channels are multiples of the width, so the count is a quadratic polynomial in it; three small networks give it.

    Args:
        name: of a network that has a ``width``, see `models.build`.
        parameters: wanted, at least 1.
        config: its other arguments.

    Returns:
        the width, at least 1; of two that are equally close the smaller.

    Raises:
        SofteqValueError: fewer parameters than 1, or a name or an argument that `models.build` refuses.
    """
    if not isinstance(parameters, int) or parameters < 1:
        raise SofteqValueError(f"parameters: expected a whole number of at least 1, got {parameters!r}")
    if "width" in config:
        raise SofteqValueError("width: expected the other arguments alone, as the width is what is looked for")
    with torch.random.fork_rng(devices=[]):  # what the networks draw is of no interest
        one, two, three = (count_parameters(build(name, width=width, **config)) for width in (1, 2, 3))
    bend = three - 2 * two + one  # twice the coefficient of width^2
    slope = two - one

    def count(width: int) -> int:
        return one + slope * (width - 1) + bend * (width - 1) * (width - 2) // 2

    below, above = 1, 2
    while count(above) < parameters:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if count(middle) < parameters else (below, middle)
    return min((below, above), key=lambda width: (abs(count(width) - parameters), width))
