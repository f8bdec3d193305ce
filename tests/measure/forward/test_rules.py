import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq.measure.forward import dual
from softeq.measure.forward import rules as dual_rules
from softeq.measure.forward.forward_mode import push_forward
from softeq.measure.forward.prepare import measurable


def noise(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact(f, x, directions):
    with measurable(f), torch.no_grad():
        return torch.stack([torch.func.jvp(f, (x,), (direction,))[1] for direction in directions])


def check(f, x, tolerance=1e-10):
    directions = noise(3, *x.shape, seed=2)
    _, found = push_forward(f, x, directions, engine="dual")
    twin = exact(f, x, directions)
    torch.testing.assert_close(found, twin, atol=tolerance, rtol=tolerance)
    assert twin.abs().max() > 1e-3


@pytest.fixture
def without_fallback(monkeypatch):
    """The rules themselves, not what stands in where there is none."""

    def refuse(func, args, kwargs):
        raise AssertionError(f"no rule of its own: {func}")

    monkeypatch.setitem(dual.RULES, None, refuse)
    monkeypatch.setattr(dual_rules, "by_torch", refuse)


ELEMENTWISE = {
    **{name: getattr(F, name) for name in ("relu", "silu", "hardswish", "hardsigmoid", "leaky_relu", "elu", "mish")},
    **{name: getattr(torch, name) for name in ("sigmoid", "tanh", "exp", "sin", "cos", "erf", "abs")},
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu6": F.relu6,
    "softplus": F.softplus,
    "pow": lambda x: (x**2 + 1) ** 0.5,
    "logs": lambda x: (x**2 + 1).log() + (x**2).log1p() + (x**2 + 1).rsqrt() + (x**2 + 1).reciprocal(),
    "clamp": lambda x: x.clamp(-0.5, 0.7) + x.clamp_min(0.1),
}


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    check(ELEMENTWISE[name], noise(2, 3, 5))


ALGEBRA = {
    "sums": lambda x: torch.add(x, x.sin(), alpha=3) - torch.sub(2.0, x, alpha=2) + (x - noise(5)) + (x + 1),
    "constant first": lambda x: noise(2, 1, 5) + x - (noise(5) - x) * 3,
    "broadcast": lambda x: x[:, :1] * x + x[:, :, :1] - x[:1],
    "products": lambda x: x * x.sin() * 2 * noise(5) * noise(2, 3, 1),
    "quotients": lambda x: x / 3 / (2 + noise(5) ** 2) + x.sin() / (x[:, :1] ** 2 + 1),
    "mm": lambda x: (x.flatten(0, 1) @ noise(5, 4)) @ (noise(4, 5) @ x.flatten(0, 1).T),
    "mm const first": lambda x: noise(3, 2) @ x.flatten(1),
    "bmm": lambda x: x @ x.mT @ noise(2, 3, 2),
    "linear": lambda x: F.linear(F.linear(x, noise(4, 5), noise(4)), noise(2, 4)),
    "matmul 4d": lambda x: (x[:, None] @ x[:, None].mT) @ noise(2, 4, 3, 3),
    "softmax": lambda x: x.softmax(1) + x.softmax(-1),
    "layer norm": lambda x: F.layer_norm(x, (5,), noise(5), noise(5)) + F.layer_norm(x, (3, 5)),
    "cat": lambda x: torch.cat([x, noise(2, 1, 5), x.sin()], 1) + torch.stack([x.sum(), x.mean()]).sum(),
    "pads": lambda x: F.pad(x, (1, 2), value=3.0).square().sum(-1) + F.pad(x, (2, 1), mode="circular").sin().sum(-1),
    "indexing": lambda x: x[:, [2, 0]][:, :, torch.tensor([1, 1, 3])].gather(2, torch.zeros(2, 2, 3).long()),
}


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("name", ALGEBRA)
def test_algebra(name):
    check(ALGEBRA[name], noise(2, 3, 5))


def norm(layer):
    """Statistics and weights that are not those of an untrained layer."""
    with torch.no_grad():
        for tensor in (layer.running_mean, layer.weight, layer.bias):
            tensor.copy_(noise(*tensor.shape, seed=7))
        layer.running_var.copy_(noise(*layer.running_var.shape, seed=8) ** 2 + 0.5)
    return layer


def both_ways(x, convolution, batch_norm):
    y = convolution(x)
    return batch_norm(y) + y  # the convolution's own output is used too


IMAGES = {
    "convolution": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "then normalised": nn.Sequential(nn.Conv2d(4, 6, 3), norm(nn.BatchNorm2d(6)), nn.ReLU()),
    "grouped": nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False), norm(nn.BatchNorm2d(8))),
    "transposed": nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), norm(nn.BatchNorm2d(6))),
    "transposed, grouped": nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), norm(nn.BatchNorm2d(6))),
    "normalised first": nn.Sequential(norm(nn.BatchNorm2d(4)), nn.ReLU(), nn.Conv2d(4, 3, 1)),
    "no weights": nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
    "pooling": nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "resizing": nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelUnshuffle(2)),
    "circular": nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
    "reflecting": nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.usefixtures("without_fallback")
@pytest.mark.parametrize("name", IMAGES)
def test_images(name):
    check(IMAGES[name].double().eval(), noise(2, 4, 9, 8))


def test_a_convolution_used_twice():
    convolution, batch_norm = nn.Conv2d(4, 4, 3).double(), norm(nn.BatchNorm2d(4).double()).eval()
    check(lambda x: both_ways(x, convolution, batch_norm), noise(2, 4, 6, 6))


FALLBACK = {
    "normalised by the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "instance norm": F.instance_norm,
    "group norm": lambda x: F.group_norm(x, 2, noise(4), noise(4)),
    "weights from data": lambda x: F.conv2d(x[:1], x[:, :, :3, :3]),
    "a moving bias": lambda x: torch.addmm(x[0, 0, 0, :3], x[0, 0, :2, :4], noise(4, 3)),
    "scaled addmm": lambda x: torch.addmm(noise(3), x[0, 0, :2, :4], noise(4, 3), beta=2, alpha=3),
    "constant over moving": lambda x: torch.div(2.0, x**2 + 1) + noise(6) / (x**2 + 1),
    "rounded quotient": lambda x: x * torch.div(x, 0.3, rounding_mode="floor"),
    "tensor bounds": lambda x: x.clamp(noise(6) - 1, noise(6) + 1),
    "prelu": lambda x: F.prelu(x, noise(4)),
    "moving weights": lambda x: F.layer_norm(x, (6,), x[0, 0, 0], x[0, 0, 1]),
}


@pytest.mark.parametrize("name", FALLBACK)
def test_what_has_no_rule_of_its_own(name):
    check(FALLBACK[name], noise(2, 4, 6, 6))
