"""What an error is held against: drawn right, and fair on functions whose equivariance is known."""

import pytest
import torch

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure import FLOWS, NotMeasurable, local_equivariance_error, point_flows
from softeq.measure.controls import CONTROLS, Controls, control_kinds, lengths
from softeq.measure.settings import resolve

SIZE, SAMPLES, OUTPUTS = 32, 24, 40
PERIODIC = {"stencil": "fourier", "boundary": "periodic", "output": "logits"}
BANDS = (0.15, 0.4, 1.0)


def noise(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def radius():
    f = torch.fft.fftfreq(SIZE, dtype=torch.float64) * 2
    return (f[:, None] ** 2 + f[None] ** 2).sqrt()


def within(w, band):
    """Maps without what lies above a share of the highest frequency."""
    return torch.fft.ifft2(torch.fft.fft2(w) * torch.exp(-((radius() / band) ** 4))).real


def photographs(samples=SAMPLES, seed=3):
    """Random images with the spectrum of photographs, 1/f, and edges: two sheets, one in front of the other."""
    sheets = torch.fft.ifft2(torch.fft.fft2(noise(samples, 3, SIZE, SIZE, seed=seed)) / (radius() + 0.06) ** 1.6).real
    mask = within(noise(samples, 1, SIZE, SIZE, seed=seed + 1), 0.2) > 0
    return torch.where(mask, sheets, sheets.roll(1, 0) * 0.7 + 0.3)


def unequal(band, local=False):
    """Linear functionals of random weights up to a frequency; `local`: that look at the middle alone."""
    weights = within(noise(OUTPUTS, 3, SIZE, SIZE, seed=7), band)
    if local:
        c = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
        weights = weights * torch.exp(-(c[:, None] ** 2 + c[None] ** 2) / (2 * 6.0**2))
    return lambda x: torch.einsum("kchw,bchw->bk", weights, x)


def invariant(band):
    """Energies of circular convolutions: unchanged by every shift."""
    filters = torch.zeros(8, 3, SIZE, SIZE, dtype=torch.float64)
    filters[..., :5, :5] = noise(8, 3, 5, 5, seed=8)
    spectrum = torch.fft.fft2(within(filters, band))
    return lambda x: torch.fft.ifft2((spectrum * torch.fft.fft2(x)[:, None]).sum(2)).real.square().mean((-1, -2))


def ratio(f, control, flows, x=None, **options):
    result = local_equivariance_error(f, photographs() if x is None else x, flows, control=control, **options)
    return torch.nanquantile(result.ratio_to_control(), 0.5, dim=0)


def partly(band, x, share=0.3):
    """Both, of which the one that is not invariant answers to a shift's control with `share` of the amplitude."""
    whole, broken = invariant(band), unequal(band)
    sizes = [
        local_equivariance_error(g, x, "translation_x", control="samples", **PERIODIC).control["mean_square"].mean()
        for g in (whole, broken)
    ]
    factor = share * (sizes[0] / sizes[1]).sqrt()
    return lambda x: torch.cat([whole(x), factor * broken(x)], 1)


@pytest.mark.parametrize("band", BANDS)
def test_the_default_tells_exact_partial_and_no_equivariance_at_every_bandwidth(band):
    """The experiment by which the default was chosen: near 0, between, near 1."""
    x, shifts = photographs(), ["translation_x", "translation_y"]
    every = [*shifts, "rotation", "scale", "stretch_x"]
    few = x[:8]  # their convolutions take long
    assert ratio(invariant(band), True, shifts, few, **PERIODIC).max() < 1e-12
    between = ratio(partly(band, few), True, shifts, few, **PERIODIC)
    assert 0.02 < between.min() <= between.max() < 0.4
    for local in (False, True):
        none = ratio(unequal(band, local), True, every, **PERIODIC)
        assert 0.45 < none.min() <= none.max() < 2.0, none


def test_the_others_mislead_which_is_why_they_are_not_the_default():
    """Smooth functionals look worse than not equivariant over noise, local ones look equivariant over phases."""
    rotation = ["rotation", "scale"]
    middle = unequal(BANDS[1], local=True)
    assert ratio(middle, "phase", rotation, **PERIODIC).max() < 0.4
    assert ratio(middle, "noise", rotation, **PERIODIC).max() < 0.5
    assert ratio(middle, True, rotation, **PERIODIC).min() > 0.7
    soft, shift = within(photographs(), 0.3), ["translation_x"]
    ratios = {
        kind: [float(ratio(f, kind, shift, soft, **PERIODIC)) for f in (unequal(0.3), rough)] for kind in CONTROLS
    }
    assert ratios["noise"][0] > 2.0
    assert ratios["noise"][1] < 0.3
    for kind in ("samples", "phase"):
        assert 0.6 < min(ratios[kind]) <= max(ratios[kind]) < 1.6


def rough(x):
    """Linear functionals of high frequencies alone."""
    weights = noise(OUTPUTS, 3, SIZE, SIZE, seed=7)
    return torch.einsum("kchw,bchw->bk", weights - within(weights, 0.25), x)


@pytest.mark.parametrize("kind", CONTROLS)
def test_a_functional_s_control_is_its_answer_to_the_direction(kind):
    x, weights = photographs(4), noise(5, 3, SIZE, SIZE)
    flows = ["translation_x", "scale", "translation_y"]
    result = local_equivariance_error(
        lambda z: torch.einsum("kchw,bchw->bk", weights, z), x, flows, control=kind, margin=2, draws=3, output="logits"
    )
    settings = resolve(flows, "bspline", "mirror", 2)
    drawn = Controls.of((kind,) * 3, 3, settings, x, torch.Generator().manual_seed(0))
    directions = drawn.directions(x, 0)
    for k, name in enumerate(flows):
        size = lengths(FLOWS[name].with_(margin=2).tangent(x))
        answers = []
        for draw in range(3):
            direction = directions[drawn.row(draw, k)]
            assert not direction[..., :2, :].any()
            unit = direction / lengths(direction)[:, None, None, None]
            answers.append(torch.einsum("kchw,bchw->bk", weights, unit).square().mean(1) * size**2)
        torch.testing.assert_close(result.control["mean_square"][:, k], torch.stack(answers).mean(0))
        torch.testing.assert_close(result.control_spread["mean_square"][:, k], torch.stack(answers).std(0))
    assert result.control_kind == kind
    assert f"control: {kind}, 3 draws" in str(result)
    assert result.to_dict()["draws"] == 3


def test_kinds_keep_what_they_say():
    x, generator = photographs(3), torch.Generator().manual_seed(0)
    settings = resolve(["translation_x"], "fourier", "periodic", 0)
    tangent = settings.flows[0].tangent(x)

    def direction(kind):
        return Controls.of((kind,), 1, settings, x, generator).directions(x, 0)[0]

    phase = direction("phase")
    scale = lengths(phase) / lengths(tangent)
    spectrum = torch.fft.fft2(phase).abs() / scale[:, None, None, None]
    torch.testing.assert_close(spectrum, torch.fft.fft2(tangent).abs())
    between = torch.fft.fft2(phase[:, 0]) * torch.fft.fft2(phase[:, 1]).conj()  # channels stay correlated as they were
    own = torch.fft.fft2(tangent[:, 0]) * torch.fft.fft2(tangent[:, 1]).conj()
    torch.testing.assert_close(between / (scale**2)[:, None, None], own)
    unit = (tangent / lengths(tangent)[:, None, None, None]).flatten(1)
    assert ((phase.flatten(1) / lengths(phase)[:, None]) * unit).sum(1).abs().max() < 0.5
    samples = direction("samples")
    products = (samples / lengths(samples)[:, None, None, None]).flatten(1) @ unit.T
    assert (products.abs() > 1 - 1e-9).sum(1).tolist() == [1, 1, 1]  # one of the others' tangents each ...
    assert products.diagonal().abs().max() < 0.5  # ... and never its own


def test_shifts_share_a_direction_and_so_do_motions_about_the_centre():
    settings = resolve(["translation_x", "scale", "translation_y", "rotation"], "bspline", "mirror", 0)
    drawn = Controls.of(("samples",) * 4, 2, settings, photographs(3), torch.Generator())
    assert drawn.groups == (0, 1, 0, 1)
    assert drawn.n_groups == 2
    assert Controls.of(("noise",) * 4, 2, settings, photographs(3), torch.Generator()).n_groups == 1


def test_what_answers_to_noise_alone_has_no_ratio_and_is_no_constant():
    result = local_equivariance_error(lambda x: x.mean((2, 3)), photographs(3), "translation_x", **PERIODIC)
    assert result.per_sample().max() < 1e-25
    assert result.ratio_to_control().isnan().all()  # 0 / 0: neither shift moves the mean


def test_defaults():
    images, points = resolve(["scale"], "bspline", "mirror", 0).flows, point_flows(3)
    assert control_kinds(True, images, 2) == ("samples",)
    assert control_kinds(True, images, 1) == ("phase",)
    assert control_kinds(True, (*images, points[0]), 5) == ("samples", "noise")
    assert control_kinds(False, images, 2) == ()


def test_bad_controls():
    x = photographs(1)
    options = {"output": "logits"}
    for control, error, message in (
        ("white", SofteqValueError, "expected True, False or one of"),
        (3, SofteqTypeError, "control: expected"),
        ("samples", NotMeasurable, "there is but one"),
    ):
        with pytest.raises(error, match=message):
            local_equivariance_error(torch.flatten, x, ["scale"], control=control, **options)
    with pytest.raises(NotMeasurable, match="on a grid"):
        control_kinds("phase", point_flows(3), 4)
    for name, value in (
        ("draws", 0),
        ("draws", 1.5),
        ("batch_size", 0),
        ("chunk", True),
        ("seed", -1),
        ("seed", 2**70),
    ):
        with pytest.raises((SofteqValueError, SofteqTypeError), match=f"{name}: expected"):
            local_equivariance_error(torch.flatten, x, ["scale"], **{name: value}, **options)
