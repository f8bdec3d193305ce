import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq.errors import SofteqValueError
from softeq.measure.lie_derivative import affine_derivatives, derivatives, lie_derivative
from softeq.measure.motion.actions import ImageMap, Invariant
from softeq.measure.motion.flows import COEFFICIENTS, FLOWS, GENERATORS

PERIODIC = {name: flow.with_(boundary="periodic") for name, flow in FLOWS.items()}
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
