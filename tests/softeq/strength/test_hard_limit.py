"""At precision 1e12 a soft network is the hard one: same start, same batches, outputs to 1e-5."""

import copy

import pytest
import torch
from torch import nn

from softeq import (
    Prior,
    Scalar,
    SoftAttention,
    SoftBilinear,
    SoftConv2d,
    SoftGated,
    SoftLinear,
    SoftO3Linear,
    SoftR2Conv,
    T,
    Vector,
    gated,
    groups,
    harden,
)
from softeq.strength import rule

REP = (2 * Scalar + 2 * Vector)(groups.O(3))
OUT = (Scalar + T(2))(groups.O(3))


def linear():
    return nn.Sequential(SoftLinear(REP, gated(REP)), SoftGated(REP), SoftLinear(REP, OUT)), torch.randn(16, REP.size)


def bilinear():
    return nn.Sequential(SoftLinear(REP, REP), SoftBilinear(REP, REP), SoftLinear(REP, OUT)), torch.randn(16, REP.size)


def convolution():
    layers = [SoftConv2d(2, 4, 3, size=(6, 6), padding=1, residual=kind) for kind in ("local", "lowrank")]
    layers[1] = SoftConv2d(4, 4, 3, size=(6, 6), padding=1, residual="lowrank")
    return nn.Sequential(layers[0], nn.Tanh(), layers[1]), torch.randn(8, 2, 6, 6)


def steerable():
    gspaces, escnn_nn = pytest.importorskip("escnn.gspaces"), pytest.importorskip("escnn.nn")
    plane = gspaces.rot2dOnR2(4)
    scalar = escnn_nn.FieldType(plane, [plane.trivial_repr])
    regular = escnn_nn.FieldType(plane, [plane.regular_repr] * 2)
    layers = SoftR2Conv(scalar, regular, 3, padding=1), nn.ReLU(), SoftR2Conv(regular, scalar, 3, padding=1)
    return nn.Sequential(*layers), torch.randn(8, 1, 7, 7)


def irreps():
    pytest.importorskip("e3nn")
    return nn.Sequential(SoftO3Linear("4x0e + 2x1o", "8x0e + 3x1o"), SoftO3Linear("8x0e + 3x1o", "2x0e + 1x1o")), (
        torch.randn(16, 10)
    )


def attention():
    return SoftAttention(8, 2, size=(3, 3)), torch.randn(6, 9, 8)


NETWORKS = {f.__name__: f for f in (linear, bilinear, convolution, steerable, irreps, attention)}


@pytest.mark.parametrize("kind", ["adam", "momentum"])
@pytest.mark.parametrize("name", NETWORKS)
def test_precision_1e12_equals_hard(name, kind):
    torch.manual_seed(0)
    soft, x = NETWORKS[name]()
    hard = copy.deepcopy(harden(soft))
    start = hard(x).detach()
    y = torch.randn_like(start) + start.roll(1, 0)

    def trained(model):
        one = rule("fixed", model, samples=len(x), prior=Prior(equivariant=1e-3, residual=1e12))
        make = {"adam": torch.optim.Adam, "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)}[kind]
        optimizer = make(model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(1)
        for _ in range(25):
            rows = torch.randperm(len(x), generator=generator)[: len(x) // 2]
            optimizer.zero_grad()
            one.backward((model(x[rows]) - y[rows]).square().mean())
            optimizer.step()
            one.step(optimizer)
        return model(x).detach()

    of_hard = trained(hard)
    assert float((of_hard - start).abs().max()) > 1e-2  # it learned something
    torch.testing.assert_close(trained(soft), of_hard, rtol=0, atol=1e-5)
