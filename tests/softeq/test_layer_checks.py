"""check_layer passes a layer of a user's and fails on each of its promises that a layer breaks."""

import pytest
import torch
from torch import nn

from softeq import SofteqTypeError, SofteqValueError, SoftLinear, SoftPathways, Vector
from softeq._layer_situations import CHECKS
from softeq.groups import O
from softeq.testing import check_layer

from .broken_layers import BROKEN, SHIFTS, SoftCirculant

IMAGES = (2, 6, 6, 6)


def example(check):
    return torch.randn(IMAGES if check == "channels_last" else (4, 6))


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
@pytest.mark.parametrize("check", [name for name in CHECKS if name != "pickle"])
def test_a_users_layer_passes(check, constraint):
    layer = SoftCirculant(constraint=constraint)
    spaces = (SHIFTS, SHIFTS)
    assert check_layer(layer, example(check), only=[check], spaces=spaces)[check] == "passed" or constraint != "soft"


def test_every_check_has_a_layer_that_fails_it():
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("check", "broken"), [(check, layer) for check, layers in BROKEN.items() for layer in layers])
def test_a_broken_promise_is_found(check, broken):
    layer = broken()
    with pytest.raises(AssertionError, match=f"^{check}: "):
        check_layer(layer, example(check), only=[check], spaces=(SHIFTS, SHIFTS))


def test_what_does_not_apply_is_said():
    found = check_layer(SoftPathways(equivariant=nn.Linear(3, 3), residual=nn.Linear(3, 3)), torch.randn(2, 3))
    assert found["equivariance"] == "how the group acts is not known: give spaces"
    assert found["merged"] == "the layer has no merged weight"
    assert found["fold"] == "passed"


REFUSED = {
    "no layer": (nn.Linear(3, 3), torch.randn(2, 3), {}, SofteqTypeError, "layer: expected a SoftLayer"),
    "no tensor": (SoftCirculant(), [1.0], {}, SofteqTypeError, "example: expected a tensor"),
    "nothing": (SoftCirculant(), (), {}, SofteqTypeError, "example: expected a tensor"),
    "unknown": (SoftCirculant(), torch.randn(2, 6), {"only": ["speed"]}, SofteqValueError, "expected names among"),
    "unknown to skip": (SoftCirculant(), torch.randn(2, 6), {"skip": ["speed"]}, SofteqValueError, "expected names"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case):
    layer, x, options, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        check_layer(layer, x, **options)


def test_the_layer_is_left_as_it_was():
    layer = SoftLinear(Vector(O(3)), Vector(O(3))).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    check_layer(layer, torch.randn(2, 3), skip=["compile", "export"])
    assert layer.training
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
