"""The plain baseline: its size and its shape."""

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.models.mlp import MLP, count_parameters, matched_channels


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_the_published_baseline_has_307209_parameters():
    assert parameters(MLP(20, 9, channels=384, layers=3)) == 307_209


def test_layers_counts_hidden_layers():
    modules = list(MLP(4, 2, channels=8, layers=2).network)
    assert [type(m) for m in modules] == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    assert [(m.in_features, m.out_features) for m in modules[::2]] == [(4, 8), (8, 8), (8, 2)]


def test_forward_keeps_leading_axes():
    model = MLP(4, 2, channels=8, layers=1)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert model(x).shape == (3, 5, 2)
    torch.testing.assert_close(model(x)[1], model(x[1]))


@pytest.mark.parametrize(("channels", "layers"), [(1, 1), (7, 1), (16, 2), (30, 4)])
def test_count_is_that_of_the_module(channels, layers):
    built = parameters(MLP(5, 3, channels=channels, layers=layers))
    assert count_parameters(5, 3, channels=channels, layers=layers) == built


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("target", [45, 100, 9_999, 307_209, 918_000])
def test_matched_width_is_the_closest(layers, target):
    channels = matched_channels(20, 9, layers=layers, parameters=target)

    def gap(n):
        return abs(count_parameters(20, 9, channels=n, layers=layers) - target)

    assert gap(channels) <= gap(channels + 1)
    assert channels == 1 or gap(channels) < gap(channels - 1)


def test_too_few_parameters_to_match():
    with pytest.raises(SofteqValueError, match="at least 39, those of one channel, got 10"):
        matched_channels(20, 9, layers=1, parameters=10)


@pytest.mark.parametrize("name", ["size_in", "size_out", "channels", "layers"])
def test_sizes_below_one(name):
    sizes = {"size_in": 4, "size_out": 2, "channels": 8, "layers": 1}
    with pytest.raises(SofteqValueError, match=f"{name}: expected at least 1, got 0"):
        MLP(**(sizes | {name: 0}))
