import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.engine.bookkeeping import generator_for
from softeq.experiments.images.shifts import flip_and_crop, shifted, shifted_at_random


def test_shifts_move_down_and_right_and_fill():
    x = torch.arange(24.0).view(2, 1, 3, 4)
    moved = shifted(x, torch.tensor([[1, 0], [0, -2]]), -1.0)
    assert moved[0, 0].tolist() == [[-1] * 4, [0, 1, 2, 3], [4, 5, 6, 7]]
    assert moved[1, 0].tolist() == [[14, 15, -1, -1], [18, 19, -1, -1], [22, 23, -1, -1]]
    assert torch.equal(shifted(x, torch.zeros(2, 2, dtype=torch.long), 9.0), x)
    assert (shifted(x, torch.full((2, 2), 50), 9.0) == 9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_stay_together(dtype):
    x = torch.randn(3, 2, 5, 4, dtype=dtype)
    moved = shifted(x, torch.tensor([[1, 2], [-1, 0], [0, 1]]), 0.0)
    assert moved.dtype == dtype
    assert moved.shape == x.shape
    assert torch.equal(moved[0, :, 1:, 2:], x[0, :, :-1, :-2])
    assert torch.equal(moved[1, :, :-1], x[1, :, 1:])


def test_shifts_that_are_none():
    x = torch.zeros(2, 1, 3, 3)
    with pytest.raises(SofteqValueError, match=r"whole numbers of shape \(2, 2\), got torch.int64 \(3, 2\)"):
        shifted(x, torch.zeros(3, 2, dtype=torch.long), 0.0)
    with pytest.raises(SofteqValueError, match=r"got torch.float32"):
        shifted(x, torch.zeros(2, 2), 0.0)
    assert shifted(x[:0], torch.zeros(0, 2, dtype=torch.long), 0.0).shape == (0, 1, 3, 3)


def test_random_shifts_reach_all_places_evenly_and_no_further():
    x = torch.zeros(4000, 1, 9, 9)
    x[:, :, 4, 4] = 1
    share = shifted_at_random(x, 2, 0.0, generator_for(0, 0)).mean(dim=0)[0]
    assert torch.count_nonzero(share) == 25
    torch.testing.assert_close(share[2:7, 2:7], torch.full((5, 5), 1 / 25), atol=0.02, rtol=0)


def test_augmentation_mirrors_half_of_the_images():
    x = torch.zeros(2000, 1, 3, 8)
    x[:, :, :, 0] = 1
    left = flip_and_crop(x, 0, 0.0, generator_for(0, 0))[:, 0, 0, 0]
    assert 0.46 < float(left.mean()) < 0.54
    first, again = (flip_and_crop(x[:9], 2, 0.0, generator_for(1, 1)) for _ in range(2))
    assert torch.equal(first, again)
