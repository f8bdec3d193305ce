"""The Lie derivative leaves model and input as they were, and says what it cannot measure."""

import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.lie_derivative import affine_derivatives, lie_derivative
from softeq.measure.motion.actions import ImageMap, Pick

from .test_lie_derivative import noise, relative

BUFFER = torch.zeros(2, 3, 8, 8, dtype=torch.float64)


# What is left as it was, and what cannot be measured


def test_model_and_input_are_left_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).double()
    x = noise(2, 3, 8, 8)
    kept, before = x.clone(), model[2].running_mean.clone()
    found = lie_derivative(model, x, "rotation")
    assert torch.equal(x, kept)
    assert torch.equal(model[2].running_mean, before)
    assert model.training
    assert model[0].inplace
    assert all(p.requires_grad for p in model.parameters())
    assert not found.requires_grad
    x.requires_grad_()
    assert not lie_derivative(model, x, "rotation").requires_grad
    expanded = noise(1, 1, 8, 8).expand(2, 3, 8, 8)
    torch.testing.assert_close(
        lie_derivative(model, expanded, "rotation"), lie_derivative(model, expanded.clone(), "rotation")
    )


def test_an_entry_of_the_output():
    x = noise(2, 3, 8, 8)
    found = lie_derivative(lambda y: {"map": y.sin(), "n": 3}, x, "scale", Pick("map", ImageMap()))
    assert relative(found, lie_derivative(torch.sin, x, "scale", ImageMap())) == 0


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda y: (y, y), "the output is a tuple; measure.Pick"),
        (lambda y: y.flatten(1).argmax(1), "torch.int64, which has no derivative"),
        (lambda y: y.log(), r"NaN or infinite entries \(samples \[0, 1\]\)"),
        (lambda y: y + torch.rand(8), "random numbers"),
        (lambda y: BUFFER.copy_(y.detach()) * y, "writes into a tensor from outside"),
        (lambda y: y * float(y.numpy().sum()), "something else than torch"),
        (lambda y: y * y.unique().sum(), "aten::_unique2, which has no forward-mode derivative"),
        (lambda y: y * float(y.sum()), "Python numbers"),
    ],
)
def test_not_measurable(f, message):
    with pytest.raises(NotMeasurable, match=message):
        affine_derivatives(f, noise(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("f", "twin"),
    [
        (lambda y: y * (2 if y.sum() > 0 or y.mean() else 3) + int(y.max()) * y, lambda y: (2 + int(y.max())) * y),
        (lambda y: y * len(y.unique()), lambda y: y * y.numel()),
        (lambda y: y[y > 0], lambda y: y * (y > 0)),
        (lambda y: torch.stack([image.mul_(2) for image in y.clone()]), lambda y: 2 * y),
    ],
)
def test_functions_that_look_at_their_data(f, twin):
    x = noise(2, 3, 8, 8)
    found, expected = (affine_derivatives(g, x).derivatives for g in (f, twin))
    torch.testing.assert_close(found.flatten(1).sum(1), expected.flatten(1).sum(1))


def test_a_function_with_a_backward_of_its_own_is_measured_by_its_values():
    class Clamped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(-1, 1)

        @staticmethod
        def backward(ctx, g):
            return g  # straight through: no derivative of the values

    x = noise(2, 3, 8, 8)
    found = lie_derivative(Clamped.apply, x, "scale")
    torch.testing.assert_close(found, lie_derivative(lambda y: y.clamp(-1, 1), x, "scale"))


def test_infinite_derivatives_are_not_measured():
    with pytest.raises(NotMeasurable, match="although the output is finite"):
        lie_derivative(lambda y: (y - y.detach()).abs().sqrt(), noise(2, 3, 8, 8), "scale")


def test_other_errors_stay_themselves():
    with pytest.raises(RuntimeError, match="expected input"):
        lie_derivative(nn.Conv2d(5, 4, 3).double(), noise(2, 3, 8, 8), "scale")
    with pytest.raises(KeyError):
        lie_derivative(lambda y: {}["logits"], noise(2, 3, 8, 8), "scale")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("x", SofteqTypeError, "x: expected a tensor, got str"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), SofteqValueError, "x: expected floating data"),
        (torch.zeros(0, 3, 8, 8), SofteqValueError, "at least one sample"),
        (torch.zeros(3, 8, 8), SofteqValueError, "floating images"),
        (torch.full((2, 3, 8, 8), math.nan), SofteqValueError, r"samples \[0, 1\]"),
    ],
)
def test_bad_input(x, error, message):
    with pytest.raises(error, match=message):
        lie_derivative(nn.Identity(), x, "scale")


def test_bad_options():
    x = noise(2, 3, 8, 8)
    with pytest.raises(SofteqValueError, match="flow_in: expected one flow, got 2"):
        lie_derivative(nn.Identity(), x, ["scale", "rotation"])
    with pytest.raises(SofteqValueError, match="stencil: expected one of"):
        lie_derivative(nn.Identity(), x, "scale", stencil="cubic")
    with pytest.raises(SofteqValueError, match="chunk: expected"):
        affine_derivatives(nn.Identity(), x, chunk=0)
