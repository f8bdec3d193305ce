"""Small classifiers: shapes, the choices that they differ in, what they refuse, and what measuring them needs."""

import itertools

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.models.images import MODELS, Attention, ConvNet, ResidualBlock, ResNet, ViT, build

CONFIGS = {
    "stride": {"name": "convnet", "channels": (4, 6), "down": "stride", "head": "average", "activation": "gelu"},
    "max": {"name": "convnet", "channels": (4, 6), "down": "max", "head": "flatten", "activation": "relu"},
    "resnet": {"name": "resnet", "channels": (4, 6)},
    "patch-class": {"name": "vit", "patch": 4, "dim": 8, "depth": 2, "heads": 2},
    "patch-mean": {"name": "vit", "patch": 6, "dim": 8, "depth": 1, "heads": 4, "gather": "mean"},
    "stem": {"name": "vit", "patch": 4, "stem": "convolution", "dim": 8, "depth": 1, "heads": 2, "activation": "silu"},
}
SIZE = (12, 24)


def made(name, **changes):
    return build(**{"size": SIZE, "in_channels": 2, "classes": 5} | CONFIGS[name] | changes)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_any_shape_and_dtype_give_logits_and_every_parameter_learns(name, dtype):
    model = made(name).to(dtype)
    logits = model(torch.randn(3, 2, *SIZE, dtype=dtype))
    assert logits.shape == (3, 5)
    assert logits.dtype == dtype
    logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", CONFIGS)
def test_in_evaluation_samples_do_not_see_each_other(name):
    model, x = made(name).double().eval(), torch.randn(4, 2, *SIZE, dtype=torch.float64)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_the_same_generator_builds_the_same_network():
    first, second = (torch.random.manual_seed(3) and made("stem").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_both_ways_down_have_maps_of_the_same_sizes_also_where_they_are_odd():
    x = torch.randn(1, 1, 13, 7)
    shapes = [ConvNet((13, 7), channels=(3, 4), down=down).features(x).shape for down in ("stride", "max")]
    assert shapes[0] == shapes[1] == (1, 4, 4, 2)
    assert ConvNet((13, 7), channels=(3, 4), down="max", head="flatten")(x).shape == (1, 10)


def test_an_averaging_head_does_not_see_where_things_are_and_a_flattening_one_does():
    """A shift by the total stride, far from the edges, moves the last map by one position."""
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., 12:16, 12:16] = torch.randn(4, 4, dtype=torch.float64)
    moved = x.roll(4, -1)
    for down, head in itertools.product(("stride", "max"), ("average", "flatten")):
        model = ConvNet((32, 32), channels=(4, 4), down=down, head=head).double()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):  # without a bias the empty ground gives 0 and padding is no matter
                nn.init.zeros_(module.bias)
        difference = (model(moved) - model(x)).abs().max()
        assert difference < 1e-12 if head == "average" else difference > 1e-4, (down, head)


def test_attention_is_softmax_of_scaled_products():
    layer, x = Attention(6, 2).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    queries, keys, values = layer.qkv(x).split(6, dim=-1)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        weights = torch.softmax(queries[..., part] @ keys[..., part].transpose(1, 2) / 3**0.5, dim=-1)
        heads.append(weights @ values[..., part])
    torch.testing.assert_close(layer(x), layer.out(torch.cat(heads, dim=-1)))


def test_tokens_are_exchangeable_up_to_their_positions():
    """With the positions at zero, patches may change places; with positions they may not."""
    model, x = made("patch-mean").double(), torch.randn(1, 2, *SIZE, dtype=torch.float64)
    swapped = x.roll(6, -1)
    assert (model(swapped) - model(x)).abs().max() > 1e-6
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(swapped), model(x))


def test_a_block_that_keeps_the_shape_has_a_plain_shortcut():
    assert isinstance(ResidualBlock(4, 4, stride=1, activation="relu").shortcut, nn.Identity)
    assert not isinstance(ResidualBlock(4, 4, stride=2, activation="relu").shortcut, nn.Identity)
    assert ResNet((7, 5), channels=(4,))(torch.randn(2, 1, 7, 5)).shape == (2, 10)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "max"])
def test_forward_mode_agrees_with_central_differences(name):
    """Of all but the network with maxima, whose kinks a finite step may cross."""
    model = made(name).double().eval()
    x, v = torch.randn(2, 2, 2, *SIZE, dtype=torch.float64)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
        _, derivative = torch.func.jvp(model, (x,), (v,))
        step = 1e-6
        difference = (model(x + step * v) - model(x - step * v)) / (2 * step)
    assert (derivative - difference).norm() < 1e-6 * derivative.norm()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "mlp"}, "name: expected one of convnet, resnet, vit, .*soft-vit, got 'mlp'"),
        ({"name": "convnet", "width": 3}, "config: convnet cannot be built .*width"),
        ({"name": "convnet", "channels": ()}, "channels: expected integers of at least 1"),
        ({"name": "convnet", "down": "mean"}, "down: expected one of stride, max, got 'mean'"),
        ({"name": "convnet", "head": "top"}, "head: expected one of average, flatten, got 'top'"),
        ({"name": "resnet", "activation": "step"}, "activation: expected one of gelu, relu, silu, got 'step'"),
        ({"name": "resnet", "classes": 0}, "classes: expected integers of at least 1, got 0"),
        ({"name": "vit", "patch": 5}, "size: expected multiples of patch=5"),
        ({"name": "vit", "dim": 10}, "dim: expected a multiple of heads=4, got 10"),
        ({"name": "vit", "depth": 0}, "depth: expected integers of at least 1, got 0"),
        ({"name": "vit", "gather": "max"}, "gather: expected one of class, mean, got 'max'"),
        ({"name": "vit", "stem": "none"}, "stem: expected one of patch, convolution, got 'none'"),
        ({"name": "vit", "stem": "convolution", "patch": 7}, "patch: expected a power of 2"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(SofteqValueError, match=message):
        build(**config)


def test_every_model_is_covered():
    soft = {"soft-resnet", "d-conv", "steerable", "soft-vit"}  # in files of their own
    assert {config["name"] for config in CONFIGS.values()} == set(MODELS) - soft
    assert isinstance(made("stem"), ViT)
