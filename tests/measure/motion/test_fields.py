"""Fibres of escnn's field types: against escnn's own matrices, and on fields whose motion is known."""

from types import SimpleNamespace

import pytest
import torch

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.lie_derivative import lie_derivative
from softeq.measure.motion.actions import ImageMap
from softeq.measure.motion.fields import FibreFlow, fibre_generator, field_flow
from softeq.measure.motion.flows import FLOWS
from softeq.measure.motion.stencils import image_gradient

H, W = 33, 48


def blobs(height=H, width=W, samples=2, channels=3, seed=0):
    """Smooth images that vanish well before the edge, so that no boundary matters."""
    g = torch.Generator().manual_seed(seed)
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    c, r = (torch.randn(samples, channels, 4, 1, 1, generator=g, dtype=torch.float64) * 2.5 for _ in range(2))
    weight = torch.randn(samples, channels, 4, 1, 1, generator=g, dtype=torch.float64)
    return (weight * torch.exp(-((columns - c) ** 2 + (rows[:, None] - r) ** 2) / 18)).sum(2)


def size(derivative, value):
    return float(derivative.norm() / value.norm())


@pytest.fixture(scope="module")
def gspaces():
    from escnn import gspaces

    return gspaces


def field_type(gspace, representations):
    from escnn.nn import FieldType

    return FieldType(gspace, representations)


def gradient(z):
    """A vector field with the y axis up, from each image's mean channel."""
    across, down = image_gradient(z.mean(1, keepdim=True), "bspline")
    return torch.cat([across, -down], 1)


@pytest.mark.parametrize("flips", [False, True])
def test_a_gradient_is_a_field_of_vectors_whose_fibre_turns(gspaces, flips):
    gspace = (gspaces.flipRot2dOnR2 if flips else gspaces.rot2dOnR2)(-1)
    vectors = field_type(gspace, [gspace.irrep(1, 1) if flips else gspace.irrep(1)])
    x = blobs()
    right = size(lie_derivative(gradient, x, "rotation", ImageMap(field=vectors)), gradient(x))
    base_alone = size(lie_derivative(gradient, x, "rotation", ImageMap()), gradient(x))
    assert right < 0.02
    assert base_alone > 0.9  # the fibre's generator has size 1
    last = lie_derivative(
        lambda z: gradient(z).movedim(1, -1), x, "rotation", ImageMap(channels_last=True, field=vectors)
    )
    torch.testing.assert_close(last.movedim(-1, 1), lie_derivative(gradient, x, "rotation", ImageMap(field=vectors)))


def test_field_of_an_input_moves_too(gspaces):
    gspace = gspaces.rot2dOnR2(-1)
    vectors = field_type(gspace, [gspace.irrep(1)])
    v = gradient(blobs())
    length = lambda z: z.square().sum(1, keepdim=True)
    flow = field_flow(vectors, FLOWS["rotation"])
    assert size(lie_derivative(length, v, flow, ImageMap()), length(v)) < 0.02
    assert size(lie_derivative(lambda z: z[:, :1], v, flow, ImageMap()), v) > 0.3
    assert size(flow(flow(v, 0.2), 0.3) - flow(v, 0.5), v) < 0.01
    h = 1e-5
    torch.testing.assert_close(flow.tangent(v), (flow(v, h) - flow(v, -h)) / (2 * h), atol=1e-7, rtol=1e-6)
    masked = flow.with_(margin=3)
    assert not masked.tangent(v)[..., :3, :].any()
    assert torch.equal(masked(v, 0.2)[..., :3], v[..., :3])


@pytest.mark.parametrize("name", ["SO2", "O2"])
def test_fibre_generator_is_the_derivative_of_escnn_matrices(gspaces, name):
    from escnn.group import directsum

    gspace = gspaces.rot2dOnR2(-1) if name == "SO2" else gspaces.flipRot2dOnR2(-1)
    group = gspace.fibergroup
    irreps = [(0,), (1,), (3,)] if name == "SO2" else [(0, 0), (1, 0), (1, 1), (1, 2)]
    basis = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    skewed = directsum([group.irrep(*irreps[0]), group.irrep(*irreps[-1])], change_of_basis=basis, name="skewed")
    field = field_type(gspace, [*(group.irrep(*i) for i in irreps), skewed])
    turn = lambda t: group.element(t) if name == "SO2" else group.element((0, t))
    h = 1e-5
    expected = torch.tensor(field.representation(turn(h)) - field.representation(turn(-h))) / (2 * h)
    torch.testing.assert_close(fibre_generator(field, FLOWS["rotation"].matrix), expected, atol=1e-8, rtol=0)


def test_a_discrete_fibre_has_no_derivative_but_under_translations(gspaces):
    gspace = gspaces.rot2dOnR2(4)
    field = field_type(gspace, [gspace.regular_repr])
    shapes = (2, 3, H, W), (2, 4, H, W)
    with pytest.raises(NotMeasurable, match="discrete"):
        ImageMap(field=field).flow(FLOWS["rotation"], *shapes)
    moved = ImageMap(field=field).flow(FLOWS["translation_x"], *shapes)
    assert isinstance(moved, FibreFlow)
    x = blobs(channels=4)
    torch.testing.assert_close(moved.tangent(x), FLOWS["translation_x"].tangent(x))


def test_a_fibre_does_not_know_scale_or_shears_or_other_channels(gspaces):
    gspace = gspaces.rot2dOnR2(-1)
    action = ImageMap(field=field_type(gspace, [gspace.irrep(1)]))
    for name in ("scale", "shear_x", "hyperbolic"):
        with pytest.raises(NotMeasurable, match="rotations and translations alone"):
            action.flow(FLOWS[name], (2, 3, H, W), (2, 2, H, W))
    with pytest.raises(NotMeasurable, match="2 channels"):
        action.flow(FLOWS["rotation"], (2, 3, H, W), (2, 5, H, W))
    # A map squeezed along one axis is turned by the same angle.
    squeezed = action.flow(FLOWS["rotation"], (2, 3, H, W), (2, 2, H, W // 2))
    torch.testing.assert_close(squeezed.fibre, fibre_generator(action.field, FLOWS["rotation"].matrix))


def test_what_is_no_field_type_of_the_plane_is_refused():
    with pytest.raises(SofteqTypeError, match="FieldType"):
        ImageMap(field="irrep 1")
    space = SimpleNamespace(gspace=SimpleNamespace(dimensionality=3, name="SO(3) on R3"), representations=(), size=3)
    with pytest.raises(SofteqValueError, match="of the plane"):
        ImageMap(field=space)
