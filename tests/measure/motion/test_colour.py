import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.measure import ColourFlow, ImageMap, NotMeasurable, Vectors, colour_flows, derivatives, lie_derivative

MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.3, 0.25)
RAW = torch.rand(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FLOWS = {flow.name: flow for flow in colour_flows(MEAN, STD)}


def normalised(raw):
    return (raw - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(STD).double()[:, None, None]


def grey(raw):
    return (raw * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(1, keepdim=True)


BY_HAND = {
    "brightness": lambda raw, t: raw + t,
    "exposure": lambda raw, t: raw * math.exp(t),
    "contrast": lambda raw, t: 0.5 + (raw - 0.5) * math.exp(t),
    "saturation": lambda raw, t: grey(raw) + (raw - grey(raw)) * math.exp(t),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_it_does_to_intensities(name):
    torch.testing.assert_close(FLOWS[name](normalised(RAW), 0.3), normalised(BY_HAND[name](RAW, 0.3)))


def test_hue_turns_about_the_grey_axis():
    hue = colour_flows()[4]
    third = 2 * math.pi / 3
    torch.testing.assert_close(hue(RAW, third), RAW[:, [2, 0, 1]])
    torch.testing.assert_close(hue(RAW, 1.0).sum(1), RAW.sum(1))


@pytest.mark.parametrize("name", FLOWS)
def test_the_tangent_is_the_derivative_and_motions_add(name):
    flow, x, h = FLOWS[name], normalised(RAW), 1e-5
    torch.testing.assert_close((flow(x, h) - flow(x, -h)) / (2 * h), flow.tangent(x), atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(flow(flow(x, 0.2), 0.3), flow(x, 0.5))
    last = {f.name: f for f in colour_flows(MEAN, STD, channels_last=True)}[name]
    torch.testing.assert_close(last.tangent(x.movedim(1, -1)), flow.tangent(x).movedim(1, -1))


def test_an_invariant_and_what_is_none():
    x = normalised(RAW)
    _, found = derivatives(lambda y: y - y.mean((2, 3), keepdim=True), x, [FLOWS["brightness"], FLOWS["contrast"]])
    assert found[0].abs().max() < 1e-14
    assert found[1].abs().max() > 0.1


def test_maps_stay_where_they_are_and_vectors_are_refused():
    x = normalised(RAW)
    found = lie_derivative(torch.sin, x, FLOWS["exposure"], ImageMap())
    torch.testing.assert_close(found, x.cos() * FLOWS["exposure"].tangent(x))
    with pytest.raises(NotMeasurable, match="hue has none"):
        lie_derivative(lambda y: y.mean((2, 3)), x, FLOWS["hue"], Vectors())


def test_bad_input():
    for mean, std in (((0, 0), (1, 1, 1)), ((0, 0, math.nan), (1, 1, 1)), ((0, 0, 0), (1, 0, 1))):
        with pytest.raises(SofteqValueError, match="mean, std: expected three"):
            colour_flows(mean, std)
    with pytest.raises(SofteqValueError, match="3 channels, got"):
        FLOWS["hue"].tangent(RAW[:, :2])
    with pytest.raises(SofteqValueError, match="offset"):
        ColourFlow("a", "b", torch.eye(3), torch.ones(2))
