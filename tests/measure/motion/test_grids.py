import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure import (
    FLOWS,
    GridFlow,
    GridMap,
    Invariant,
    NotMeasurable,
    colour_flows,
    displacement_curve,
    lie_derivative,
    local_equivariance_error,
    time_flows,
    volume_flows,
)


def smooth(*shape, power=1.5, seed=0):
    """Random periodic data without high frequencies."""
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    axes = tuple(range(2, len(shape)))
    spectrum = torch.fft.fftn(x, dim=axes)
    for axis in axes:
        f = torch.fft.fftfreq(shape[axis], dtype=torch.float64).abs() * 2
        spectrum *= torch.exp(-((f / 0.35) ** 4)).view(-1, *[1] * (len(shape) - 1 - axis))
    return torch.fft.ifftn(spectrum, dim=axes).real


SERIES, VOLUMES = smooth(3, 2, 40), smooth(2, 2, 9, 10, 11)
CASES = {flow.name: (flow, SERIES) for flow in time_flows()} | {f"3d {f.name}": (f, VOLUMES) for f in volume_flows()}


@pytest.mark.parametrize("stencil", ["bspline", "central"])
@pytest.mark.parametrize("name", CASES)
def test_the_tangent_is_the_derivative_of_the_motion(name, stencil):
    flow, x = CASES[name]
    flow = flow.with_(stencil=stencil, margin=1)
    h = 1e-5
    found = (flow(x, h) - flow(x, -h)) / (2 * h)
    tolerance = 1e-6 if stencil == "bspline" else 1e-3  # the second derivative of `central` jumps at the pixels
    torch.testing.assert_close(found, flow.tangent(x), atol=tolerance, rtol=1e-5)
    assert found.abs().max() > 0.01
    assert not flow.tangent(x)[..., :1].any()


def test_a_volume_of_one_layer_is_an_image():
    """The same velocities as the flows of images, on (B, C, 1, H, W)."""
    x = smooth(2, 3, 10, 12)
    planar = {"translation_x": FLOWS["translation_x"], "translation_y": FLOWS["translation_y"], "scale": FLOWS["scale"]}
    for flow in volume_flows():
        if flow.name in planar:
            torch.testing.assert_close(flow.tangent(x[:, :, None])[:, :, 0], planar[flow.name].tangent(x))
    turn = next(f for f in volume_flows() if f.name == "rotation_z")  # x to y, which is down: clockwise as seen
    torch.testing.assert_close(turn.tangent(x[:, :, None])[:, :, 0], -FLOWS["rotation"].tangent(x))


def test_a_series_is_an_image_of_one_row():
    shift, stretch = time_flows()
    for flow, planar in ((shift, FLOWS["translation_x"]), (stretch, FLOWS["stretch_x"])):
        for stencil in ("bspline", "central", "reference", "fourier"):
            own, other = flow.with_(stencil=stencil), planar.with_(stencil=stencil)
            torch.testing.assert_close(own.tangent(SERIES), other.tangent(SERIES[:, :, None])[:, :, 0])
            if stencil != "fourier":
                torch.testing.assert_close(own(SERIES, 0.3), other(SERIES[:, :, None], 0.3)[:, :, 0])


def test_whole_steps_and_right_angles_are_exact():
    shift = time_flows()[0].with_(boundary="periodic", stencil="fourier")
    assert torch.equal(shift(SERIES, 3.0), SERIES.roll(3, 2))
    cube = smooth(1, 2, 7, 7, 7)
    turn = next(f for f in volume_flows() if f.name == "rotation_z")
    assert torch.equal(turn(cube, math.pi / 2), torch.rot90(cube, 1, (4, 3)))
    assert turn.exact(math.pi / 2, 7, 7, 7)
    assert not turn.exact(0.3, 7, 7, 7)
    with pytest.raises(NotMeasurable, match="whole steps"):
        shift(SERIES, 0.5)


def test_networks_on_series_and_volumes():
    """Circular convolutions and pooling answer to no shift; a mask in front makes them answer."""
    torch.manual_seed(0)
    for x, conv, pool, flow in (
        (SERIES, nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), nn.AdaptiveAvgPool1d(1), time_flows()[0]),
        (VOLUMES, nn.Conv3d(2, 4, 3, padding=1, padding_mode="circular"), nn.AdaptiveAvgPool3d(1), volume_flows()[2]),
    ):
        model = nn.Sequential(conv, nn.GELU(), pool, nn.Flatten()).double()
        options = {"output": "logits", "stencil": "fourier", "boundary": "periodic", "norm": "relative"}
        sound = local_equivariance_error(model, x, flow, **options)
        assert (sound.control_kind, sound.stencil) == ("samples", "fourier")
        mask = torch.rand(x.shape[2:], dtype=torch.float64)
        faulty = local_equivariance_error(lambda y, m=model, w=mask: m(y * w), x, flow, **options)
        assert sound.per_sample().max() < 1e-12  # what GELU makes above the highest frequency is left
        assert faulty.per_sample().min() > 1e3 * sound.per_sample().max()


def test_maps_on_the_grid_move_with_it_at_any_resolution():
    down = nn.AvgPool1d(2)
    for flow in time_flows():
        curve = displacement_curve(down, SERIES, flow, [0.05], output=GridMap(), boundary="periodic", slope=False)
        still = displacement_curve(down, SERIES, flow, [0.05], output=Invariant(), boundary="periodic", slope=False)
        assert curve.mean() < 0.4 * still.mean()  # the ends of a stretched period do not meet
    for flow in volume_flows():
        moved = lie_derivative(torch.sin, VOLUMES, flow, GridMap())
        assert moved.norm() < 0.1 * lie_derivative(torch.sin, VOLUMES, flow).norm()
    with pytest.raises(NotMeasurable, match="flows of series and volumes"):
        lie_derivative(torch.sin, smooth(2, 3, 8, 8), "rotation", GridMap())
    with pytest.raises(NotMeasurable, match="expected 3 axes"):
        lie_derivative(lambda y: y.mean(2), SERIES, time_flows()[0], GridMap())


def test_default_displacements_of_a_series():
    shifts = displacement_curve(lambda y: y.flatten(1), SERIES, time_flows()[0], output="logits", slope=False)
    assert shifts.displacements[-1] == 10
    assert shifts.exact[-1]
    assert shifts.familiar()[0] == "samples"


def test_flows_of_several_kinds_share_one_pass_and_change_no_number():
    x, calls = smooth(3, 3, 8, 9), []
    weight = torch.randn(4, 3, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def f(y):
        calls.append(len(y))
        return torch.einsum("kchw,bchw->bk", weight, y.sin())

    hue, brightness = colour_flows()[4], colour_flows()[0]
    mixed = local_equivariance_error(f, x, [hue, "rotation", brightness, "scale"], output="logits")
    assert sum(calls) == 3 + 2  # all tangents in one pass, and both ends of the batch alone
    assert mixed.control_kind == "noise and samples"
    for name, flows in (("rotation", ["rotation", "scale"]), ("hue", [hue]), ("brightness", [brightness])):
        alone = local_equivariance_error(f, x, flows, output="logits")
        torch.testing.assert_close(mixed.per_sample()[:, mixed.flows.index(name)], alone.per_sample()[:, 0])
    assert mixed.gram is not None
    assert mixed.stencil == "bspline"
    assert mixed.units == ("radians", "radians", "intensity", "dimensionless")


def test_bad_input():
    with pytest.raises(SofteqValueError, match=r"moves floating data \(B, C, T\)"):
        time_flows()[0].tangent(VOLUMES)
    with pytest.raises(SofteqValueError, match=r"\(B, C, D, H, W\)"):
        volume_flows()[0](SERIES, 1.0)
    with pytest.raises(SofteqValueError, match="matrix, shift"):
        GridFlow("a", "b", torch.eye(2), torch.zeros(3))
    for margin in (1.5, True, "2"):
        with pytest.raises(SofteqTypeError, match="margin: expected a whole number"):
            time_flows()[0].with_(margin=margin)
        with pytest.raises(SofteqTypeError, match="margin: expected a whole number"):
            local_equivariance_error(torch.sin, SERIES, time_flows(), margin=margin)
        with pytest.raises(SofteqTypeError, match="margin: expected a whole number"):
            FLOWS["scale"].with_(margin=margin)
