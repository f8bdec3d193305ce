"""Classifying images: which split is looked at for what, and what is measured."""

import math

import pytest
import torch
from torch import nn

from softeq import SoftConv2d
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.images.tasks import ImageTask, accuracy, measure_lee
from softeq.experiments.training.trials import run_trials

HOW = {"images": 4, "shifts": [1, 4], "stencil": "bspline", "boundary": "mirror", "seed": 0, "batch_size": 4}


def quarters(n, seed):
    """The class is the quarter that is bright."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    return x, y


def task(**changes):
    data = LabelledImages("q", *quarters(120, 0), *quarters(60, 1), *quarters(80, 2), mean=0.5, std=0.25, classes=4)
    return ImageTask(data, HOW, **changes)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = SoftConv2d(1, 4, 3, size=8, padding=1)
        return nn.Sequential(layer, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))


class Constant(nn.Module):
    """Always the same class."""

    def forward(self, x):
        return torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(len(x), 4)


def test_each_split_has_its_own_purpose():
    one, model = task(), Constant()
    one.data.y_train[:], one.data.y_validation[:], one.data.y_test[:] = 0, 1, 2
    one.data.y_test[:20] = 1
    assert one.validation_error(model) == 0.0
    assert one.test(model) == 0.25
    loss, output = one.loss(model, torch.arange(3), None)
    assert loss.item() == pytest.approx(-math.log(1 / (3 + math.e)))
    assert output.shape == (3, 4)
    assert one.samples == 120


def test_augmented_images_may_come_from_elsewhere_by_their_rows():
    seen = []

    def motion(rows, generator):
        seen.append((rows.tolist(), generator))
        return torch.zeros(len(rows), 1, 8, 8)

    one, drawn = task(motion=motion), torch.Generator()
    one.loss(network(), torch.tensor([5, 3]), drawn)
    assert seen == [([5, 3], drawn)]
    one.loss(network(), torch.tensor([5, 3]), None)
    assert len(seen) == 1


def test_a_network_learns_and_is_measured():
    training = {"steps": 36, "batch_size": 20, "validate_every": 6}
    config = {"rule": "fixed", "augment": None, "seed": 0, "training": training}
    trials = [{"lr": lr, "prior": {"residual": 1.0}} for lr in (1e-7, 1e-2, 1e30)]
    one = task()
    metrics = run_trials(one, network, config | {"trials": trials})
    assert metrics["chosen"] == 1
    assert metrics["trials"][2]["diverged_at_step"] >= 1
    assert metrics["test_accuracy"] > 0.9
    assert metrics["shifted_accuracy_1"] > metrics["shifted_accuracy_4"] + 0.1
    assert 0 < metrics["weight_defect_mean"] < 1
    assert metrics["lee"] > 0
    lost = run_trials(one, network, config | {"trials": trials[2:]})
    assert all(math.isnan(lost[key]) for key in one.keys)


def test_accuracy_counts_what_is_right_and_leaves_the_mode_alone():
    x, y = torch.eye(4).view(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    model = nn.Flatten().train()
    assert accuracy(model, x, y) == 0.75
    assert model.training
    x[0] = math.nan
    assert accuracy(model, x, y) == 0.5


def test_batch_statistics_do_not_enter_an_accuracy():
    one, model = task(), network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    whole = accuracy(model, one.data.x_test, one.data.y_test)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    parts = [accuracy(model, one.data.x_test[k : k + 1], one.data.y_test[k : k + 1]) for k in range(80)]
    assert sum(parts) / 80 == pytest.approx(whole)


def test_what_cannot_be_measured_says_why():
    found = measure_lee(Constant(), task().data.x_test, HOW, ("translation_x",))
    assert set(found) == {"not_measurable"}
