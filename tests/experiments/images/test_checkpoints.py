"""What is measured while a network is trained, when, and what is kept."""

import json
import math

import pytest
import torch
from torch import nn

from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine import record
from softeq.experiments.images.checkpoints import (
    QUANTITIES,
    Checkpoints,
    headline,
    measure_model,
    summarise,
    translation,
)
from softeq.experiments.training.loop import Training
from softeq.measure.lee import local_equivariance_error
from softeq.measure.motion.flows import FLOWS

HOW = {
    "images": 3,
    "epochs": [0, 2],
    "stencils": ["bspline", "reference"],
    "outputs": ["logits", "probabilities"],
    "boundary": "mirror",
    "margin": 0,
    "batch_size": 2,
    "seed": 0,
}
CONFIG = {"measurement": HOW, "target_accuracy": 0.6}


@pytest.fixture
def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 4)).double()


@pytest.fixture
def data():
    x, y = torch.randn(12, 1, 8, 8, dtype=torch.float64), torch.arange(12) % 4
    return LabelledImages("noise", x[:4], y[:4], x[4:8], y[4:8], x[8:], y[8:], mean=0.0, std=1.0, classes=4)


def test_what_is_kept_is_what_is_measured(model, data):
    found = measure_model(model, data.x_test, HOW)
    assert set(found) == set(HOW["stencils"])
    for stencil, output in (("bspline", "logits"), ("reference", "probabilities")):
        result = local_equivariance_error(model, data.x_test, output=output, stencil=stencil)
        ratios = torch.quantile(result.ratio_to_control(), 0.5, dim=0)
        entry = found[stencil][output]
        assert set(entry) == set(QUANTITIES)
        assert entry["relative"] == pytest.approx(list(result.mean("relative").values()), rel=1e-4)
        assert entry["mean_square"] == pytest.approx(list(result.mean("mean_square").values()), rel=1e-4)
        assert entry["relative_median"] == pytest.approx(list(result.median("relative").values()), rel=1e-4)
        assert entry["ratio_to_control"] == pytest.approx(ratios.tolist(), rel=1e-4)
    assert json.loads(json.dumps(record.encode(found))) == found


def test_a_summary_leaves_out_what_could_not_be_measured():
    values = torch.tensor([[1.0, 2.0], [math.nan, 4.0], [5.0, 123456.789]])
    kept = summarise({"relative": values, "mean_square": 10 * values}, values / 2)
    assert kept["relative"] == [3.0, pytest.approx(41154.0, abs=1)]
    assert kept["mean_square"][0] == 30.0
    assert kept["relative_median"] == [3.0, 4.0]
    assert kept["ratio_to_control"] == [1.5, 2.0]


def test_what_cannot_be_measured_says_why_and_is_never_a_number(data):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    nn.init.zeros_(constant[1].weight)
    lee = measure_model(constant, data.x_test, HOW)
    for stencil in HOW["stencils"]:
        for output in HOW["outputs"]:
            assert lee[stencil][output].keys() == {"not_measurable"}
            assert math.isnan(translation({"lee": lee}, stencil, output))


def test_translation_is_the_mean_of_both(model, data):
    lee = measure_model(model, data.x_test, HOW)
    for quantity in QUANTITIES:
        x, y = (lee["bspline"]["logits"][quantity][list(FLOWS).index(f"translation_{axis}")] for axis in "xy")
        assert translation({"lee": lee}, "bspline", quantity=quantity) == pytest.approx((x + y) / 2)
    assert math.isnan(translation(None, "bspline"))
    assert math.isnan(translation({"lee": lee}, "fourier"))


def test_checkpoints_are_those_asked_for_the_first_to_reach_the_target_and_the_last(model, data):
    watch = Checkpoints(model, data, CONFIG)
    for epoch, validation_accuracy in enumerate((0.1, 0.5, 0.55, 0.7, 0.4, 0.9)):
        watch(epoch, validation_accuracy)
    assert [c["epoch"] for c in watch.checkpoints] == [0, 2, 3]
    watch.finish()
    assert [c["epoch"] for c in watch.checkpoints] == [0, 2, 3, 5]
    assert watch.at(5)["validation_accuracy"] == 0.9
    assert watch.matched_epoch == 3
    assert watch.at(3)["validation_accuracy"] == 0.7
    assert watch.at(None) is None
    assert watch.seconds > 0


def test_a_target_that_is_reached_at_an_epoch_to_measure_is_measured_once(model, data):
    watch = Checkpoints(model, data, CONFIG)
    watch(2, 0.6)
    watch.finish()
    assert [c["epoch"] for c in watch.checkpoints] == [2]
    assert watch.matched_epoch == 2


def test_the_last_epoch_may_be_a_part_of_one_and_is_measured_once(model, data):
    watch = Checkpoints(model, data, CONFIG)
    watch.finish()
    assert watch.checkpoints == []
    watch(2, 0.1)
    watch(2.667, 0.2)
    watch.finish()
    watch.finish()
    assert [c["epoch"] for c in watch.checkpoints] == [2, 2.667]


def test_the_measured_images_are_the_first_of_the_test_split(model, data):
    watch = Checkpoints(model, data, CONFIG)
    watch(0, 0.0)
    assert watch.checkpoints[0]["lee"] == measure_model(model, data.x_test[:3], HOW)
    assert watch.checkpoints[0]["lee"] != measure_model(model, data.x_test[1:], HOW)


def test_measuring_leaves_the_model_as_it_was(model, data):
    model.append(nn.BatchNorm1d(4).double())
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Checkpoints(model, data, CONFIG)(0, 0.0)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_tables_numbers_are_of_the_last_and_the_matched_epoch(model, data):
    watch = Checkpoints(model, data, CONFIG)
    watch(2, 0.7)
    nn.init.normal_(model[1].weight)
    watch(5, 0.9)
    watch.finish()
    metrics = headline(watch, Training(at_equal_steps=0.25))
    assert metrics["test_accuracy_equal_steps"] == 0.25
    first, last = watch.checkpoints
    assert metrics["test_accuracy"] == last["test_accuracy"]
    for stencil in HOW["stencils"]:
        assert metrics[f"translation_lee_{stencil}"] == translation(last, stencil)
        assert metrics[f"translation_ratio_{stencil}"] == translation(last, stencil, quantity="ratio_to_control")
        assert (
            metrics[f"matched_translation_lee_{stencil}"] == translation(first, stencil) != translation(last, stencil)
        )


def test_no_matched_numbers_where_the_target_was_not_reached(model, data):
    watch = Checkpoints(model, data, CONFIG)
    watch(5, 0.5)
    watch.finish()
    assert not any(key.startswith("matched") for key in headline(watch, Training()))


def test_a_diverged_training_has_no_numbers_of_its_last_epoch(model, data):
    watch = Checkpoints(model, data, CONFIG)
    watch(0, 0.1)
    metrics = headline(watch, Training(diverged_at_step=7, at_equal_steps=0.5))
    assert {"test_accuracy", "test_accuracy_equal_steps", "translation_lee_bspline"} <= metrics.keys()
    assert all(math.isnan(value) for value in metrics.values())
