"""Trials of image classifiers: shifts, augmentation, the best epoch, the choice and what is measured of it."""

import math

import pytest
import torch
from torch import nn

from softeq import SoftConv2d
from softeq.errors import SofteqValueError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine.bookkeeping import counter, generator_for
from softeq.experiments.images.classification import Training, TrainSettings, train
from softeq.experiments.images.trials import (
    MEASURED,
    BestEpoch,
    Trained,
    chosen,
    defects,
    flip_and_crop,
    measure,
    shifted,
    shifted_at_random,
)


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


def quarters(n, seed):
    """The class is the quarter that is bright."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    return x, y


@pytest.fixture(scope="module")
def data():
    return LabelledImages("q", *quarters(120, 0), *quarters(60, 1), *quarters(80, 2), mean=0.5, std=0.25, classes=4)


CONFIG = {
    "measurement": {
        "images": 4,
        "shifts": [1, 4],
        "stencil": "bspline",
        "boundary": "mirror",
        "seed": 0,
        "batch_size": 4,
    }
}


def trained(data, lr, seed=0, epochs=6, soft=True):
    torch.manual_seed(seed)
    layer = SoftConv2d(1, 4, 3, size=8, padding=1) if soft else nn.Conv2d(1, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    watch = BestEpoch(model)
    settings = TrainSettings(epochs, 20, lr)
    training = train(model, data, settings, generator_for(0, 0), after_epoch=watch.epoch, on_step=watch.step)
    return Trained(model, {"lr": lr}, training, watch)


def test_the_trial_with_the_highest_validation_accuracy_is_measured(data):
    tried = [trained(data, 1e-7), trained(data, 1e-2), trained(data, 1e30)]
    metrics = measure(tried, data, CONFIG)
    assert chosen(tried) == metrics["chosen"] == 1
    assert [trial["lr"] for trial in metrics["trials"]] == [1e-7, 1e-2, 1e30]
    assert metrics["trials"][2]["diverged_at_step"] >= 1
    assert metrics["test_accuracy"] > 0.9
    assert metrics["shifted_accuracy_1"] > metrics["shifted_accuracy_4"] + 0.1
    assert 0 < metrics["weight_defect_mean"] < 1
    assert metrics["lee"] > 0
    assert metrics["seconds_per_step"] > 0
    assert metrics["parameters"] == sum(p.numel() for p in tried[1].model.parameters())


def test_accuracy_of_the_best_epoch_is_told_and_the_last_parameters_stay(data):
    one = trained(data, 1e-2, epochs=3)
    last = {name: value.clone() for name, value in one.model.state_dict().items()}
    watch = BestEpoch(one.model)
    watch.epoch(1, 0.5)
    assert (watch.best_epoch, watch.best_accuracy) == (1, 0.5)
    with torch.no_grad():
        one.model[-1].weight.zero_()
    watch.epoch(2, 0.5)
    watch.epoch(3, 0.4)
    assert watch.best_epoch == 1
    ruined = Trained(one.model, one.trial, one.training, watch)
    metrics = measure([ruined], data, CONFIG)
    assert metrics["test_accuracy_best_validation"] > 0.8 > 0.5 > metrics["test_accuracy"]
    assert not ruined.model[-1].weight.any()
    assert torch.equal(ruined.model[0].weight, one.model[0].weight)
    assert set(last) == set(ruined.model.state_dict())


def test_where_all_diverged_nothing_is_finite(data):
    metrics = measure([trained(data, 1e30)], data, CONFIG)
    for key in (*MEASURED, "shifted_accuracy_1", "shifted_accuracy_4"):
        assert math.isnan(metrics[key])
    assert metrics["diverged_at_step"] >= 1


def test_a_network_without_soft_layers_has_no_defect(data):
    assert defects(nn.Linear(2, 2)) == {}
    assert "weight_defect_mean" not in measure([trained(data, 1e-2, soft=False, epochs=1)], data, CONFIG)


def test_time_per_step_is_the_median(monkeypatch):
    moments = iter([0.0, 1.0, 2.0, 9.0, 10.0])
    monkeypatch.setattr("softeq.experiments.images.trials.time.perf_counter", lambda: next(moments))
    calls = []
    watch = BestEpoch(nn.Identity(), lambda: calls.append(1))
    assert math.isnan(watch.seconds_per_step)
    for _ in range(4):
        watch.step()
    assert watch.seconds_per_step == 1.0
    assert len(calls) == 4


def test_choice_of_equal_ones_is_the_first():
    def one(accuracy, diverged=None):
        return Trained(nn.Identity(), {}, Training([], [accuracy], diverged_at_step=diverged), BestEpoch(nn.Identity()))

    assert chosen([one(0.3), one(0.5), one(0.5)]) == 1
    assert chosen([one(0.9, diverged=3), one(0.0)]) == 1


def test_steps_are_counted():
    told = []
    step = counter(lambda done, total: told.append((done, total)), 3)
    for _ in range(3):
        step()
    assert told == [(1, 3), (2, 3), (3, 3)]
