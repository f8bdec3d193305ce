import pickle

import pytest
import torch

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.motion.flows import COEFFICIENTS, FLOWS, GENERATORS, AffineFlow, Flow, resolve_flows, tangents
from softeq.measure.motion.stencils import STENCILS

SIZES = [(36, 36), (30, 46), (47, 28)]


def blob(height, width, columns=0.0, rows=0.0, spread=2.0):
    """A bell at (columns, rows) from the centre, and its exact gradient: (1, 1, H, W), two of these."""
    c = torch.arange(width, dtype=torch.float64) - (width - 1) / 2 - columns
    r = (torch.arange(height, dtype=torch.float64) - (height - 1) / 2 - rows)[:, None]
    x = (-(c * c + r * r) / (2 * spread**2)).exp()[None, None]
    return x, -x * c / spread**2, -x * r / spread**2


def centre_of_mass(x):
    height, width = x.shape[-2:]
    c = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    r = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    return float((x.sum((0, 1, 2)) * c).sum() / x.sum()), float((x.sum((0, 1, 3)) * r).sum() / x.sum())


def test_names_order_and_combinations():
    assert list(FLOWS) == [
        *("translation_x", "translation_y", "rotation", "scale", "shear_x"),
        *("shear_y", "stretch_x", "stretch_y", "hyperbolic"),
    ]
    named = {
        name: dict(zip(GENERATORS, row.tolist(), strict=True)) for name, row in zip(FLOWS, COEFFICIENTS, strict=True)
    }
    assert {k: v for k, v in named["rotation"].items() if v} == {"shear_x": 1, "shear_y": -1}
    assert {k: v for k, v in named["scale"].items() if v} == {"stretch_x": 1, "stretch_y": 1}
    assert {k: v for k, v in named["hyperbolic"].items() if v} == {"shear_x": 1, "shear_y": 1}
    assert all({k for k, v in named[name].items() if v} == {name} for name in GENERATORS)
    assert [FLOWS[n].unit for n in ("translation_x", "rotation", "scale")] == ["pixels", "radians", "dimensionless"]


@pytest.mark.parametrize(
    ("name", "start", "velocity"),
    [
        ("translation_x", (3, 4), (1, 0)),
        ("translation_y", (3, 4), (0, 1)),
        ("rotation", (5, 0), (0, -5)),  # what is right of the centre goes up: counter-clockwise on the screen
        ("rotation", (0, 5), (5, 0)),
        ("scale", (3, 4), (3, 4)),
        ("shear_x", (3, 4), (4, 0)),
        ("shear_y", (3, 4), (0, 3)),
        ("stretch_x", (3, 4), (3, 0)),
        ("stretch_y", (3, 4), (0, 4)),
        ("hyperbolic", (3, 4), (4, 3)),
    ],
)
def test_content_moves_along_the_velocity(name, start, velocity):
    x = blob(40, 50, *start, spread=2.0)[0]
    moved = FLOWS[name](x, 0.1)
    found = [(after - before) / 0.1 for after, before in zip(centre_of_mass(moved), centre_of_mass(x), strict=True)]
    assert found == pytest.approx(velocity, abs=0.6)  # the blob also changes shape; signs and sizes are what counts


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FLOWS)
def test_tangent_of_a_known_image(name, size):
    flow = FLOWS[name]
    x, along_columns, along_rows = blob(*size, columns=2.0, rows=-1.5)
    c = torch.arange(size[1], dtype=torch.float64) - (size[1] - 1) / 2
    r = (torch.arange(size[0], dtype=torch.float64) - (size[0] - 1) / 2)[:, None]
    places = torch.stack(torch.broadcast_tensors(c, r), dim=-1)
    velocity = places @ flow.matrix.T + flow.shift
    exact = -(velocity[..., 0] * along_columns + velocity[..., 1] * along_rows)
    found = flow.tangent(x)
    assert (found - exact).norm() < 5e-3 * exact.norm()
    assert (found + exact).norm() > exact.norm()  # control: the sign


@pytest.mark.parametrize("stencil", ["bspline", "fourier"])
@pytest.mark.parametrize("name", FLOWS)
def test_tangent_is_the_derivative_of_the_finite_motion(name, stencil):
    flow = FLOWS[name].with_(stencil=stencil)
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    step = 1e-5
    difference = (flow(x, step) - flow(x, -step)) / (2 * step)
    torch.testing.assert_close(flow.tangent(x), difference, atol=1e-6, rtol=0)
    if flow.shift.norm() == 0:
        # Control: half-pixel errors in the place of the centre do not pass.
        off = flow.with_(shift=flow.matrix @ torch.tensor([0.5, 0.5], dtype=torch.float64))
        assert (off.tangent(x) - difference).abs().max() > 0.1


@pytest.mark.parametrize("name", FLOWS)
def test_there_and_back(name):
    x = blob(40, 30, 1.0, -2.0, spread=2.0)[0]
    flow, t = FLOWS[name], 0.2
    moved = flow(x, t)
    assert (moved - x).norm() > 0.01 * x.norm()
    assert (flow(moved, -t) - x).norm() < 2e-3 * x.norm()
    assert (flow(flow(x, t / 2), t / 2) - moved).norm() < 2e-3 * x.norm()
    assert (flow(moved, t) - x).norm() > 0.02 * x.norm()  # control: the same way on


@pytest.mark.parametrize("stencil", STENCILS)
def test_whole_pixels_roll(stencil):
    x = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    for name, axis in (("translation_x", 3), ("translation_y", 2)):
        flow = FLOWS[name].with_(stencil=stencil, boundary="periodic")
        tolerance = 0 if stencil in ("central", "reference") else 1e-13
        for pixels in (1, -2, 13):
            torch.testing.assert_close(flow(x, float(pixels)), x.roll(pixels, axis), atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", [(8, 8), (7, 7)])
def test_a_quarter_turn_is_counter_clockwise(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    turned = FLOWS["rotation"](x, torch.pi / 2)
    torch.testing.assert_close(turned, torch.rot90(x, 1, (2, 3)), atol=1e-12, rtol=0)
    assert (turned - torch.rot90(x, -1, (2, 3))).abs().max() > 0.1


def test_channels_last():
    x = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    for flow in FLOWS.values():
        last = flow.with_(channels_last=True)
        torch.testing.assert_close(last.tangent(x.movedim(1, -1)), flow.tangent(x).movedim(1, -1))
        torch.testing.assert_close(last(x.movedim(1, -1), 0.1), flow(x, 0.1).movedim(1, -1))


def test_margin_stands_still():
    x, flow = torch.randn(2, 3, 8, 9, dtype=torch.float64), FLOWS["rotation"]
    still = flow.with_(margin=2)
    inner = (..., slice(2, -2), slice(2, -2))
    for moved, free, rest in ((still.tangent(x), flow.tangent(x), 0 * x), (still(x, 0.3), flow(x, 0.3), x)):
        assert torch.equal(moved[inner], free[inner])
        assert torch.equal(moved[..., :2, :], rest[..., :2, :])
        assert torch.equal(moved[..., -2:], rest[..., -2:])
    assert not flow.with_(margin=4).tangent(x).any()


@pytest.mark.parametrize("name", FLOWS)
def test_tangents_are_linear_in_the_generators(name):
    x = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    six = tangents([FLOWS[g] for g in GENERATORS], x)
    assert six.shape == (6, *x.shape)
    combined = torch.tensordot(FLOWS[name].coefficients, six, dims=1)
    torch.testing.assert_close(combined, FLOWS[name].tangent(x), atol=1e-12, rtol=0)


def test_tangents_of_unlike_flows():
    x = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    flows = [FLOWS["rotation"], FLOWS["rotation"].with_(stencil="central")]
    found = tangents(flows, x)
    assert torch.equal(found[1], flows[1].tangent(x))
    assert not torch.allclose(found[0], found[1])


def test_dtype_follows_the_image():
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1, 1, 6, 6).to(dtype)
        assert FLOWS["rotation"].tangent(x).dtype == dtype
        assert FLOWS["rotation"](x, 0.1).dtype == dtype


def test_resolve():
    rotation = FLOWS["rotation"]
    assert resolve_flows("rotation") == (rotation,)
    assert resolve_flows(rotation) == (rotation,)
    assert resolve_flows(FLOWS) == tuple(FLOWS.values())
    assert resolve_flows(["scale", rotation]) == (FLOWS["scale"], rotation)
    assert isinstance(rotation, Flow)
    with pytest.raises(SofteqValueError, match="did you mean 'rotation'"):
        resolve_flows("rotations")
    with pytest.raises(SofteqValueError, match="at least one"):
        resolve_flows([])
    with pytest.raises(SofteqTypeError, match="got a int"):
        resolve_flows([3])
    with pytest.raises(SofteqTypeError, match="got NoneType"):
        resolve_flows(None)


def test_flows_cannot_be_changed():
    with pytest.raises(TypeError):
        FLOWS["rotation"] = FLOWS["scale"]
    with pytest.raises(AttributeError):
        FLOWS["rotation"].margin = 3
    assert pickle.loads(pickle.dumps(FLOWS["rotation"])).name == "rotation"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": torch.zeros(3, 3)}, "matrix: expected"),
        ({"shift": [float("nan"), 0.0]}, "shift: expected finite"),
        ({"stencil": "cubic"}, "stencil: expected one of"),
        ({"boundary": "zeros"}, "boundary: expected one of"),
        ({"margin": -1}, "margin: expected"),
    ],
)
def test_bad_flows(changes, message):
    with pytest.raises(SofteqValueError, match=message):
        AffineFlow("mine", "pixels", torch.zeros(2, 2), torch.zeros(2)).with_(**changes)


@pytest.mark.parametrize("x", [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "x"])
def test_bad_images(x):
    for move in (FLOWS["rotation"].tangent, lambda y: FLOWS["rotation"](y, 0.1)):
        with pytest.raises(SofteqValueError, match="x: rotation moves floating images"):
            move(x)
