"""How a tensor inside a network moves, told from its shape where that leaves no doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.actions import Action, ImageMap, Invariant, Tokens

Shape = Sequence[int]


def infer_action(output: Any, input_shape: Shape, *, prefix: int | None = None) -> Action:
    """The action of an output of a network on images ``(B, C, H, W)``, where its shape leaves no doubt.

    ``(B, K)`` is invariant, and so is a map of one place; four axes of which one pair, and not the other, has the
    image's proportions are a map; ``(B, prefix + h * w, C)`` is tokens, where h and w have the image's proportions.

    Args:
        output: a tensor.
        input_shape: of the images.
        prefix: how many tokens stand before the grid; without it tokens are not inferred.

    Raises:
        NotMeasurable: everything else; declare an `Action`.
    """
    if not isinstance(output, Tensor):
        raise NotMeasurable(f"output: a {type(output).__name__} does not say how it moves; declare Pick(entry, action)")
    shape = tuple(output.shape)
    if len(input_shape) != 4:
        raise NotMeasurable(
            f"output: under an input of shape {tuple(input_shape)}, no image, nothing says how shape {shape} moves; "
            "declare Invariant(), UnderRep(...), Points(), Vectors(), ..."
        )
    image = tuple(input_shape[2:])
    if len(shape) == 2:
        return Invariant()
    if len(shape) == 4:
        readings = {"first": shape[2:], "last": shape[1:3]}
        fitting = [layout for layout, size in readings.items() if size == (1, 1) or _proportional(size, image)]
        if len(fitting) == 1 or shape[1:] == (1, 1, 1):
            still = readings[fitting[0]] == (1, 1)
            return Invariant() if still else ImageMap(channels_last=fitting[0] == "last")
    if len(shape) == 3 and prefix is not None:
        grid = _grid(shape[1] - prefix, image)
        if grid is not None:
            return Tokens(grid, prefix)
    raise NotMeasurable(
        f"output: nothing says surely how shape {shape} moves with images of {image[0]} x {image[1]}; declare "
        "ImageMap(), Tokens(grid, prefix), Invariant() or another action"
    )


def _proportional(size: Shape, image: Shape) -> bool:
    """Whether a map has the image's proportions, up to the rounding of one whole stride for both axes."""
    (h, w), (height, width) = size, image
    if h * width == w * height:
        return True
    strides = range(1, max(image) + 1)
    return any((h, w) in ((height // s, width // s), (-(-height // s), -(-width // s))) for s in strides)


def _grid(tokens: int, image: Shape) -> tuple[int, int] | None:
    """h and w with h * w tokens, exactly in the image's proportions."""
    scale = math.isqrt(max(tokens, 0) * image[0] * image[1])  # h = scale / W and w = scale / H
    h, w = scale // image[1], scale // image[0]
    return (h, w) if h * w == tokens > 0 and h * image[1] == w * image[0] else None
