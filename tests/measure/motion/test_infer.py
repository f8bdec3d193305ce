"""Shapes that are inferred, and those that are refused."""

import pytest
import torch

from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.actions import Action
from softeq.measure.motion.infer import infer_action


@pytest.mark.parametrize(
    ("shape", "image", "prefix", "expected"),
    [
        ((4, 10), (224, 224), None, "invariant"),
        ((4, 64, 1, 1), (224, 224), None, "invariant"),
        ((4, 1, 1, 64), (224, 224), None, "invariant"),
        ((4, 1, 1, 1), (224, 224), None, "invariant"),
        ((4, 64, 56, 56), (224, 224), None, "map (B, C, H, W)"),
        ((4, 56, 56, 64), (224, 224), None, "map (B, H, W, C)"),
        ((4, 64, 8, 12), (64, 96), None, "map (B, C, H, W)"),
        ((4, 8, 12, 64), (64, 96), None, "map (B, H, W, C)"),
        ((4, 64, 7, 10), (224, 336), None, "map (B, C, H, W)"),  # a stride of 32, rounded down
        ((4, 64, 113, 75), (225, 150), None, "map (B, C, H, W)"),  # a stride of 2, rounded up
        ((4, 64, 448, 448), (224, 224), None, "map (B, C, H, W)"),
        ((4, 197, 384), (224, 224), 1, "tokens, 14 x 14 after 1"),
        ((4, 196, 384), (224, 224), 0, "tokens, 14 x 14 after 0"),
        ((4, 29, 384), (64, 112), 1, "tokens, 4 x 7 after 1"),
    ],
)
def test_shapes_that_leave_no_doubt_are_inferred(shape, image, prefix, expected):
    action = infer_action(torch.zeros(shape, device="meta"), (shape[0], 3, *image), prefix=prefix)
    assert isinstance(action, Action)
    assert action.name == expected


@pytest.mark.parametrize(
    ("shape", "image", "prefix"),
    [
        ((4,), (224, 224), None),
        ((), (224, 224), None),
        ((4, 7, 7, 7), (224, 224), None),  # either layout
        ((4, 64, 8, 8), (64, 96), None),  # attention, or a map of other proportions
        ((4, 12, 197, 64), (224, 224), 1),
        ((4, 197, 384), (224, 224), None),  # how many tokens stand in front?
        ((4, 200, 384), (224, 224), 1),
        ((4, 1, 384), (224, 224), 1),
        ((4, 197, 384), (224, 336), 1),  # 196 is no grid of 2 : 3
        ((4, 8, 7, 7, 3), (224, 224), None),
    ],
)
def test_shapes_in_doubt_are_not_measurable(shape, image, prefix):
    with pytest.raises(NotMeasurable, match="declare"):
        infer_action(torch.zeros(shape), (4, 3, *image), prefix=prefix)


@pytest.mark.parametrize("output", [(torch.zeros(4, 3),), {"a": torch.zeros(4, 3)}, None])
def test_what_is_no_tensor_is_not_inferred(output):
    with pytest.raises(NotMeasurable, match="Pick"):
        infer_action(output, (4, 3, 8, 8))


def test_nothing_is_inferred_where_the_input_is_no_image():
    with pytest.raises(NotMeasurable, match="no image"):
        infer_action(torch.zeros(4, 3), (4, 5, 3))
