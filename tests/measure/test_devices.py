"""Lie derivatives and the local equivariance error on a GPU: the numbers of a CPU, and those of finite differences."""

import copy

import pytest
import torch
from torch import nn

from softeq.measure.curve import displacement_curve
from softeq.measure.decibels import equivariance_decibels
from softeq.measure.lee import local_equivariance_error
from softeq.measure.lie_derivative import affine_derivatives, lie_derivative
from softeq.measure.motion.actions import ImageMap

from .test_lee import images, smooth_cnn

FLOWS = ("rotation", "translation_x", "scale")


@pytest.mark.parametrize("stencil", ["bspline", "fourier"])
def test_the_local_equivariance_error_is_that_of_a_cpu(stencil, device):
    model, x = smooth_cnn(), images()
    options = {"stencil": stencil, "boundary": "periodic", "draws": 4, "output": "logits"}
    wanted = local_equivariance_error(model, x, FLOWS, **options)
    found = local_equivariance_error(copy.deepcopy(model).to(device), x.to(device), FLOWS, **options)
    assert float(wanted.per_sample().max()) > 1e-6
    for name in ("per_sample", "ratio_to_control"):
        values = [torch.as_tensor(getattr(result, name)()).double().cpu() for result in (found, wanted)]
        torch.testing.assert_close(*values, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_forward_derivative_is_that_of_finite_differences(flow, device):
    model, x, step = smooth_cnn().to(device), images().to(device), 1e-5
    tangent = lie_derivative(lambda value: 1 * value, x, flow)
    found = lie_derivative(model, x, flow)
    with torch.no_grad():
        wanted = (model(x + step * tangent) - model(x - step * tangent)) / (2 * step)
    assert found.device.type == device
    assert float(wanted.norm()) > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_all_affine_flows_at_once_are_those_of_a_cpu(device):
    model, x = smooth_cnn(), images()
    wanted = affine_derivatives(model, x)
    found = affine_derivatives(copy.deepcopy(model).to(device), x.to(device))
    torch.testing.assert_close(found.value.cpu(), wanted.value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.derivatives.cpu(), wanted.derivatives, rtol=1e-9, atol=1e-12)


def test_chunks_give_the_same(device):
    model, x = smooth_cnn().to(device), images(8).to(device)
    whole, parts = (affine_derivatives(model, x, chunk=chunk).derivatives for chunk in (None, 2))
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_curves_and_decibels_are_those_of_a_cpu(device):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh()).double(), images(2, 2, 24, 24)
    pairs = [(copy.deepcopy(model).to(device), x.to(device)), (model, x)]
    for flow in ("rotation", "translation_x"):
        found, wanted = (displacement_curve(f, y, flow, [0.3, 2.0], output=ImageMap()) for f, y in pairs)
        torch.testing.assert_close(found.values["relative"], wanted.values["relative"], rtol=1e-8, atol=1e-14)
    for kind in ("EQ-T_frac", "EQ-R"):
        found, wanted = (equivariance_decibels(f, y, kind, ImageMap(), draws=2) for f, y in pairs)
        assert found.value == pytest.approx(wanted.value, rel=1e-8)
