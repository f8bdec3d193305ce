"""The layout of a batch in memory changes no value, and every layer hands on the one it got."""

import pytest
import torch

from softeq import Scalar, SoftBilinear, SoftGated, SoftLinear, T, Vector, groups
from softeq._layout import in_the_order_of, is_feature_major, turned
from softeq.nonlinearity import gated

GROUP = groups.O(3)
REP = (2 * Scalar + 3 * Vector + T(2))(GROUP)
LAYERS = {
    "linear": lambda constraint: SoftLinear(REP, gated(REP), constraint=constraint),
    "linear without bias": lambda constraint: SoftLinear(REP, REP, constraint=constraint, bias=False),
    "bilinear": lambda constraint: SoftBilinear(REP, REP, constraint=constraint),
    "gated": lambda constraint: SoftGated(REP, constraint=constraint),
}


def batch(size, rows=5):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_keeps_the_layout_and_its_values_do_not_depend_on_it(name, constraint):
    layer = LAYERS[name](constraint).double()
    x = batch(gated(REP).size if name == "gated" else REP.size)
    found = []
    for given in (x.clone().requires_grad_(), turned(x).requires_grad_()):
        y = layer(given)
        assert is_feature_major(y) == is_feature_major(given)
        assert y.is_contiguous() != is_feature_major(given)
        found.append([y, *torch.autograd.grad(y.sin().sum(), [given, *layer.parameters()])])
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)


def test_turning_keeps_values_and_turns_once():
    x = batch(4)
    once = turned(x)
    torch.testing.assert_close(once, x, atol=0, rtol=0)
    assert is_feature_major(once)
    assert not is_feature_major(x)
    assert turned(once).data_ptr() == once.data_ptr()
    assert in_the_order_of(once, once.T).data_ptr() == once.data_ptr()
    assert in_the_order_of(x, once.T).is_contiguous()


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (5, 1), (1, 4), (0, 4)])
def test_other_shapes_are_not_turned(shape):
    assert not is_feature_major(torch.zeros(shape))
