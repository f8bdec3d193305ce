"""The published operators on images whose motion is known exactly."""

import math

import pytest
import torch

from softeq.measure import FLOWS
from softeq.measure.motion.alias_free import _kernel, filtered, shift_valid, shifted, turn_valid, turned

TURN = FLOWS["rotation"]
SIZE = 40


def wave(moved=lambda p: p):
    """A plane wave of .13 periods a pixel, (1, 1, SIZE, SIZE), whose places have moved."""
    line = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    places = moved(torch.stack(torch.meshgrid(line, line, indexing="xy"), -1))
    return (0.7 * places[..., 0] + 0.4 * places[..., 1]).sin()[None, None]


def test_whole_shifts_move_pixels():
    x = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    found, valid = shifted(x, 3, -2, "mirror", whole=True), shift_valid(6, 8, 3, -2, whole=True)
    assert torch.equal(found[..., :4, 3:], x[..., 2:, :5])
    assert valid.sum() == 4 * 5
    assert valid[:4, 3:].all()
    assert torch.equal(shifted(x, 3, -2, "periodic", whole=True), x.roll((3, -2), (3, 2)))


def test_parts_of_pixels_through_three_lobes():
    found, valid = shifted(wave(), 2.3, -1.6, "mirror", whole=False), shift_valid(40, 40, 2.3, -1.6, whole=False)
    exact = wave(lambda p: p - torch.tensor([2.3, -1.6]))
    nearest = wave(lambda p: p - torch.tensor([2.0, -2.0]))
    assert (found - exact)[..., valid].abs().max() < 0.01
    assert (found - nearest)[..., valid].abs().max() > 0.1
    # of the six taps three lie to each side of the place that a pixel's content comes from
    assert valid.any(0).nonzero().flatten().tolist() == list(range(5, 40))
    assert valid.any(1).nonzero().flatten().tolist() == list(range(1, 36))


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0])
def test_turns_of_what_both_grids_hold(angle):
    found, valid = turned(wave(), TURN, angle, "mirror"), turn_valid(TURN, angle, SIZE, SIZE)
    back = torch.linalg.matrix_exp(-angle * TURN.matrix)
    assert valid.sum() > 300
    assert (found - wave(lambda p: p @ back.T))[..., valid].abs().max() < 0.03
    if angle:
        assert (found - wave())[..., valid].abs().max() > 0.3


def test_the_filter_takes_the_corners_of_the_spectrum_alone():
    angle = math.pi / 4
    rows, columns = torch.meshgrid(*[torch.arange(48, dtype=torch.float64)] * 2, indexing="ij")
    valid = turn_valid(TURN, angle, 48, 48)
    for frequency, least, most in ((0.1, 0.95, 1.05), (0.46, 0.0, 0.35)):  # of each axis: along the diagonal
        plane = (2 * math.pi * frequency * (rows + columns)).cos()[None, None]
        kept = filtered(plane, TURN, angle)[..., valid].std() / plane[..., valid].std()
        assert least <= kept <= most


def test_kernels_add_up_to_one_in_each_phase():
    for fine in (1, 4):
        kernel = _kernel((0.8, 0.6, -0.6, 0.8), fine)
        assert len(kernel) == 12 * fine - 1
        torch.testing.assert_close(kernel, kernel.flip(0, 1))
        padded = torch.nn.functional.pad(kernel, (0, 1, 0, 1))
        phases = padded.view(12, fine, 12, fine).sum((0, 2))
        torch.testing.assert_close(phases, torch.ones_like(phases))
