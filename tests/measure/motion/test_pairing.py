"""Pairings with tangents that are never built, against the tangents themselves."""

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.measure import FLOWS, Tokens, group_flows
from softeq.measure.motion import pairing as module
from softeq.measure.motion.pairing import Slopes, pairing

G = torch.Generator().manual_seed(0)


def drawn(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=G)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("stencil", ["bspline", "fourier", "central"])
def test_it_is_the_product_with_the_tangent(name, stencil):
    flow = FLOWS[name].with_(stencil=stencil, boundary="periodic", margin=1)
    x, g = drawn(3, 2, 5, 7), drawn(3, 2, 5, 7)
    torch.testing.assert_close(Slopes(x).paired(flow, g, last=True), pairing(g, flow.tangent(x)))
    last, x, g = flow.with_(channels_last=True), x.movedim(1, -1), g.movedim(1, -1)
    torch.testing.assert_close(Slopes(x).paired(last, g, last=False), pairing(g, last.tangent(x)))


def test_tokens_complex_features_and_other_flows():
    x, g = drawn(2, 1 + 4 * 6, 3), drawn(2, 1 + 4 * 6, 3)
    flow = Tokens((4, 6), 1).flow(FLOWS["rotation"], (2, 3, 32, 48), tuple(x.shape))
    torch.testing.assert_close(Slopes(x).paired(flow, g, last=False), pairing(g, flow.tangent(x)))
    z, w = (drawn(2, 3, 6, 6, dtype=torch.complex128) for _ in range(2))
    torch.testing.assert_close(Slopes(z).paired(FLOWS["scale"], w, last=False), pairing(w, FLOWS["scale"].tangent(z)))
    from softeq import Vector
    from softeq.groups import SO

    vectors, gradient = drawn(4, 3), drawn(4, 3)
    turn = group_flows(Vector(SO(3)))[0]
    torch.testing.assert_close(
        Slopes(vectors).paired(turn, gradient, last=False), pairing(gradient, turn.tangent(vectors))
    )


def test_half_precision_adds_up_in_more():
    x, g = drawn(2, 64, 9, 9), drawn(2, 64, 9, 9)
    exact = Slopes(x).paired(FLOWS["scale"], g, last=True)
    rounded = Slopes(x.bfloat16()).paired(FLOWS["scale"], g.bfloat16(), last=True)
    assert rounded.dtype == torch.float64
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.5)


def test_slopes_are_taken_once_unless_nothing_else_is_asked(monkeypatch):
    taken = []
    plain = module.slope
    monkeypatch.setattr(module, "slope", lambda *given: taken.append(given[1]) or plain(*given))
    slopes, g = Slopes(drawn(2, 1, 4, 4)), drawn(2, 1, 4, 4)
    for name in ("translation_x", "rotation", "scale"):
        slopes.paired(FLOWS[name], g, last=False)
    assert sorted(taken) == [2, 3]
    alone = Slopes(drawn(2, 1, 4, 4))
    for _ in range(2):
        alone.paired(FLOWS["translation_y"], g, last=True)
    assert taken[2:] == [2, 2]


def test_what_is_no_image_is_refused():
    with pytest.raises(SofteqValueError, match="moves"):
        Slopes(drawn(2, 3)).paired(FLOWS["rotation"], drawn(2, 3), last=True)
