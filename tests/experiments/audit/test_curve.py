"""What whole displacements do."""

import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.experiments.audit.curve import curve, displacements
from softeq.measure import FLOWS, ImageMap, Invariant, colour_flows

PERIODIC = {"stencil": "fourier", "boundary": "periodic"}


class Pooled(nn.Module):
    """Circular convolutions, then the mean: invariant to any shift of periodic images without the finest waves."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular").double()

    def forward(self, x):
        return self.conv(x).square().mean((2, 3))


def smooth(n=3, size=17):
    """Periodic images without waves near the grid's own: moving and squaring them loses nothing."""
    spectrum = torch.fft.rfft2(torch.randn(n, 2, size, size, dtype=torch.float64))
    spectrum[..., 4:-3, :] = 0
    spectrum[..., 4:] = 0
    return torch.fft.irfft2(spectrum, s=(size, size))


def own(name, stencil, boundary):
    return FLOWS[name].with_(stencil=stencil, boundary=boundary)


def of(module, x, name, output="logits", *, classes=True, **flow):
    return curve(module, x, own(name, **(flow or PERIODIC)), output, classes=classes, batch_size=2)["rows"]


def test_an_invariant_network_says_the_same_everywhere():
    for row in of(Pooled(), smooth(), "translation_x"):
        assert row["relative"] < 1e-12
        assert row["change"] < 1e-12
        assert row["kept"] == 3


def test_a_map_that_moves_along_is_moved_back():
    conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular").double()
    rows = of(conv, smooth(), "translation_y", ImageMap(), classes=False)
    assert max(row["relative"] for row in rows) < 1e-12
    still = of(conv, smooth(), "translation_y", Invariant(), classes=False)
    assert still[-1]["relative"] > 0.1
    assert "kept" not in still[0]


def test_what_left_the_frame_is_left_out():
    identity = nn.Identity()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    rows = of(identity, x, "translation_x", ImageMap(), classes=False, stencil="bspline", boundary="mirror")
    whole = [row for row in rows if row["step"] == 4.0]
    assert whole[0]["relative"] < 1e-12  # the mirrored edge would be far off


class Left(nn.Module):
    """The first class is as probable as the left half is bright."""

    def forward(self, x):
        left, right = x[..., : x.shape[-1] // 2].mean((1, 2, 3)), x[..., x.shape[-1] // 2 :].mean((1, 2, 3))
        return 8 * torch.stack([left, right], 1)


def test_a_network_that_looks_at_places_changes_its_mind():
    x = torch.zeros(4, 1, 16, 16, dtype=torch.float64)
    x[..., 4:7] = 1
    rows = {row["step"]: row for row in of(Left(), x, "translation_x", stencil="bspline", boundary="mirror")}
    assert rows[0.02]["kept"] == 4
    flow = own("translation_x", "bspline", "mirror")
    p, q = (Left()(v).softmax(1)[:, 0] for v in (x, flow(x, 4.0)))
    assert rows[4.0]["change"] == pytest.approx((p - q).abs().mean().item())
    assert rows[4.0]["change_interval"] == pytest.approx([rows[4.0]["change"]] * 2)
    turned = {row["step"]: row for row in of(Left(), x, "rotation", stencil="bspline", boundary="mirror")}
    assert turned[180.0]["kept"] == 0


def test_colours_move_no_place():
    bright = next(flow for flow in colour_flows(std=(0.5,) * 3) if flow.name == "brightness")
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    rows = {row["step"]: row for row in curve(Left(), x, bright, "logits", classes=True, batch_size=2)["rows"]}
    before, after = (Left()(v) for v in (x, x + 0.1 / 0.5))
    expected = ((after - before).norm(dim=1) / before.norm(dim=1)).mean().item()
    assert rows[0.1]["relative"] == pytest.approx(expected)
    assert rows[0.1]["kept"] == 2  # the halves differ as before


def test_with_labels_the_loss_is_told():
    x = torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    x[..., 4:7] = 1
    flow = own("translation_x", "bspline", "mirror")
    labels = torch.tensor([0, -1])
    found = curve(Left(), x, flow, "logits", classes=True, labels=labels, batch_size=2)["rows"][-1]
    p, q = (Left()(v).softmax(1)[0, 0] for v in (x, flow(x, 4.0)))
    loss = -(p.log() + q.log()) / 2
    assert found["loss_share"] == pytest.approx(((loss + ((p + q) / 2).log()) / loss).item())


def test_small_displacements_are_the_slope():
    from softeq.measure import lie_derivative

    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(2 * 17 * 17, 3)).double(), smooth()
    options = {"stencil": "bspline", "boundary": "periodic"}  # the Fourier stencil is windowed: they agree to 1 %
    rows = of(model, x, "translation_x", **options)
    slope = lie_derivative(model, x, own("translation_x", **options)).norm(dim=1) / model(x).norm(dim=1)
    near, far = (abs(row["relative"] / row["step"] / slope.mean().item() - 1) for row in rows[:2])  # .02 and .05 px
    assert near < 0.01
    assert far / near == pytest.approx(2.5, rel=0.05)  # of first order


def test_displacements_are_in_the_units_of_people():
    steps, times, unit = displacements("translation_x", (100, 40))
    assert (steps[-1], times, unit) == (10.0, steps, "pixels")
    assert displacements("translation_y", (100, 40))[0][-1] == 25.0
    steps, times, unit = displacements("rotation", (8, 8))
    assert (steps[0], steps[-1], unit) == (-135.0, 180.0, "degrees")
    assert times[-1] == pytest.approx(math.pi)
    steps, times, _ = displacements("scale", (8, 8))
    assert (steps[0], math.exp(times[0]), steps[-1]) == (0.5, pytest.approx(0.5), 2.0)
    steps, times, unit = displacements("contrast", (8, 8))
    assert (steps[-1], times[-1], unit) == (2.0, pytest.approx(math.log(2)), "times the contrast")
    assert displacements("hue", (8, 8))[2] == "degrees"
    steps, times, unit = displacements("brightness", (8, 8))
    assert (steps, unit) == (times, "intensity")
    with pytest.raises(SofteqValueError, match="expected one of translation_x"):
        displacements("shear_x", (8, 8))
