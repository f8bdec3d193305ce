"""Operations that torch's forward mode does not know: the true value, or a refusal by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq.measure import NotMeasurable
from softeq.measure.forward.forward_mode import push_forward


def noise(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def differences(f, x, directions, h=1e-6):
    with torch.no_grad():
        return torch.stack([(f(x + h * d) - f(x - h * d)) / (2 * h) for d in directions])


# A library's operations: real kernels behind names of their own, as a C++ extension registers them.
@torch.library.custom_op("softeqtests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() ** 3)


cube.register_autograd(
    lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@torch.library.custom_op("softeqtests::product", mutates_args=())
def product(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x * y, x.argmax(-1)


product.register_autograd(
    lambda ctx, g, _: (g * ctx.saved_tensors[1], g * ctx.saved_tensors[0]),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@torch.library.custom_op("softeqtests::bare", mutates_args=())
def bare(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


@torch.library.custom_op("softeqtests::wrong", mutates_args=())
def wrong(x: torch.Tensor) -> torch.Tensor:
    return x.round()


wrong.register_autograd(lambda ctx, g: g)  # straight through: the backward pass of no function


@torch.library.custom_op("softeqtests::half", mutates_args=())
def half(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * y


half.register_autograd(  # as RoIAlign's boxes: it depends on y, and says nothing of it
    lambda ctx, g: (g * ctx.saved_tensors[0], None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
)


@torch.library.custom_op("softeqtests::whole", mutates_args=())
def whole(x: torch.Tensor) -> torch.Tensor:
    return (x * 4).long()


class Numpy(torch.autograd.Function):
    """Leaves torch, with a backward pass that can be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class NumpyBothWays(Numpy):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * g.detach().numpy())


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy().round())

    @staticmethod
    def backward(ctx, g):
        return g


class Reversal(torch.autograd.Function):
    """A reversed gradient; the values are those of the identity, and so is their derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


MEASURABLE = {
    "custom operation": lambda x: cube(x) + x,
    "several outputs": lambda x: product(x.sin(), x)[0],
    "chosen by its whole numbers": lambda x: x * product(x, x)[1].unsqueeze(-1),
    "whole numbers of a custom operation": lambda x: x * whole(x),
    "cdist": lambda x: torch.cdist(x, x[:, :2] * 2),
    "numpy in a Function": lambda x: Numpy.apply(x) * 2 + x,
    "reversed gradient": lambda x: Reversal.apply(x * x),
    "statistics on the side": lambda x: torch.native_layer_norm(x, [4], None, None, 1e-5)[0],
    "a custom operation off the path": lambda x: x * 2 if bool((bare(x) > 9).any()) else x.sin(),
    "zeros_like": lambda x: torch.zeros_like(x) + x + torch.full_like(x, 2.0) * x,
    "steps": lambda x: x * torch.floor_divide(x, 0.5) + x.round() * x + x.long() * x,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x) * (x.argmax(-1, keepdim=True) + 1),
    "written into a constant": lambda x: _filled(x, cube),
}


def _filled(x, f):
    out = torch.zeros(x.shape, dtype=x.dtype)
    out[:] = x if f is cube else f(x)
    return out * x


@pytest.mark.parametrize("name", MEASURABLE)
def test_the_true_value(name):
    x, directions = noise(2, 3, 4), noise(2, 2, 3, 4, seed=2)
    f = MEASURABLE[name]
    _, found = push_forward(f, x, directions)
    torch.testing.assert_close(found, differences(f, x, directions), atol=1e-6, rtol=1e-6)
    assert found.abs().max() > 0.1


REFUSED = {
    "no backward": (lambda x: x + bare(x), "softeqtests::bare"),
    "backward of no function": (lambda x: x + wrong(x), "softeqtests::wrong, .* not the derivative of its values"),
    "one input forgotten": (lambda x: x + half(x, x.sin()), "softeqtests::half, .* differ by"),
    "after writing into a constant": (lambda x: _filled(x, bare), "softeqtests::bare"),
    "backward by numpy": (lambda x: NumpyBothWays.apply(x) + x, "something else than torch|autograd.Function"),
    "straight through, by numpy": (lambda x: StraightThrough.apply(x) + x, "something else than torch|Function"),
    "numpy alone": (lambda x: x + torch.from_numpy(x.detach().numpy() ** 2), "something else than torch"),
    "unique": (lambda x: x.flatten(1) * torch.unique(x)[:12], "aten::_unique2"),
    "statistics": (lambda x: torch.native_layer_norm(x, [4], None, None, 1e-5)[1] * x, "aten::native_layer_norm"),
    "fake quantisation": (
        lambda x: x + torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, 0, 255),
        "fake_quantize.* quantises",
    ),
    "quantised": (
        lambda x: x + torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8).dequantize(),
        "quantize_per_tensor, which quantises",
    ),
    "dynamically quantised": (lambda x: _quantised_linear(x), "quantized::linear_dynamic, which quantises"),
    "float": (lambda x: x * float(x.sum()), r"Python numbers"),
    "item": (lambda x: x * x.sum().item(), r"Python numbers \(Tensor.item\)"),
    "tolist": (lambda x: x * torch.tensor(x.tolist()), r"Python numbers \(Tensor.tolist\)"),
    "a list of tensors": (lambda x: x * torch.tensor([x.sum(), x.mean()])[0], "Python numbers"),
    "in the place of a number": (lambda x: torch.add(x, x, alpha=x.sum()), "Python numbers"),
    "random": (lambda x: x + torch.randn_like(x), "aten::randn_like, which draws random numbers"),
    "text": (lambda x: x * float(f"{x.sum():.9f}"), "Python numbers"),
    "item after writing into a constant": (lambda x: _filled(x, lambda y: y * y.sum().item()), "Python numbers"),
    "list after writing into a constant": (lambda x: _filled(x, lambda y: y * torch.tensor([y.sum()])), "Python numb"),
    "complex output": (lambda x: torch.fft.fft(x), "view_as_real"),
}


def _quantised_linear(x):
    linear = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.qint8)
    return x + linear(x.float())


@pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:.*is deprecated", "ignore:.*torch.ao")
@pytest.mark.parametrize("directions", [1, 3])
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_that_says_what_it_is(name, directions):
    f, message = REFUSED[name]
    with pytest.raises(NotMeasurable, match=message):
        push_forward(f, noise(2, 3, 4), noise(directions, 2, 3, 4, seed=2))


def test_in_single_precision_too():
    x, directions = noise(2, 3, 4, dtype=torch.float32), noise(2, 2, 3, 4, seed=2, dtype=torch.float32)
    for f in (lambda x: cube(x) + x, lambda x: Numpy.apply(x) + x, lambda x: torch.cdist(x, x[:, :2] * 2)):
        _, found = push_forward(f, x, directions)
        exact = differences(f, x.double(), directions.double())
        torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)


def test_torchvision_operations_are_named():
    ops = pytest.importorskip("torchvision").ops
    x, directions = noise(2, 3, 8, 8), noise(1, 2, 3, 8, 8, seed=2)
    offset, weight = torch.full((2, 18, 8, 8), 0.3, dtype=x.dtype), noise(3, 3, 3, 3, seed=3)
    boxes = torch.tensor([[0.0, 1, 1, 6, 6], [1, 1, 1, 6, 6]], dtype=x.dtype)
    for f, name in (
        (lambda x: x + ops.deform_conv2d(x, offset, weight, padding=1), "torchvision::deform_conv2d"),
        (lambda x: ops.roi_align(x, boxes, 3), "torchvision::roi_align"),
        (lambda x: ops.ps_roi_pool(torch.cat([x, x, x], 1)[:, :8], boxes, 2), "torchvision::ps_roi_pool"),
    ):
        with pytest.raises(NotMeasurable, match=name):
            push_forward(f, x, directions)


def test_scripted_traced_exported_and_compiled_networks_are_followed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).double().eval()
    x, directions = noise(2, 3, 8, 8), noise(2, 2, 3, 8, 8, seed=2)
    exact = push_forward(model, x, directions)[1]
    others = [
        torch.jit.script(model),
        torch.jit.trace(model, x),
        torch.export.export(model, (x,)).module(),
        torch.compile(model, backend="aot_eager"),
    ]
    for other in others:
        torch.testing.assert_close(push_forward(other, x, directions)[1], exact)


def test_flex_attention_is_named():
    flex = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention
    with pytest.raises(NotMeasurable, match="flex_attention"):
        push_forward(lambda x: flex(x, x, x), noise(1, 2, 4, 4), noise(1, 1, 2, 4, 4, seed=2))


def test_complex_weights():
    weight = torch.complex(noise(4, 4, seed=5), noise(4, 4, seed=6))
    x, directions = noise(2, 3, 4), noise(2, 2, 3, 4, seed=2)
    for f in (
        lambda x: (x.to(weight.dtype) @ weight).abs(),
        lambda x: torch.view_as_real(x * weight[0]).flatten(2).sin(),
        lambda x: torch.fft.irfft(torch.fft.rfft(x) * weight[0, :3]),
        lambda x: F.linear(x + 0j, weight).exp().real,
        lambda x: ((x * weight[0]) * (x * weight[1]).conj()).real,
        lambda x: ((x * weight[0]).conj() + x * weight[1]).imag,
        lambda x: (x * weight[0]).conj().imag * x,
        lambda x: (x * weight[0] @ (x * weight[1]).mH).abs(),
    ):
        value, found = push_forward(f, x, directions)
        torch.testing.assert_close(value, f(x))
        torch.testing.assert_close(found, differences(f, x, directions), atol=1e-6, rtol=1e-6)
