"""Every kind of output: its flow against one derived another way, and the shapes that are inferred or refused."""

from types import SimpleNamespace

import pytest
import torch

from softeq import T, Vector
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import SO, Cyclic, O
from softeq.measure.errors import NotMeasurable
from softeq.measure.lie_derivative import lie_derivative
from softeq.measure.motion.actions import (
    ImageMap,
    Invariant,
    Pick,
    Points,
    Tokens,
    UnderIrreps,
    UnderRep,
    Vectors,
)
from softeq.measure.motion.flows import FLOWS
from softeq.measure.motion.spaces import LinearFlow, RepFlow, group_flows, point_flows
from softeq.measure.motion.stencils import resample

H, W = 33, 48


def blobs(height=H, width=W, samples=2, channels=3, seed=0):
    """Smooth images that vanish well before the edge, so that no boundary matters."""
    g = torch.Generator().manual_seed(seed)
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    c, r = (torch.randn(samples, channels, 4, 1, 1, generator=g, dtype=torch.float64) * 2.5 for _ in range(2))
    weight = torch.randn(samples, channels, 4, 1, 1, generator=g, dtype=torch.float64)
    return (weight * torch.exp(-((columns - c) ** 2 + (rows[:, None] - r) ** 2) / 18)).sum(2)


def grid(height, width, to_height, to_width):
    """Places of the pixels of a map of another resolution over the same frame, (column, row)."""
    rows = (torch.arange(to_height, dtype=torch.float64) - (to_height - 1) / 2) * height / to_height + (height - 1) / 2
    columns = (torch.arange(to_width, dtype=torch.float64) - (to_width - 1) / 2) * width / to_width + (width - 1) / 2
    return torch.stack(torch.broadcast_tensors(columns, rows[:, None]), -1)


def sampled_at(height, width):
    return lambda x: resample(x, grid(*x.shape[-2:], height, width))


def size(derivative, value):
    return float(derivative.norm() / value.norm())


# Maps


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("to", [(H, W), (22, 32), (33, 24), (66, 64)], ids=str)
def test_a_map_of_any_resolution_moves_with_the_image(flow, to):
    x, f = blobs(), sampled_at(*to)
    right = size(lie_derivative(f, x, flow, ImageMap()), f(x))
    still = size(lie_derivative(f, x, flow, Invariant()), f(x))
    assert right < 0.03 * still
    if to not in ((H, W), (33, 24)):  # the input's own flow, in the map's pixels, is another motion for translations
        wrong = size(lie_derivative(f, x, "translation_x", FLOWS["translation_x"]), f(x))
        assert wrong > 0.03 * size(lie_derivative(f, x, "translation_x"), f(x))


@pytest.mark.parametrize("to", [(22, 32), (33, 24)], ids=str)
def test_map_flow_is_the_image_flow_in_other_coordinates(to):
    zoom = torch.tensor([to[1] / W, to[0] / H], dtype=torch.float64)
    p = torch.tensor([3.0, -5.0], dtype=torch.float64)
    for flow in FLOWS.values():
        moved = ImageMap().flow(flow, (2, 3, H, W), (2, 8, *to))
        torch.testing.assert_close(
            moved.matrix @ (zoom * p) + moved.shift, zoom * (flow.matrix @ p + flow.shift), atol=1e-12, rtol=0
        )
        assert moved.name == flow.name


def test_margin_of_a_map_covers_what_lies_wholly_in_the_image_margin():
    flow = FLOWS["rotation"].with_(margin=7, stencil="central", boundary="periodic")
    moved = ImageMap().flow(flow, (1, 3, 32, 32), (1, 8, 8, 8))
    assert (moved.margin, moved.stencil, moved.boundary) == (1, "central", "periodic")
    assert ImageMap().flow(flow, (1, 3, 32, 32), (1, 8, 1, 1)).margin == 0


def test_channels_last_maps_are_the_same_maps():
    x, first = blobs(), sampled_at(22, 32)
    expected = lie_derivative(first, x, "rotation", ImageMap())
    found = lie_derivative(lambda z: first(z).movedim(1, -1), x, "rotation", ImageMap(channels_last=True))
    torch.testing.assert_close(found.movedim(-1, 1), expected)
    nhwc = FLOWS["rotation"].with_(channels_last=True)
    whole = lie_derivative(lambda z: first(z.movedim(-1, 1)), x.movedim(1, -1), nhwc, ImageMap())
    torch.testing.assert_close(whole, expected)


def test_tokens_are_a_map_in_rows_and_the_prefix_does_not_move():
    x, f = blobs(), sampled_at(11, 16)

    def tokens(z):
        patches = f(z).flatten(2).mT
        return torch.cat([z.mean((2, 3))[:, None], patches.mean(1, keepdim=True), patches], 1)

    found = lie_derivative(tokens, x, "rotation", Tokens((11, 16), prefix=2))
    torch.testing.assert_close(found[:, 2:].mT.unflatten(2, (11, 16)), lie_derivative(f, x, "rotation", ImageMap()))
    torch.testing.assert_close(found[:, :2], lie_derivative(lambda z: tokens(z)[:, :2], x, "rotation"))
    flow = Tokens((11, 16), 2).flow(FLOWS["rotation"], x.shape, (2, 178, 3))
    moved, h = tokens(x), 1e-5
    assert torch.equal(flow(moved, 0.3)[:, :2], moved[:, :2])
    torch.testing.assert_close(flow.tangent(moved), (flow(moved, h) - flow(moved, -h)) / (2 * h), atol=1e-7, rtol=1e-6)


# Vectors, tensors, points


def centre(z):
    """Centre of mass of each image's first channel, (column, row) in pixels from its centre."""
    mass = z[:, 0].square()
    places = grid(H, W, H, W) - torch.tensor([(W - 1) / 2, (H - 1) / 2], dtype=torch.float64)
    return torch.einsum("bhw,hwk->bk", mass, places) / mass.sum((1, 2))[:, None]


@pytest.mark.parametrize("flow", ["translation_x", "translation_y", "rotation", "scale", "shear_x", "stretch_y"])
def test_a_centre_of_mass_is_a_point_of_the_image(flow):
    x = blobs()
    assert lie_derivative(centre, x, flow, Points()).abs().max() < 0.02
    if flow.startswith("translation"):
        assert lie_derivative(centre, x, flow, Vectors()).abs().max() == pytest.approx(1, abs=0.02)


def test_planar_rep_under_a_rotation_of_images():
    x, rep = blobs(), (T(2) + Vector)(SO(2))
    second = lambda z: torch.cat([torch.einsum("bi,bj->bij", centre(z), centre(z)).flatten(1), centre(z)], 1)
    assert lie_derivative(second, x, "rotation", UnderRep(rep)).abs().max() < 0.05
    assert lie_derivative(second, x, "rotation").abs().max() > 0.5
    with pytest.raises(NotMeasurable, match="not in the Lie algebra"):
        lie_derivative(second, x, "scale", UnderRep(rep))
    with pytest.raises(NotMeasurable, match="not in the Lie algebra"):
        lie_derivative(second, x, "rotation", UnderRep((T(2) + Vector)(Cyclic(4))))


@pytest.mark.parametrize(
    ("action", "flow", "shape", "match"),
    [
        (UnderRep(Vector(SO(3))), point_flows(3)[3], (4, 5), "expected .*, 3\\) for"),
        (UnderRep(Vector(SO(2))), point_flows(3)[3], (4, 2), "2 x 2 matrix"),
        (UnderRep(Vector(O(3))), group_flows(Vector(SO(3)))[0], (4, 3), "moves under SO"),
        (UnderRep(Vector(SO(3))), RepFlow(Vector(SO(2)), SO(2).lie_algebra[0]), (4, 3), "moves under SO"),
        (UnderIrreps("1x1o"), FLOWS["rotation"], (4, 3), "3 x 3 matrix"),
        (UnderIrreps("1x1o"), point_flows(3)[3], (4, 4), "expected .*, 3\\) for"),
        (UnderIrreps("1x1o"), LinearFlow(torch.eye(3)), (4, 3), "antisymmetric"),
        (Vectors(), point_flows(3)[3], (4, 2), "expected .*, 3\\) under"),
        (Vectors(), FLOWS["rotation"], (), "expected .*, 2\\) under"),
        (Points(), point_flows(3)[3], (4, 5, 2), "expected .*, 3\\) under"),
        (Points(), group_flows(Vector(SO(3)))[0], (4, 3), "places"),
        (ImageMap(), point_flows(3)[3], (4, 3, 8, 8), "images"),
        (ImageMap(), FLOWS["rotation"], (4, 3), "four axes"),
        (Tokens((4, 6), 1), FLOWS["rotation"], (4, 24, 3), "4 \\* 6"),
        (Tokens((4, 6)), FLOWS["rotation"], (4, 24), "4 \\* 6"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_what_does_not_fit_is_not_measurable(action, flow, shape, match):
    with pytest.raises(NotMeasurable, match=match):
        action.flow(flow, (4, 3, 32, 48), shape)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: Tokens((4,)), SofteqValueError),
        (lambda: Tokens((0, 4)), SofteqValueError),
        (lambda: Tokens((4, 4), -1), SofteqValueError),
        (lambda: Tokens((4.0, 4)), SofteqValueError),
        (lambda: UnderRep(Vector), SofteqValueError),
        (lambda: UnderRep("vector"), SofteqTypeError),
        (lambda: UnderIrreps("vector"), SofteqValueError),
        (lambda: Pick(0, Vector), SofteqTypeError),
    ],
)
def test_bad_declarations_are_refused(build, error):
    with pytest.raises(error):
        build()


# Entries


def test_an_entry_of_a_tuple_a_mapping_or_an_object_is_picked():
    x, f = blobs(), sampled_at(22, 32)
    expected = lie_derivative(f, x, "rotation", ImageMap())
    returns = {
        "tuple": (lambda z: (z.mean(), f(z)), Pick(1, ImageMap())),
        "dict": (lambda z: {"map": f(z), "rest": None}, Pick("map", ImageMap())),
        "object": (lambda z: SimpleNamespace(map=f(z)), Pick("map", ImageMap())),
        "nested": (lambda z: {"features": [None, f(z)]}, Pick("features", Pick(-1, ImageMap()))),
    }
    for function, action in returns.values():
        torch.testing.assert_close(lie_derivative(function, x, "rotation", action), expected)
    assert "entry 'map'" in returns["dict"][1].name


@pytest.mark.parametrize(
    ("output", "entry", "match"),
    [
        ({"a": 1}, "b", "with keys \\['a'\\]"),
        ((1, 2), 5, "no entry 5"),
        (SimpleNamespace(a=1), "b", "no entry 'b'"),
        (3.0, 0, "no entry 0"),
        ({"a": [1, 2]}, "a", "expected a tensor, got list"),
    ],
)
def test_an_entry_that_is_not_there_is_not_measurable(output, entry, match):
    with pytest.raises(NotMeasurable, match=match):
        Pick(entry, Invariant()).select(output)


# Inference
