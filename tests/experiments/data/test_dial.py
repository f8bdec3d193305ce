"""Images that are turned or shifted by a dial: where pixels go, which labels change, and what is refused."""

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.data.dial import Dial, Stage, dialled, disc, shifted, turned
from softeq.experiments.data.images import LabelledImages


def generator_for(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n=60, size=(9, 9), seed=0, dtype=torch.float64):
    """Black images with a bright spot, standardised with mean .5 and std .25."""
    generator = generator_for(seed)
    x = torch.zeros(n, 1, *size, dtype=dtype)
    x[..., 3:6, 4:6] = torch.rand(n, 1, 3, 2, generator=generator, dtype=dtype)
    y = torch.randint(10, (n,), generator=generator)
    splits = [(x - 0.5) / 0.25, y] * 3
    return LabelledImages("blobs", *splits, mean=0.5, std=0.25)


@pytest.mark.parametrize("size", [8, 9])
def test_positive_angles_turn_counterclockwise_and_quarter_turns_are_exact(size):
    x = torch.rand(3, 1, size, size, dtype=torch.float64)
    for quarters in (0, 1, 2, -1):
        angles = torch.full((3,), 90.0 * quarters, dtype=torch.float64)
        torch.testing.assert_close(turned(x, angles), torch.rot90(x, quarters, (2, 3)))


def test_every_image_has_its_own_angle_and_outside_is_black():
    x = torch.ones(2, 1, 10, 10, dtype=torch.float64)
    y = turned(x, torch.tensor([0.0, 45.0]))
    torch.testing.assert_close(y[0], x[0])
    assert y[1, 0, 0, 0] == 0
    assert y[1, 0, 5, 5] == pytest.approx(1.0)


def test_turning_there_and_back_is_nearly_nothing_on_smooth_images():
    ticks = torch.linspace(-3, 3, 28, dtype=torch.float64)
    x = torch.exp(-((ticks[:, None] - 0.8) ** 2) - ticks[None, :] ** 2)[None, None]
    there = turned(x, torch.tensor([37.0]))
    back = turned(there, torch.tensor([-37.0]))
    assert (back - x).norm() < 0.05 * x.norm()
    assert (there - x).norm() > 0.3 * x.norm()


def test_shifts_go_down_and_right_from_the_centre():
    x = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
    y = shifted(x.expand(2, -1, -1, -1), torch.tensor([[0, 0], [1, -2]]), 7)
    assert torch.equal(y[0, 0, 3:5, 2:5], x[0, 0])
    assert torch.equal(y[1, 0, 4:6, 0:3], x[0, 0])
    assert (y.flatten(1) != 0).sum(1).tolist() == [6, 6]


def test_a_image_must_stay_on_its_canvas():
    with pytest.raises(SofteqValueError, match=r"canvas: expected enough pixels for .* 4 x 4 shifted by up to 3"):
        shifted(torch.zeros(1, 1, 4, 4), torch.tensor([[0, -3]]), 7)


def test_the_widest_shifts_fit_and_leave_every_remainder_on_both_sides():
    """A hard network of stride 4 sees the shift modulo 4, which then says nothing about the side."""
    motions = Dial("translation", 4).motions(4000, generator_for())
    assert motions.shape == (4000, 2)
    assert sorted(set(motions[:, 1].tolist())) == list(range(-4, 4))
    for remainder in range(4):
        own = motions[motions[:, 1].remainder(4) == remainder, 1]
        assert abs(float((own < 0).double().mean()) - 0.5) < 0.06
    assert shifted(torch.ones(4000, 1, 12, 12), motions, 20).sum() == 4000 * 144


def test_angles_are_uniform_up_to_the_reach():
    angles = Dial("rotation", 45.0).motions(4000, generator_for())
    assert angles.shape == (4000, 1)
    assert angles.abs().max() <= 45
    assert float(angles.mean()) == pytest.approx(0, abs=1.5)
    assert float(angles.std()) == pytest.approx(90 / 12**0.5, rel=0.03)
    assert not Dial("rotation", 0).motions(5, generator_for()).any()
    assert not Dial("translation", 0).motions(5, generator_for()).any()


@pytest.mark.parametrize(("breaking", "changed"), [(0.0, 0), (0.5, 5), (1.0, 10)])
def test_labels_of_a_share_of_the_classes_depend_on_half_of_the_motions(breaking, changed):
    dial, y = Dial("rotation", 180.0, breaking), torch.arange(10)
    assert torch.equal(dial.labels(y, torch.full((10, 1), 20.0), 10), y)
    after = dial.labels(y, torch.full((10, 1), -20.0), 10)
    assert torch.equal(after[:changed], (y[:changed] + 1) % 10)
    assert torch.equal(after[changed:], y[changed:])
    assert dial.best_invariant_accuracy(y, 10) == pytest.approx(1 - breaking / 2)


def test_the_stated_accuracy_is_that_of_the_best_guess_from_the_class_alone():
    dial, y = Dial("translation", 3, 0.5), torch.arange(10).repeat(2000)
    labels = dial.labels(y, dial.motions(len(y), generator_for()), 10)
    best = sum(int(labels[y == k].bincount().max()) for k in range(10)) / len(y)
    assert best == pytest.approx(dial.best_invariant_accuracy(y, 10), abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_standardised_on_the_training_split_and_in_its_dtype(dtype):
    found = dialled(blobs(dtype=dtype), Stage(Dial("rotation", 180.0), 9), 180.0, generator_for())
    data = found.data
    assert data.x_train.dtype == found.x_moved.dtype == dtype
    assert float(data.x_train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.x_train.std()) == pytest.approx(1, rel=1e-5)
    black = float(data.x_test.min())
    assert black == pytest.approx(-data.mean / data.std, rel=1e-5)


def test_upright_images_are_only_cut_to_the_disc_and_averaged():
    images = blobs(size=(8, 8))
    found = dialled(images, Stage(Dial("rotation", 0.0), 4), 180.0, generator_for())
    pixels = (images.x_test * 0.25 + 0.5) * disc(8)
    expected = torch.nn.functional.avg_pool2d(pixels, 2)
    torch.testing.assert_close(found.data.x_test * found.data.std + found.data.mean, expected)
    assert (found.x_moved - found.data.x_test).abs().max() > 0.1


def test_test_images_move_alike_in_every_draw_and_training_images_do_not():
    first, second = (
        dialled(blobs(), Stage(Dial("rotation", 90.0, 1.0), 9), 180.0, generator_for(seed)) for seed in (0, 1)
    )
    unscaled = [f.data.x_test * f.data.std + f.data.mean for f in (first, second)]
    torch.testing.assert_close(*unscaled)
    assert torch.equal(first.data.y_test, second.data.y_test)
    assert torch.equal(first.y_moved, second.y_moved)
    assert (first.data.x_train - second.data.x_train).abs().max() > 0.1
    again = dialled(blobs(), Stage(Dial("rotation", 90.0, 1.0), 9), 180.0, generator_for(0))
    assert torch.equal(again.data.x_train, first.data.x_train)


def test_augmentation_moves_over_the_whole_range_and_keeps_what_the_image_holds():
    images = blobs()
    found = dialled(images, Stage(Dial("translation", 0), 9, 15), 3, generator_for())
    rows = torch.tensor([4, 4, 4, 7])
    x = found.augment(rows, generator_for(5)) * found.data.std + found.data.mean
    assert x.shape == (4, 1, 15, 15)
    pixels = images.x_train[rows] * 0.25 + 0.5
    torch.testing.assert_close(x.flatten(1).sum(1), pixels.flatten(1).sum(1))
    assert (x[0] - x[1]).abs().max() > 0.1
    places = {
        tuple(p.nonzero()[0].tolist())
        for p in found.augment(torch.full((300,), 4), generator_for(6)) > found.x_moved.min()
    }
    assert len(places) == 36


def test_corners_beyond_the_disc_say_nothing_of_the_angle():
    assert disc(8)[0, 0] == 0
    assert disc(8)[0, 4] == disc(9)[0, 4] == 1
    assert torch.equal(disc(9), disc(9).rot90())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scale", 1.0), "kind: expected one of rotation, translation, got 'scale'"),
        (("rotation", 270.0), "reach: expected an angle from 0 to 180 degrees, got 270"),
        (("rotation", float("nan")), "reach: expected an angle from 0 to 180 degrees, got nan"),
        (("translation", 1.5), "reach: expected a whole number of pixels of at least 0, got 1.5"),
        (("translation", -1), "reach: expected a whole number of pixels of at least 0, got -1"),
        (("rotation", 90.0, 1.5), r"breaking: expected a share of the classes in \[0, 1\]"),
        (("rotation", 0.0, 0.5), "breaking: .* 0 where reach is 0, got 0.5"),
    ],
)
def test_points_that_are_none(arguments, message):
    with pytest.raises(SofteqValueError, match=message):
        Dial(*arguments)


def test_images_that_do_not_fit():
    rotation = Dial("rotation", 90.0)
    with pytest.raises(SofteqValueError, match="images: expected square images, got 9 x 10"):
        dialled(blobs(size=(9, 10)), Stage(rotation, 9), 180.0, generator_for())
    with pytest.raises(SofteqValueError, match="images: expected square ones"):
        turned(torch.zeros(1, 1, 3, 4), torch.zeros(1))
    with pytest.raises(SofteqValueError, match="side: expected 1 to the images' 9 pixels, got 12"):
        dialled(blobs(), Stage(rotation, 12), 180.0, generator_for())
    with pytest.raises(SofteqValueError, match="widest: expected at least the dial's reach of 90"):
        dialled(blobs(), Stage(rotation, 9), 45.0, generator_for())
    with pytest.raises(SofteqValueError, match="canvas: expected enough pixels"):
        dialled(blobs(), Stage(Dial("translation", 3), 9, 12), 3, generator_for())
