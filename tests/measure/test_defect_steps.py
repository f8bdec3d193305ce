"""Finite steps, which become the Lie derivative as they shrink."""

import pytest
import torch
from torch import nn

from softeq import Scalar, T, Vector
from softeq.groups import SO
from softeq.measure.defect import (
    Element,
    equivariance_error,
    finite_step_curve,
)
from softeq.measure.lie_derivative import lie_derivative
from softeq.measure.motion.actions import ImageMap, Pick, UnderRep, Vectors
from softeq.measure.motion.flows import FLOWS
from softeq.measure.motion.spaces import group_flows, point_flows
from softeq.models.dynamics import SoftEMLP

from .test_defect import enlarged, forces, normal

# Finite steps


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 3, stride=2, padding=1)).double()


def curve_cases():
    rep = (2 * Vector + Scalar)(SO(3))
    torch.manual_seed(0)
    soft = enlarged(SoftEMLP(rep, (Vector + T(2))(SO(3)), channels=24, layers=1, constraint="soft").double())
    images, net = normal(2, 3, 12, 16), smooth()
    points = normal(3, 4, 3)
    return {
        "image": (net, images, "rotation", ImageMap()),
        "image, invariant": (lambda z: net(z).mean((2, 3)), images, "translation_y", None),
        "image, a flow": (net[:2], images, FLOWS["scale"], FLOWS["scale"]),
        "vectors": (soft, normal(4, rep.size), group_flows(rep)[1], UnderRep((Vector + T(2))(SO(3)))),
        "points": (lambda z: z.mean(1).tanh(), points, point_flows(3)[4], Vectors()),
        "entry": (lambda z: (None, z.mean(1).tanh()), points, point_flows(3)[4], Pick(1, Vectors())),
    }


CURVES = ["image", "image, invariant", "image, a flow", "vectors", "points", "entry"]


@pytest.mark.parametrize("name", CURVES)
def test_finite_steps_tend_to_the_lie_derivative(name):
    f, x, flow_in, flow_out = curve_cases()[name]
    steps, values = finite_step_curve(f, x, flow_in, flow_out, steps=[2.0**-k for k in range(6, 13)])
    limit = lie_derivative(f, x, flow_in, flow_out).flatten(1).norm(dim=1)
    assert steps.shape == (7,)
    assert values.shape == (7, len(x))
    gap = (values - limit).abs().amax(1) / limit.max()
    assert gap[-1] < 2e-3
    order = torch.log2(gap[:-1] / gap[1:])
    assert order[-3:].mean() == pytest.approx(1, abs=0.3)


def test_the_curve_of_an_equivariant_function_stays_at_zero():
    steps, values = finite_step_curve(forces, normal(3, 5, 3), point_flows(3)[5], Vectors())
    assert len(steps) == 8
    assert values.max() < 1e-10
    assert finite_step_curve(forces, normal(3, 5, 3), point_flows(3)[5])[1].min() > 1e-3


def test_an_element_may_be_any_callable():
    double, x = Element("double", lambda x: 2 * x), normal(3, 4)
    assert equivariance_error(torch.relu, x, double, lambda y: 2 * y).max() < 1e-12
    assert equivariance_error(torch.sigmoid, x, double, double).min() > 1e-2
