import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure import FLOWS, ImageMap, Invariant, NotMeasurable, Tokens, equivariance_decibels

X = torch.rand(3, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_pointwise_functions_follow_whole_shifts_exactly_and_parts_of_pixels_nearly():
    whole = equivariance_decibels(torch.sin, X, "EQ-T", ImageMap())
    part = equivariance_decibels(torch.sin, X, "EQ-T_frac", ImageMap())
    assert whole.value == math.inf
    assert 15 < part.value < 80
    assert equivariance_decibels(nn.Identity(), X, "EQ-T_frac", ImageMap()).value == math.inf
    assert "dB" in str(part)
    assert part.interval[0] <= part.value <= part.interval[1]


def test_the_formula():
    """A function that adds what does not move: the error is known."""
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(16, 16)
    found = equivariance_decibels(lambda x: 0 * x + ramp, X[:2], "EQ-T", ImageMap(), draws=3, seed=1, peak=2.0)
    generator = torch.Generator().manual_seed(1)
    shifts = ((torch.rand(3, 2, generator=generator, dtype=torch.float64) * 2 - 1) * 2).round()
    pixels = (16 - shifts.abs()).prod(1)  # all count alike: a motion that leaves fewer counts less
    assert len(set(pixels.tolist())) > 1
    error = float(((shifts[:, 0] / 15).square() * pixels).sum() / pixels.sum())
    assert found.value == pytest.approx(10 * math.log10(4 / error))
    assert found.peak == 2.0
    torch.testing.assert_close(found.errors, torch.full((2,), error, dtype=torch.float64))


def test_turns():
    smooth = nn.functional.interpolate(X[:2], size=(40, 40), mode="bicubic")
    found = [
        equivariance_decibels(f, smooth, "EQ-R", ImageMap(), peak=1.0, draws=3).value
        for f in (nn.Identity(), torch.sin, lambda x: (x + x.roll(1, -1)) / 2)
    ]
    assert found[0] > 45  # its own filters are no exact projections
    assert found[1] > 45
    assert found[2] < 35


def test_maps_of_other_sizes_and_tokens():
    half = nn.AvgPool2d(2)
    found = equivariance_decibels(half, X, "EQ-T", ImageMap())  # by two pixels at a time, one of the map
    assert found.value == math.inf
    assert equivariance_decibels(half, X, "EQ-T_frac", ImageMap()).value < 60

    def tokens(x):
        return half(x).flatten(2).mT

    again = equivariance_decibels(tokens, X, "EQ-T", Tokens((8, 8)))
    assert again.value == math.inf
    with pytest.raises(NotMeasurable, match="no shift of up to an eighth"):
        equivariance_decibels(nn.AvgPool2d(4), X, "EQ-T", ImageMap())
    with pytest.raises(NotMeasurable, match="no pixel of the map is left"):
        equivariance_decibels(nn.Identity(), X[..., :8, :8], "EQ-R", ImageMap())


def test_batches_change_nothing():
    for kind in ("EQ-T", "EQ-T_frac"):
        whole, parts = (
            equivariance_decibels(
                nn.AvgPool2d(2), X * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None], kind, ImageMap(), batch_size=n
            )
            for n in (None, 2)
        )
        assert (whole.value, whole.peak) == pytest.approx((parts.value, parts.peak))
        torch.testing.assert_close(whole.errors, parts.errors)


def test_channels_that_turn_and_channels_last():
    pytest.importorskip("escnn")
    from escnn import gspaces
    from escnn import nn as enn

    field = enn.FieldType(gspaces.rot2dOnR2(-1), [gspaces.rot2dOnR2(-1).irrep(1)])
    smooth = nn.functional.interpolate(X[:2, :1], size=(40, 40), mode="bicubic")

    def slopes(x):  # a vector field: (right, up)
        right = nn.functional.pad((x[..., 2:] - x[..., :-2]) / 2, (1, 1, 0, 0))
        down = nn.functional.pad((x[..., 2:, :] - x[..., :-2, :]) / 2, (0, 0, 1, 1))
        return torch.cat([right, -down], 1)

    vectors = equivariance_decibels(slopes, smooth, "EQ-R", ImageMap(field=field), peak=1.0, draws=3)
    scalars = equivariance_decibels(slopes, smooth, "EQ-R", ImageMap(), peak=1.0, draws=3)
    assert vectors.value > scalars.value + 10

    def last(x):
        return x.movedim(1, -1)

    found = equivariance_decibels(last, X, "EQ-T", ImageMap(channels_last=True))
    assert found.value == math.inf


def test_invariant_outputs():
    found = equivariance_decibels(lambda x: x.mean((2, 3)), X, "EQ-T", Invariant(), boundary="periodic")
    assert found.value > 200


def test_what_stays_in_the_frame():
    kept = FLOWS["translation_x"].within(3.0, 4, 8)
    assert kept.sum(1).tolist() == [5] * 4
    assert FLOWS["rotation"].within(math.pi / 2, 6, 6).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kind": "EQ-S"}, SofteqValueError, "kind: expected one of"),
        ({"action": "map"}, SofteqTypeError, "action: expected an Action"),
        ({"draws": 0}, SofteqValueError, "draws: expected at least 1"),
        ({"batch_size": 0}, SofteqValueError, "batch_size: expected at least 1"),
        ({"boundary": "zeros"}, SofteqValueError, "boundary: expected"),
        ({"peak": -1.0}, NotMeasurable, "peak: expected"),
        ({"f": torch.zeros_like}, NotMeasurable, "peak: expected"),
        ({"f": lambda x: x / 0}, NotMeasurable, "NaN or infinity"),
        ({"x": X[0]}, SofteqValueError, "moves floating images"),
        ({"f": lambda x: x - x.mean(0)}, NotMeasurable, "apart"),
    ],
)
def test_bad_input(changes, error, message):
    options = {"f": torch.sin, "x": X, "kind": "EQ-T", "action": ImageMap(), **changes}
    with pytest.raises(error, match=message):
        equivariance_decibels(options.pop("f"), options.pop("x"), options.pop("kind"), options.pop("action"), **options)
