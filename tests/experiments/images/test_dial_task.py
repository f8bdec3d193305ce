"""What is learned and measured at a point of the dial."""

import math

import pytest
import torch
from torch import nn

from softeq import Scalar, SoftLinear, Vector
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.images import dial_task
from softeq.groups import Z

CONFIG = {
    "data": {"kind": "rotation", "side": 7, "canvas": 7, "widest": 180.0},
    "measurement": {"images": 4, "stencil": "bspline", "boundary": "mirror", "seed": 0, "batch_size": 4},
    "seed": 0,
    "dtype": "float64",
    "device": "cpu",
}
POINT = {"name": "90", "data": "bars", "sizes": [20, 10, 8], "reach": 90.0, "breaking": 0.0}


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Images of noise, and how often they were asked for."""
    calls = []

    def load(name, sizes, generator, dtype):
        calls.append((name, sizes))
        drawn = [torch.rand(n, 1, 28, 28, generator=generator, dtype=dtype) for n in sizes]
        splits = [part for x in drawn for part in (x, torch.arange(len(x)) % 10)]
        return LabelledImages(name, *splits, mean=0.5, std=0.25)

    monkeypatch.setattr(dial_task, "load_images", load)
    dial_task._images.cache_clear()
    yield calls
    dial_task._images.cache_clear()


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), SoftLinear((7 * Vector)(Z(7)), (10 * Scalar)(Z(7)))).double()


def task_at(seed=0, **changes):
    return dial_task.task_of(CONFIG | {"seed": seed}, POINT | changes)


def test_validation_images_choose_and_test_images_do_not():
    task, model = task_at(), network()
    before = task.validation_error(model)
    task.data.y_test[:] = (task.data.y_test + 1) % 10
    assert task.validation_error(model) == before
    task.data.y_validation[:] = model(task.data.x_validation).argmax(1)
    assert task.validation_error(model) == 0.0


def test_images_of_a_seed_are_read_once_for_all_points(asked):
    first, again = task_at(), task_at(reach=0.0)
    assert asked == [("bars", (20, 10, 8))]
    assert not torch.equal(first.data.x_train, again.data.x_train)
    assert torch.equal(first.data.y_train, again.data.y_train)
    task_at(seed=1)
    assert len(asked) == 2


def test_what_is_measured():
    task, model = task_at(), network()
    found = task.measure(model)
    assert set(task.keys) <= set(found)
    assert found["accuracy"] == task.test(model)
    assert found["defect"] == pytest.approx(sum(found["weight_defect"].values()) / len(found["weight_defect"]))
    assert 0 < found["lee"] < math.inf
    task.moved.y_moved[:] = model(task.moved.x_moved).argmax(1)
    again = task.measure(model)
    assert (again["moved_accuracy"], again["accuracy"]) == (1.0, found["accuracy"])
