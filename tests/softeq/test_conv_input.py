"""SoftConv1d, 2d and 3d refuse what they cannot compute, by name."""

import pytest
import torch

from softeq import SofteqTypeError, SofteqValueError
from softeq.conv import SoftConv1d, SoftConv2d, SoftConv3d

BAD = {
    "constraint": ({"constraint": "firm"}, "constraint.*'firm'"),
    "residual": ({"residual": "wide"}, "residual: .*'wide'"),
    "no size": ({"size": None}, "size: expected"),
    "size": ({"size": (0, 4)}, "size: expected at least 1"),
    "kernel too large": ({"size": (5, 2), "padding": 0}, "covers 3 x 3 pixels and the image has 5 x 2"),
    "kernel too large for circles": ({"size": (5, 2), "padding_mode": "circular"}, "two taps would read one pixel"),
    "padding_mode": ({"padding_mode": "reflect"}, "padding_mode.*'reflect'"),
    "groups": ({"groups": 3}, "in_channels: expected a multiple of groups=3, got 4"),
    "groups of none": ({"groups": 0}, "groups: expected at least 1"),
    "stride": ({"stride": 0}, "stride: expected at least 1"),
    "rank": ({"residual": "lowrank", "rank": 0}, "rank: expected"),
    "too large for dense": ({"size": (224, 224)}, "'local' or 'lowrank'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_name(case):
    options, message = BAD[case]
    with pytest.raises(SofteqValueError, match=message):
        SoftConv2d(4, 6, 3, **{"size": (5, 5), "padding": 1, **options})


def test_bad_types_and_inputs_are_refused_by_name():
    for name, value in (("stride", 1.5), ("kernel_size", (3, 3, 3)), ("size", "5")):
        with pytest.raises(SofteqTypeError, match=name):
            SoftConv2d(4, 6, **{"kernel_size": 3, "size": 5, name: value})
    layer = SoftConv2d(4, 6, 3, size=5)
    for shape, message in [((2, 4, 5, 6), "declared size"), ((2, 3, 5, 5), r"\(N, 4, 5, 5\)"), ((4, 5), r"\(4, 5\)")]:
        with pytest.raises(SofteqValueError, match=message):
            layer(torch.zeros(shape))


def test_series_and_volumes_are_refused_in_their_own_words():
    with pytest.raises(SofteqValueError, match="size: expected the series' length"):
        SoftConv1d(2, 3, 3)
    with pytest.raises(SofteqTypeError, match=r"kernel_size: expected a whole number or three of them, got \(3, 3\)"):
        SoftConv3d(2, 3, (3, 3), size=4)
    with pytest.raises(SofteqValueError, match=r"x: expected shape \(N, 2, D, H, W\), got \(1, 2, 4, 4\)"):
        SoftConv3d(2, 3, 3, constraint="hard")(torch.zeros(1, 2, 4, 4))
    with pytest.raises(SofteqValueError, match="covers 3 x 3 x 3 pixels and the image has 4 x 4 x 2"):
        SoftConv3d(2, 3, 3, constraint="hard")(torch.zeros(1, 2, 4, 4, 2))
