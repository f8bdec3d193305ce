"""Empty irreps in every layer between irreps, as e3nn has them: zeros, or the bias."""

import pytest
import torch
from e3nn import o3

from softeq import (
    Prior,
    SofteqValueError,
    SoftGate,
    SoftO3Linear,
    SoftTensorProduct,
    fold,
    prior_penalty,
    weight_defect,
)
from softeq._irreps_external import SoftO3ExternalLinear
from softeq.groups import O, O2eR3

EMPTY = ["", "0x0e", "0x1o + 0x0e"]
CONSTRAINTS = ["soft", "hard", "none"]


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("empty", EMPTY)
def test_linear(empty, constraint):
    layer = SoftO3Linear(empty, "2x0e + 1o", constraint=constraint)
    y = layer(torch.zeros(3, 0))
    torch.testing.assert_close(y, layer.bias.expand(3, 5))
    torch.testing.assert_close(fold(layer)(torch.zeros(3, 0)), y)
    assert weight_defect(layer) == {"": 0.0}
    assert float(prior_penalty(layer, Prior())) >= 0
    y.sum().backward()
    out = SoftO3Linear("2x0e + 1o", empty, constraint=constraint)
    assert out(torch.randn(3, 5)).shape == fold(out)(torch.randn(3, 5)).shape == (3, 0)
    assert out.bias is None
    part = SoftO3Linear(f"{empty or '0x2e'} + 1o", "1o + 0x0e", constraint=constraint)
    assert part(torch.randn(3, 3)).shape == (3, 3)
    with pytest.raises(SofteqValueError, match="ladder: expected None between empty irreps"):
        SoftO3Linear(empty, "0e", ladder=[O(3), O2eR3()])


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("empty", EMPTY)
def test_gate(empty, constraint):
    layer = SoftGate(empty, constraint=constraint)
    assert layer.irreps_in.dim == 0
    assert layer(torch.zeros(3, 0)).shape == fold(layer)(torch.zeros(3, 0)).shape == (3, 0)


@pytest.mark.parametrize("kind", ["full", "channelwise"])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("empty", EMPTY)
def test_product(empty, constraint, kind):
    for irreps in ((empty, "0e + 1o", "0e + 1o"), ("0e + 1o", empty, "0e + 1o"), ("0e + 1o", "0e", empty)):
        layer = SoftTensorProduct(*irreps, kind=kind, constraint=constraint)
        inputs = [torch.randn(3, i.dim) for i in (layer.irreps_in1, layer.irreps_in2)]
        y = layer(*inputs)
        assert torch.equal(y, torch.zeros(3, layer.irreps_out.dim))
        assert torch.equal(fold(layer)(*inputs), y)
    partly = SoftTensorProduct("0x0e + 1o", "0e + 0x2e", "1o + 0x0e", kind=kind, constraint="hard")
    assert partly(torch.randn(3, 3), torch.randn(3, 1)).norm() > 0


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("empty", EMPTY)
def test_external(empty, constraint):
    for irreps in ((empty, "0e + 1o"), ("0e + 1o", empty)):
        layer = SoftO3ExternalLinear(*irreps, constraint=constraint, bias=False)
        assert layer.weight_numel == 0
        y = layer(torch.randn(3, layer.irreps_in.dim), torch.zeros(0))
        assert torch.equal(y, torch.zeros(3, layer.irreps_out.dim))


def test_e3nn_agrees():
    assert torch.equal(o3.Linear("0x0e", "2x0e + 1o")(torch.zeros(3, 0)), torch.zeros(3, 5))
    assert torch.equal(SoftO3Linear("0x0e", "2x0e + 1o", bias=False)(torch.zeros(3, 0)), torch.zeros(3, 5))
