import pytest
import torch
from torch import nn
from torch.nn import functional as F

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


B4 = noise(2, 4, 3, 3, seed=6)


def attention(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options)


ATTENTION = {
    "self": lambda x: attention(x, x.sin(), x * 2),
    "scaled": lambda x: attention(x, x.cos(), x, scale=0.3),
    "three axes": lambda x: attention(x[0], x[1], x[0]),
    "fixed query": lambda x: attention(B4[..., :3].repeat(1, 1, 2, 1)[..., :3], x[..., :3], x),
    "fixed key": lambda x: attention(x[..., :3], B4, x[:, :, :3]),
    "fixed value": lambda x: attention(x, x, noise(2, 4, 5, 7)),
    "values alone": lambda x: attention(B4, B4, x[:, :, :3]),
    "key alone": lambda x: attention(B4, x[:, :, :3, :3], B4),
    "fewer queries": lambda x: attention(x[:, :, :2], x, x[..., :2]),
    "masked": lambda x: attention(x, x, x, attn_mask=torch.ones(5, 5).tril().bool()),
    "biased": lambda x: attention(x, x, x, attn_mask=noise(4, 5, 5)),
    "a moving bias": lambda x: attention(x, x, x, attn_mask=x[..., :5]),
    "nothing to see": lambda x: attention(x, x, x, attn_mask=torch.tensor([True] * 4 + [False])[:, None]),
    "causal": lambda x: attention(x, x, x, is_causal=True),
    "broadcast": lambda x: attention(x, x[:1], x[:1]),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    check(ATTENTION[name], noise(2, 4, 5, 6))


def test_attention_with_a_gradient_inside():
    def force(x):
        with torch.enable_grad():
            y = x if x.requires_grad else x.clone().requires_grad_()
            return torch.autograd.grad(attention(y, y, y).pow(2).sum(), y, create_graph=True)[0]

    x, direction, step = noise(1, 2, 3, 4), noise(1, 1, 2, 3, 4, seed=2), 1e-5
    _, found = push_forward(force, x, direction)
    ahead, behind = (push_forward(force, x + s * direction[0], direction)[0] for s in (step, -step))
    torch.testing.assert_close(found[0], (ahead - behind) / (2 * step), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("kind", [nn.MultiheadAttention, nn.LSTM])
def test_torch_layers(kind):
    layer = (kind(6, 2, batch_first=True) if kind is nn.MultiheadAttention else kind(6, 5, batch_first=True)).double()
    f = (lambda x: layer(x, x, x)[0]) if kind is nn.MultiheadAttention else (lambda x: layer(x)[0])
    x, directions = noise(2, 4, 6), noise(2, 2, 4, 6, seed=2)
    with measurable(layer):
        found = push_forward(f, x, directions)[1]
        step = 1e-5
        for direction, tangent in zip(directions, found, strict=True):
            difference = (f(x + step * direction) - f(x - step * direction)) / (2 * step)
            torch.testing.assert_close(tangent, difference, atol=1e-7, rtol=1e-6)
