import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.data import quarters
from softeq.experiments.data.quarters import ROTATED, UPRIGHT, QuarterPoint, load_quarters, orbits, quarter_turned


@pytest.mark.parametrize("side", [2, 8, 14])
def test_a_quarter_turn_shifts_each_orbit_by_one(side):
    x = torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0))
    order = orbits(side)
    assert sorted(order.tolist()) == list(range(side * side))
    still = x.flatten(1)[:, order].view(3, -1, 4)
    rotated = x.rot90(1, (-2, -1)).flatten(1)[:, order].view(3, -1, 4)
    assert torch.equal(rotated, still.roll(1, -1))


def test_each_image_is_rotated_by_its_own_turn():
    x = torch.arange(12.0).view(3, 1, 2, 2)
    got = quarter_turned(x, torch.tensor([0, 1, 3]))
    assert got[:, 0].tolist() == [[[0, 1], [2, 3]], [[5, 7], [4, 6]], [[10, 8], [11, 9]]]


def test_the_dial():
    sizes = (60, 20, 30)
    upright = load_quarters("digits", sizes, UPRIGHT, 0)
    rotated = load_quarters("digits", sizes, ROTATED, 0)
    broken = load_quarters("digits", sizes, QuarterPoint("b", breaking=0.5), 0)
    assert upright.x_train.shape == (60, 1, 8, 8)
    assert upright.x_train.mean().abs() < 1e-5
    assert torch.equal(upright.y_train, rotated.y_train)
    same = [
        any(torch.equal(u, r.rot90(k, (-2, -1))) for k in range(4))
        for u, r in zip(upright.x_train, rotated.x_train, strict=True)
    ]
    assert all(same)
    assert torch.equal(broken.x_train, rotated.x_train)
    changed = broken.y_train != rotated.y_train
    assert 0 < changed.sum() < 40
    assert (rotated.y_train[changed] < 5).all()
    assert ((broken.y_train - rotated.y_train)[changed] == 1).all()


def test_seeds_draw_training_images_and_not_test_images():
    a, b, again = (load_quarters("digits", (60, 20, 30), ROTATED, s) for s in (0, 1, 0))
    assert torch.equal(a.x_train, again.x_train)
    assert not torch.equal(a.y_train, b.y_train)
    assert torch.equal(a.y_test, b.y_test)


def test_labels_after_a_turn():
    y = torch.tensor([0, 0, 0, 9, 9])
    turns = torch.tensor([0, 1, 2, 2, 3])
    assert quarters.labels_after(y, turns, 1.0, 10).tolist() == [0, 0, 1, 0, 0]
    assert quarters.labels_after(y, turns, 0.5, 10).tolist() == [0, 0, 1, 9, 9]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orbits(7), "side: expected an even"),
        (lambda: QuarterPoint("x", breaking=1.5), "breaking: expected a share"),
        (lambda: QuarterPoint("x", rotated=False, breaking=0.5), "breaking: expected a share"),
        (lambda: load_quarters("digit", (1, 1, 1), ROTATED, 0), "source: expected one of digits"),
        (lambda: load_quarters("digits", (1200, 1, 1), ROTATED, 0), "sizes: expected at least 1"),
        (lambda: load_quarters("digits", (0, 1, 1), ROTATED, 0), "sizes: expected at least 1"),
        (lambda: quarter_turned(torch.zeros(1, 1, 2, 4), torch.zeros(1)), "images: expected square"),
    ],
    ids=["odd", "share", "upright", "source", "many", "none", "square"],
)
def test_bad_input(call, message):
    with pytest.raises(SofteqValueError, match=message):
        call()
