import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.lie_derivative import affine_derivatives, derivatives, lie_derivative
from softeq.measure.motion.actions import ImageMap, Invariant, Pick
from softeq.measure.motion.flows import COEFFICIENTS, FLOWS, GENERATORS

PERIODIC = {name: flow.with_(boundary="periodic") for name, flow in FLOWS.items()}
BUFFER = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
SHIFTS = ("translation_x", "translation_y")


def noise(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def relative(found, expected):
    return float((found - expected).detach().norm() / expected.detach().norm())


class Circular(nn.Module):
    """Convolutions that wrap around, without or with pooling over all pixels."""

    def __init__(self, pooled=True):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular").double()
        self.second = nn.Conv2d(6, 4, 5, padding=2, padding_mode="circular").double()
        self.pooled = pooled

    def forward(self, x):
        y = self.second(self.first(x))
        return y.mean((2, 3)) if self.pooled else y


class Smooth(nn.Module):
    """A random convolutional network without kinks; not equivariant to anything but by accident."""

    def __init__(self, classes=5):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Tanh()),
            *(nn.Flatten(), nn.LazyLinear(16), nn.SiLU(), nn.Linear(16, classes)),
        )

    def forward(self, x):
        return self.layers(x)


def smooth_network(size=(16, 16)):
    model = Smooth()
    model(noise(2, 3, *size, dtype=torch.float32))
    return model.double().eval()


def tiny_vit():
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5
    ).double()


def tiny_convnext():
    timm = pytest.importorskip("timm")
    model = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(4, 8, 8, 16), num_classes=5).double()
    for name, parameter in model.named_parameters():  # the layer scale starts at 1e-6: no network to speak of
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
    return model


# What is equivariant


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("stencil", ["bspline", "fourier", "central"])
def test_circular_convolution_with_pooling_is_invariant(name, stencil):
    x, model = noise(2, 3, 8, 10), Circular()
    found = lie_derivative(model, x, PERIODIC[name], stencil=stencil)
    assert found.abs().max() < 1e-12
    still = lie_derivative(lambda y: model(y.tanh() * noise(8, 10)), x, PERIODIC[name], stencil=stencil)
    assert still.abs().max() > 1e-3  # control: a mask breaks it


@pytest.mark.parametrize("name", SHIFTS)
def test_circular_convolution_is_equivariant_as_a_map(name):
    x, model = noise(2, 3, 8, 10), Circular(pooled=False)
    for out in (ImageMap(), PERIODIC[name]):
        assert lie_derivative(model, x, PERIODIC[name], out).abs().max() < 1e-12
    for wrong in (None, PERIODIC["translation_y" if name == "translation_x" else "translation_x"]):
        assert lie_derivative(model, x, PERIODIC[name], wrong).abs().max() > 1e-2
    opposite = PERIODIC[name].with_(shift=-PERIODIC[name].shift)
    assert lie_derivative(model, x, PERIODIC[name], opposite).abs().max() > 1e-2  # control: a wrong sign


@pytest.mark.parametrize("name", FLOWS)
def test_the_identity_is_equivariant(name):
    x = noise(2, 3, 8, 11)
    for out in (FLOWS[name], ImageMap()):
        assert lie_derivative(nn.Identity(), x, name, out).abs().max() < 1e-12
    assert relative(lie_derivative(nn.Identity(), x, name), FLOWS[name].tangent(x)) < 1e-12


def test_rotation_of_an_isotropic_average():
    c = torch.arange(9, dtype=torch.float64) - 4
    weight = (-(c**2 + c[:, None] ** 2) / 4).exp()
    x = noise(2, 1, 9, 9)
    found = {name: lie_derivative(lambda y: (y * weight).sum((2, 3)), x, name).abs().max() for name in FLOWS}
    assert found["scale"] > 0.1  # the stencil's rotation of white noise is not exact, so no zero is asserted here
    smooth = F.conv2d(noise(2, 1, 13, 13), torch.full((1, 1, 5, 5), 0.04, dtype=torch.float64))
    turned, scaled = (
        lie_derivative(lambda y: (y * weight).sum((2, 3)), smooth, name) for name in ("rotation", "scale")
    )
    assert turned.abs().max() < 0.05 * scaled.abs().max()


# Known derivatives


@pytest.mark.parametrize("name", FLOWS)
def test_a_linear_function(name):
    x, w = noise(3, 3, 8, 11), noise(3, 8, 11, seed=2)
    found = lie_derivative(lambda y: (w * y).sum((1, 2, 3)), x, name)
    exact = (w * FLOWS[name].tangent(x)).sum((1, 2, 3))
    torch.testing.assert_close(found, exact, atol=1e-11, rtol=0)
    assert (found + exact).abs().max() > 0.1  # control: the sign


def sinusoids(height, width, finest, seed=3):
    """Two images (2, 3, H, W), sums of sinusoids down to `finest` pixels per period, and d/dcolumn, d/drow of each."""
    drawn = torch.Generator().manual_seed(seed)
    c = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    r = (torch.arange(height, dtype=torch.float64) - (height - 1) / 2)[:, None]
    x, dx, dy = (torch.zeros(2, 3, height, width, dtype=torch.float64) for _ in range(3))
    for _ in range(6):
        angle, phase = (2 * math.pi * torch.rand(2, 3, 1, 1, dtype=torch.float64, generator=drawn) for _ in range(2))
        frequency = 2 * math.pi / finest * (0.4 + 0.6 * torch.rand(2, 3, 1, 1, dtype=torch.float64, generator=drawn))
        k, m = frequency * angle.cos(), frequency * angle.sin()
        x += (k * c + m * r + phase).sin()
        dx += k * (k * c + m * r + phase).cos()
        dy += m * (k * c + m * r + phase).cos()
    return x, dx, dy


def exact_tangent(flow, dx, dy):
    height, width = dx.shape[-2:]
    c = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    r = (torch.arange(height, dtype=torch.float64) - (height - 1) / 2)[:, None]
    v = torch.stack(torch.broadcast_tensors(c, r), dim=-1) @ flow.matrix.T + flow.shift
    return -(v[..., 0] * dx + v[..., 1] * dy)


@pytest.mark.parametrize("name", FLOWS)
def test_bspline_is_within_two_percent_of_the_exact_tangent(name):
    size, edge = (26, 32), 5  # the network sees the middle: what lies beyond the edge is unknown to any stencil
    x, dx, dy = sinusoids(*size, finest=5.5)
    inner = smooth_network((size[0] - 2 * edge, size[1] - 2 * edge))

    def model(y):
        return inner(y[..., edge:-edge, edge:-edge])

    _, exact = torch.func.jvp(model, (x,), (exact_tangent(FLOWS[name], dx, dy),))
    found = {
        stencil: lie_derivative(model, x, name, stencil=stencil) for stencil in ("bspline", "central", "reference")
    }
    assert relative(found["bspline"], exact) < 0.02
    assert relative(found["central"], exact) > 0.05  # controls
    assert relative(found["reference"], exact) > 0.05
    assert relative(-found["bspline"], exact) > 1


@pytest.mark.parametrize(("stencil", "order"), [("bspline", 4), ("central", 2)])
def test_order_of_convergence_through_a_network(stencil, order):
    """One image sampled ever finer, into a function that reads it with fixed smooth weights."""
    drawn = torch.Generator().manual_seed(4)
    centres = torch.rand(7, 2, dtype=torch.float64, generator=drawn)
    layer = torch.randn(3, 7, dtype=torch.float64, generator=drawn)

    def error(n):
        place = torch.arange(n, dtype=torch.float64) / n
        c, r = place, place[:, None]
        phase = [2 * math.pi * (2 * c + r) + 0.3, 2 * math.pi * (c - 3 * r) + 1.1]
        x = (phase[0].sin() + phase[1].cos() * phase[0].sin())[None, None]
        by_column = (
            2 * math.pi * (2 * phase[0].cos() - phase[1].sin() * phase[0].sin() + 2 * phase[1].cos() * phase[0].cos())
        )
        weights = (-20 * ((c - centres[:, :1, None]) ** 2 + (r - centres[:, 1:, None]) ** 2)).exp()

        def read(y):
            return (10 * torch.einsum("bchw,khw->bk", y.tanh(), weights) / n**2).tanh() @ layer.T

        _, exact = torch.func.jvp(read, (x,), (-by_column[None, None] / n,))
        flow = FLOWS["translation_x"].with_(boundary="periodic")
        return relative(lie_derivative(read, x, flow, stencil=stencil), exact)

    assert math.log2(error(24) / error(48)) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("build", [smooth_network, tiny_vit, tiny_convnext])
def test_against_finite_motions(build):
    size = 32 if build is tiny_convnext else 16
    model, x, step = build().eval(), noise(2, 3, size, size), 1e-5
    x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, stride=1)
    for name in ("translation_x", "rotation", "stretch_y"):
        flow = FLOWS[name]
        with torch.no_grad():
            difference = (model(flow(x, step)) - model(flow(x, -step))) / (2 * step)
        found = lie_derivative(model, x, name)
        assert relative(found, difference) < 1e-6
        assert relative(lie_derivative(model, x, name, stencil="central"), difference) > 1e-3  # control


def test_a_moving_output_against_finite_motions():
    convolution = nn.Conv2d(3, 4, 3, padding=1, stride=2).double()
    x, step = noise(2, 3, 12, 16), 1e-5
    action = ImageMap()
    for name in ("translation_y", "rotation", "scale"):
        flow, out = FLOWS[name], action.flow(FLOWS[name], (2, 3, 12, 16), (2, 4, 6, 8))
        with torch.no_grad():
            ahead, behind = (out(convolution(flow(x, t)), -t) for t in (step, -step))
        difference = (ahead - behind) / (2 * step)
        assert relative(lie_derivative(convolution, x, name, action), difference) < 1e-6
        assert relative(lie_derivative(convolution, x, name, Invariant()), difference) > 0.1  # control


def test_against_the_full_jacobian():
    model, x = smooth_network((6, 7)), noise(1, 3, 6, 7)
    jacobian = torch.autograd.functional.jacobian(model, x)[0, :, 0]
    exact = torch.einsum("kchw,chw->k", jacobian, FLOWS["shear_y"].tangent(x)[0])
    assert relative(lie_derivative(model, x, "shear_y")[0], exact) < 1e-12


@pytest.mark.parametrize("build", [smooth_network, tiny_vit])
def test_float32_agrees_with_float64(build):
    model, x = build(), noise(2, 3, 16, 16)
    exact = affine_derivatives(model, x).derivatives
    found = affine_derivatives(model.float(), x.float()).derivatives
    assert found.dtype == torch.float32
    assert relative(found.double(), exact) < 1e-5


# All flows in one pass


def test_nine_flows_from_six_tangents():
    model, x = smooth_network((10, 12)), noise(2, 3, 10, 12)
    pushed = []
    value, found = derivatives(lambda y: pushed.append(y) or model(y), x, FLOWS, action=Invariant())
    assert len(pushed) == 1
    torch.testing.assert_close(value, model(x))
    for flow, derivative in zip(FLOWS, found, strict=True):
        torch.testing.assert_close(derivative, lie_derivative(model, x, flow), atol=1e-11, rtol=1e-10)
    six = affine_derivatives(model, x)
    torch.testing.assert_close(torch.tensordot(COEFFICIENTS, six.derivatives, dims=1), found)
    torch.testing.assert_close(derivatives(model, x, GENERATORS)[1], six.derivatives)
    assert six.extra is None


def test_moving_outputs_of_nine_flows():
    convolution, x = nn.Conv2d(3, 4, 3, stride=2).double(), noise(2, 3, 11, 14)
    _, found = derivatives(convolution, x, FLOWS, action=ImageMap())
    for flow, derivative in zip(FLOWS, found, strict=True):
        torch.testing.assert_close(derivative, lie_derivative(convolution, x, flow, ImageMap()), atol=1e-11, rtol=1e-10)


def test_extra_tangents_do_not_move_the_output():
    convolution, x = nn.Conv2d(3, 4, 3).double(), noise(2, 3, 8, 9)
    extra = noise(2, 2, 3, 8, 9, seed=5)
    found = affine_derivatives(convolution, x, action=ImageMap(), extra=extra)
    for tangent, pushed in zip(extra, found.extra, strict=True):
        torch.testing.assert_close(pushed, convolution(tangent) - convolution(torch.zeros_like(tangent)))
    torch.testing.assert_close(found.derivatives, affine_derivatives(convolution, x, action=ImageMap()).derivatives)
    with pytest.raises(SofteqValueError, match="extra: expected"):
        affine_derivatives(convolution, x, extra=extra[:, :1])


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_chunks(chunk):
    model, x = smooth_network((10, 10)), noise(2, 3, 10, 10)
    torch.testing.assert_close(
        affine_derivatives(model, x, chunk=chunk).derivatives, affine_derivatives(model, x).derivatives
    )


def test_settings_reach_the_flows():
    x, own = noise(2, 3, 8, 9), FLOWS["rotation"].with_(stencil="central", margin=1)
    for given, expected in (
        ({"stencil": None}, own),
        ({"stencil": "fourier"}, own.with_(stencil="fourier")),
    ):
        assert torch.equal(lie_derivative(nn.Identity(), x, own, **given), expected.tangent(x))
    _, found = derivatives(nn.Identity(), x, [own], boundary="periodic", margin=2)
    assert torch.equal(found[0], own.with_(boundary="periodic", margin=2).tangent(x))
    six = affine_derivatives(nn.Identity(), x, stencil="reference", margin=3).derivatives
    assert torch.equal(six[2], FLOWS["shear_x"].with_(stencil="reference", margin=3).tangent(x))


def test_channels_last_images():
    x, flow = noise(2, 8, 9, 3), FLOWS["scale"].with_(channels_last=True)
    resolved = [f.with_(channels_last=True) for f in FLOWS.values()]
    _, found = derivatives(torch.sin, x, resolved)
    torch.testing.assert_close(found[3], lie_derivative(torch.sin, x, flow))
    torch.testing.assert_close(found[3], x.cos() * flow.tangent(x))


# What is left as it was, and what cannot be measured


def test_model_and_input_are_left_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).double()
    x = noise(2, 3, 8, 8)
    kept, before = x.clone(), model[2].running_mean.clone()
    found = lie_derivative(model, x, "rotation")
    assert torch.equal(x, kept)
    assert torch.equal(model[2].running_mean, before)
    assert model.training
    assert model[0].inplace
    assert all(p.requires_grad for p in model.parameters())
    assert not found.requires_grad
    x.requires_grad_()
    assert not lie_derivative(model, x, "rotation").requires_grad
    expanded = noise(1, 1, 8, 8).expand(2, 3, 8, 8)
    torch.testing.assert_close(
        lie_derivative(model, expanded, "rotation"), lie_derivative(model, expanded.clone(), "rotation")
    )


def test_an_entry_of_the_output():
    x = noise(2, 3, 8, 8)
    found = lie_derivative(lambda y: {"map": y.sin(), "n": 3}, x, "scale", Pick("map", ImageMap()))
    assert relative(found, lie_derivative(torch.sin, x, "scale", ImageMap())) == 0


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda y: (y, y), "the output is a tuple; measure.Pick"),
        (lambda y: y.flatten(1).argmax(1), "torch.int64, which has no derivative"),
        (lambda y: y.log(), r"NaN or infinite entries \(samples \[0, 1\]\)"),
        (lambda y: y + torch.rand(8), "random numbers"),
        (lambda y: BUFFER.copy_(y.detach()) * y, "writes into a tensor from outside"),
        (lambda y: y * float(y.numpy().sum()), "something else than torch"),
        (lambda y: y * y.unique().sum(), "aten::_unique2, which has no forward-mode derivative"),
        (lambda y: y * float(y.sum()), "Python numbers"),
    ],
)
def test_not_measurable(f, message):
    with pytest.raises(NotMeasurable, match=message):
        affine_derivatives(f, noise(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("f", "twin"),
    [
        (lambda y: y * (2 if y.sum() > 0 or y.mean() else 3) + int(y.max()) * y, lambda y: (2 + int(y.max())) * y),
        (lambda y: y * len(y.unique()), lambda y: y * y.numel()),
        (lambda y: y[y > 0], lambda y: y * (y > 0)),
        (lambda y: torch.stack([image.mul_(2) for image in y.clone()]), lambda y: 2 * y),
    ],
)
def test_functions_that_look_at_their_data(f, twin):
    x = noise(2, 3, 8, 8)
    found, expected = (affine_derivatives(g, x).derivatives for g in (f, twin))
    torch.testing.assert_close(found.flatten(1).sum(1), expected.flatten(1).sum(1))


def test_a_function_with_a_backward_of_its_own_is_measured_by_its_values():
    class Clamped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(-1, 1)

        @staticmethod
        def backward(ctx, g):
            return g  # straight through: no derivative of the values

    x = noise(2, 3, 8, 8)
    found = lie_derivative(Clamped.apply, x, "scale")
    torch.testing.assert_close(found, lie_derivative(lambda y: y.clamp(-1, 1), x, "scale"))


def test_infinite_derivatives_are_not_measured():
    with pytest.raises(NotMeasurable, match="although the output is finite"):
        lie_derivative(lambda y: (y - y.detach()).abs().sqrt(), noise(2, 3, 8, 8), "scale")


def test_other_errors_stay_themselves():
    with pytest.raises(RuntimeError, match="expected input"):
        lie_derivative(nn.Conv2d(5, 4, 3).double(), noise(2, 3, 8, 8), "scale")
    with pytest.raises(KeyError):
        lie_derivative(lambda y: {}["logits"], noise(2, 3, 8, 8), "scale")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("x", SofteqTypeError, "x: expected a tensor, got str"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), SofteqValueError, "x: expected floating data"),
        (torch.zeros(0, 3, 8, 8), SofteqValueError, "at least one sample"),
        (torch.zeros(3, 8, 8), SofteqValueError, "floating images"),
        (torch.full((2, 3, 8, 8), math.nan), SofteqValueError, r"samples \[0, 1\]"),
    ],
)
def test_bad_input(x, error, message):
    with pytest.raises(error, match=message):
        lie_derivative(nn.Identity(), x, "scale")


def test_bad_options():
    x = noise(2, 3, 8, 8)
    with pytest.raises(SofteqValueError, match="flow_in: expected one flow, got 2"):
        lie_derivative(nn.Identity(), x, ["scale", "rotation"])
    with pytest.raises(SofteqValueError, match="stencil: expected one of"):
        lie_derivative(nn.Identity(), x, "scale", stencil="cubic")
    with pytest.raises(SofteqValueError, match="chunk: expected"):
        affine_derivatives(nn.Identity(), x, chunk=0)
