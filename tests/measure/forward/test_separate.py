import pytest
import torch
from torch import nn

from softeq.measure import (
    NotMeasurable,
    equivariance_error,
    finite_step_curve,
    flip_horizontal,
    layerwise,
    local_equivariance_error,
)
from softeq.measure.forward.separate import check_separate


def noise(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def network(*middle):
    torch.manual_seed(0)
    tail = (nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    return nn.Sequential(nn.Conv2d(3, 4, 3), *middle, *tail).double().eval()


class AlongTheBatch(nn.Module):
    """Attention that takes the batch for the sequence: torch's layer without batch_first."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8)

    def forward(self, x):
        return self.layer(x.flatten(2).mT).mT.reshape(x.shape)


class RecurrentAlongTheBatch(nn.Module):
    """torch's recurrence without batch_first: nothing reaches the sample that it begins with."""

    def __init__(self, backward=False):
        super().__init__()
        self.layer, self.order = nn.LSTM(4, 4), -1 if backward else 1

    def forward(self, x):
        rows = x.flatten(2).mT
        return (self.layer(rows.flip(0))[0].flip(0) if self.order < 0 else self.layer(rows)[0]).mT.reshape(x.shape)


class Functional(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


COUPLED = {
    "batch statistics": (network(nn.BatchNorm2d(4, track_running_stats=False)), r"module '1', BatchNorm2d"),
    "attention along the batch": (network(AlongTheBatch()), r"module '1.layer"),
    "recurrence along the batch": (network(RecurrentAlongTheBatch()), r"of the last changes.*module '1.layer'"),
    "backwards": (network(RecurrentAlongTheBatch(backward=True)), r"of the first changes.*module '1"),
    "softmax along the batch": (network(nn.Softmax(0)), r"module '1', Softmax"),
    "functional": (network(Functional()), r"module '1', Functional"),
    "between modules": (lambda x: x.flatten(1) - x.flatten(1).mean(0), "does not treat the samples of a batch apart"),
}
MEASURES = {
    "lee": lambda f, x: local_equivariance_error(f, x, ["translation_x"], output="logits"),
    "flip": lambda f, x: equivariance_error(f, x, flip_horizontal()),
    "steps": lambda f, x: finite_step_curve(f, x, "rotation", steps=[0.1]),
    "layerwise": lambda f, x: layerwise(f, x, "rotation", output="logits"),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("measure", MEASURES)
def test_a_batch_that_couples_is_refused_naming_the_module(measure, name):
    f, message = COUPLED[name]
    if measure == "layerwise" and not isinstance(f, nn.Module):
        pytest.skip("takes modules alone")
    with pytest.raises(NotMeasurable, match=message) as caught:
        MEASURES[measure](f, noise(3, 3, 10, 10))
    assert "does not treat the samples of a batch apart" in str(caught.value)


def test_one_at_a_time_it_is_measured():
    f, x = COUPLED["batch statistics"][0], noise(2, 3, 10, 10)
    found = local_equivariance_error(f, x, ["rotation"], output="logits", batch_size=1)
    assert found.per_sample().isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_networks_that_do_not_couple_pass(dtype):
    model = network(nn.BatchNorm2d(4), nn.GroupNorm(2, 4)).to(dtype)
    for measure in MEASURES.values():
        measure(model, noise(3, 3, 10, 10, dtype=dtype))


@pytest.mark.parametrize("error", [ValueError, AssertionError, RuntimeError])
def test_a_function_of_one_batch_size_alone_is_asked_with_copies(error):
    def fixed(x, coupled):
        if len(x) != 3:
            raise error("exported for three")
        return x.flatten(1) - coupled * x.flatten(1).mean(0)

    x = noise(3, 3, 4, 4)
    check_separate(lambda z: fixed(z, 0), x, fixed(x, 0))
    with pytest.raises(NotMeasurable, match="apart"):
        check_separate(lambda z: fixed(z, 1), x, fixed(x, 1))


def test_training_mode_of_a_function_s_module():
    model = network(nn.BatchNorm2d(4)).train()
    with pytest.raises(NotMeasurable, match=r"apart.*BatchNorm2d"):
        local_equivariance_error(lambda x: model(x), noise(3, 3, 10, 10), ["rotation"], output="logits")
    assert model.training
    assert torch.equal(model[1].running_mean, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("f", [lambda x: x.sum(), lambda x: x.flatten(1)[:1], lambda x: x.flatten(1).repeat(2, 1)])
def test_outputs_that_lost_the_batch_are_refused(f):
    for output in ("logits", "probabilities"):
        with pytest.raises(NotMeasurable, match=r"one entry per sample|class logits"):
            local_equivariance_error(f, noise(3, 3, 4, 4), ["rotation"], output=output)
    with pytest.raises(NotMeasurable, match="one entry per sample"):
        equivariance_error(f, noise(3, 3, 4, 4), flip_horizontal())
