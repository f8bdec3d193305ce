import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure import FLOWS, ImageMap, Invariant, NotMeasurable, equivariance_decibels

X = torch.rand(3, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_pointwise_functions_follow_whole_shifts_exactly_and_parts_of_pixels_nearly():
    whole = equivariance_decibels(torch.sin, X, "EQ-T", ImageMap())
    part = equivariance_decibels(torch.sin, X, "EQ-T_frac", ImageMap())
    assert whole.value == math.inf
    assert 15 < part.value < 80
    assert "dB" in str(part)
    assert part.interval[0] <= part.value <= part.interval[1]


def test_the_formula():
    """A function that adds what does not move: the error is known."""
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(16, 16)
    found = equivariance_decibels(lambda x: 0 * x + ramp, X[:2], "EQ-T", ImageMap(), draws=3, seed=1, peak=2.0)
    generator = torch.Generator().manual_seed(1)
    shifts = ((torch.rand(3, 2, generator=generator, dtype=torch.float64) * 2 - 1)[:, 0] * 2).round()
    error = float((shifts / 15).square().mean())
    assert found.value == pytest.approx(10 * math.log10(4 / error))
    assert found.peak == 2.0
    torch.testing.assert_close(found.errors, torch.full((2,), error, dtype=torch.float64))


def test_turns():
    identity = equivariance_decibels(nn.Identity(), X, "EQ-R", ImageMap())
    skewed = equivariance_decibels(lambda x: x + x.roll(1, -1), X, "EQ-R", ImageMap())
    assert identity.value == math.inf
    assert skewed.value < 30


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
        ({"stencil": "cubic"}, SofteqValueError, "stencil: expected"),
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
