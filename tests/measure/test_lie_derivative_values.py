"""The Lie derivative against what is known: exact tangents, finite motions, the whole Jacobian."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq.errors import SofteqWarning
from softeq.measure.lie_derivative import affine_derivatives, lie_derivative
from softeq.measure.motion.actions import ImageMap, Invariant
from softeq.measure.motion.flows import FLOWS

from .test_lie_derivative import noise, relative, smooth_network


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


def small():
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 3), nn.LayerNorm([4, 6, 6])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *norms, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 1.5)
        model[1].running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("way", ["autocast", "bfloat16"])
def test_half_precision_is_measured_to_its_rounding_and_says_so(way):
    model, x = small(), torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    exact = lie_derivative(copy.deepcopy(model).double(), x.double(), "rotation")

    def cast(z):
        with torch.autocast("cpu", torch.bfloat16):
            return model(z)

    f, z = (cast, x) if way == "autocast" else (copy.deepcopy(model).bfloat16(), x.bfloat16())
    with pytest.warns(SofteqWarning, match=r"measured in torch\.bfloat16, whose rounding"):
        found = lie_derivative(f, z, "rotation")
    assert (found.double() - exact).norm() < 0.1 * exact.norm()


def test_full_precision_says_nothing(recwarn):
    lie_derivative(small(), torch.rand(2, 3, 10, 10), "rotation")
    assert not [w for w in recwarn if issubclass(w.category, SofteqWarning)]
