"""The size of a pathway's weights in a dense layer, which a learned precision starts from and is bounded by."""

import math

import pytest
import torch
from torch import nn

from softeq import SoftAttention, SoftConv2d, SoftLinear, Vector, soften
from softeq.groups import O
from softeq.strength import rule

SIZE = (6, 6)


def unit(model):
    (path,) = rule("mackay", model, samples=10, record=0).paths
    return path.unit


def conv(residual, **options):
    torch.manual_seed(0)
    return SoftConv2d(2, 4, 3, size=SIZE, padding=1, residual=residual, bias=False, **options)


def cleared(layer):
    with torch.no_grad():
        for parameter in layer.pathways["residual"].parameters():
            parameter.zero_()
    return layer


def drawn(layer, precision):
    """The mean square of the residual's map where its parameters are drawn from the prior."""
    residual = layer.pathways["residual"]
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter.normal_(std=precision**-0.5)
        return float(residual.merged(None).square().mean())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_low_rank_map_drawn_at_this_precision_is_as_large_as_a_dense_layer(rank):
    layer = conv("lowrank", rank=rank)
    squares = [drawn(layer, unit(layer)) for _ in range(40)]
    assert sum(squares) / 40 == pytest.approx(1 / (3 * 2 * 9), rel=0.3)


@pytest.mark.parametrize("residual", ["local", "dense", "lowrank"])
def test_a_residual_at_zero_has_the_unit_of_one_at_its_start(residual):
    assert unit(cleared(conv(residual))) == pytest.approx(unit(conv(residual)), rel=1e-6)


@pytest.mark.parametrize("residual", ["local", "dense"])
def test_it_is_that_of_the_fan_in(residual):
    fan_in = {"local": 2 * 9, "dense": 2 * 36}[residual]
    assert unit(conv(residual)) == pytest.approx(3 * fan_in)


def test_positions_of_attention():
    torch.manual_seed(0)
    dense, lowrank = (SoftAttention(8, 2, size=(4, 4), residual=r, qkv_bias=False) for r in ("dense", "lowrank"))
    assert unit(dense) == pytest.approx(0.02**-2)
    positions = lowrank.pathways["residual"]
    with torch.no_grad():
        for parameter in positions.parameters():
            parameter.normal_(std=unit(lowrank) ** -0.5)
    assert float(positions.logits().detach().square().mean()) == pytest.approx(0.02**2, rel=0.3)


def test_a_softened_network_whose_residual_starts_at_zero():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    soft = soften(net, torch.zeros(1, 2, *SIZE), anchored=False).model
    found = [path.unit for path in rule("mackay", soft, samples=10, record=0).paths]
    assert all(math.sqrt(3 * 18) < value < 100 for value in found)


def test_a_linear_layer_reads_its_own_start():
    torch.manual_seed(0)
    layer = SoftLinear((40 * Vector)(O(3)), (40 * Vector)(O(3)), bias=False)
    assert unit(layer) == pytest.approx(3 * 120, rel=0.05)
