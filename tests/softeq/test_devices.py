"""Soft layers on a GPU: every form has the values and gradients that it has on a CPU, and moves between them."""

import copy
import io

import pytest
import torch
from torch.nn import functional as F

from softeq import (
    MergedLayer,
    Prior,
    Scalar,
    SoftLinear,
    SoftO3Linear,
    T,
    Vector,
    anchor,
    assert_equivariant,
    fold,
    groups,
    harden,
    prior_penalty,
    summary,
)

from . import test_attention, test_conv, test_pathways

O3 = groups.O(3)
REP_IN, REP_OUT = (Scalar + 2 * Vector + T(2))(O3), (2 * Scalar + Vector + T(2))(O3)
IRREPS = "2x0e+1x1o+1x2e", "1x0e+2x1o+1x1e+1x2e"
LADDER = [O3, groups.O2eR3()]


def o3_linear(**options):
    pytest.importorskip("e3nn")
    return SoftO3Linear(*IRREPS, **options)


# Per layer how it is built, the shape of a sample, and its spaces where they are not on it.
LAYERS = {
    "linear": (lambda: SoftLinear(REP_IN, REP_OUT), (REP_IN.size,)),
    "linear, projected": (lambda: SoftLinear(REP_IN, REP_OUT, parametrization="projected"), (REP_IN.size,)),
    "linear, ladder": (lambda: SoftLinear(REP_IN, REP_OUT, ladder=LADDER), (REP_IN.size,)),
    "linear, permutations": (
        lambda: SoftLinear((T(2) + Vector)(groups.Permutation(4)), T(2)(groups.Permutation(4))),
        (20,),
    ),
    **{kind: (lambda b=b: b("soft"), (test_pathways.WIDTHS[kind],)) for kind, b in test_pathways.LAYERS.items()},
    **{
        f"{geometry}, {form}": (
            lambda g=geometry, f=form: test_conv.build(g, residual=f),
            test_conv.build(geometry).size,
        )
        for geometry in ("series", "3x3 same", "strided", "volume, circular")
        for form in test_conv.FORMS
    },
    "attention": (lambda: test_attention.build(**test_attention.PERIODIC, prefix=1), (13, 8)),
    "attention, lowrank": (lambda: test_attention.build(residual="lowrank"), (12, 8)),
    "irreps": (o3_linear, (10,)),
    "irreps, ladder": (lambda: o3_linear(ladder=LADDER), (10,)),
}
HARD = ["linear", "linear, projected", "SoftLinear", "SoftBilinear", "SoftGated", "irreps"]


def built(name):
    """The layer in float64, far from its start, and an input."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    if hasattr(layer, "in_channels"):
        shape = (layer.in_channels, *layer.size)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer, torch.randn(4, *shape, generator=generator, dtype=torch.float64)


def results(layer, x):
    """Values, the gradients of a loss with the prior, and its value; on the CPU."""
    x = x.clone().requires_grad_()
    y = layer(x)
    loss = y.sin().sum() + prior_penalty(layer, Prior(equivariant=0.3, residual=2.0))
    return [v.cpu() for v in (y.detach(), loss.detach(), *torch.autograd.grad(loss, [x, *layer.parameters()]))]


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_a_cpu(name, device):
    layer, x = built(name)
    moved = copy.deepcopy(layer).to(device)
    torch.testing.assert_close(results(moved, x.to(device)), results(layer, x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_the_merged_the_summed_and_the_folded_form_agree(name, device):
    layer, x = (value.to(device) for value in built(name))
    with torch.no_grad():
        y = layer(x)
        torch.testing.assert_close(fold(layer)(x), y, atol=1e-9, rtol=1e-9)
        if isinstance(layer, SoftLinear | SoftO3Linear):
            torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), y, atol=1e-9, rtol=1e-9)
        if isinstance(layer, MergedLayer):
            assert 0 < layer.weight_defect() < 1
            nearest = layer.nearest(layer.weight)
            assert nearest.device.type == device
            torch.testing.assert_close(layer.nearest(nearest), nearest, atol=1e-9, rtol=1e-9)
    assert str(summary(layer))
    anchor(layer)
    assert float(prior_penalty(layer, Prior(1.0, 1.0)).detach()) == 0
    assert prior_penalty(layer, Prior()).device.type == device


@pytest.mark.parametrize("name", HARD)
def test_hard_layers_are_equivariant(name, device):
    layer, _ = built(name)
    hard = harden(layer).to(device)
    if name == "irreps":
        spaces = IRREPS
    elif name == "SoftGated":
        spaces = test_pathways.GATED, test_pathways.REP
    else:
        spaces = layer.rep_in, layer.rep_out
    assert_equivariant(hard, *spaces, tolerance=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_a_state_and_a_layer_go_to_the_device_and_back(name, device):
    layer, x = built(name)
    there = copy.deepcopy(layer).to(device)
    kept = io.BytesIO()
    torch.save(there.state_dict(), kept)
    for place in ("cpu", device):
        kept.seek(0)
        twin, _ = built(name)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        twin.load_state_dict(torch.load(kept, map_location=place, weights_only=True))
        torch.testing.assert_close(dict(twin.state_dict()), dict(layer.state_dict()), atol=0, rtol=0)
    torch.testing.assert_close(there.cpu()(x), layer(x), atol=1e-12, rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["linear", "3x3 same, local", "SoftBilinear"])
def test_compiled_layers_give_what_they_give_eagerly(name):
    layer, x = (value.cuda() for value in built(name))
    torch.compiler.reset()
    compiled = torch.compile(layer)
    found = []
    for f in (layer, compiled):
        y = f(x)
        found.append([y.detach(), *torch.autograd.grad(y.sin().sum(), list(layer.parameters()))])
    torch.testing.assert_close(found[1], found[0], atol=1e-9, rtol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_close(name, dtype):
    layer, x = (value.float().cuda() for value in built(name))
    y = layer(x)
    with torch.autocast("cuda", dtype):
        cast = layer(x)
    (cast.float().square().mean()).backward()
    assert float((cast - y).detach().norm() / y.detach().norm()) < 0.03
    assert all(p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all()) for p in layer.parameters())
