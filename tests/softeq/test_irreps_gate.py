"""Soft gates of irreps: the formula, the choice of functions, and e3nn's own as a twin."""

import pytest
import torch
from e3nn import nn as e3nn_nn
from e3nn import o3

from softeq import Prior, fold, harden, prior_penalty
from softeq._irreps_gate import ACTIVATIONS, SoftGate
from softeq.errors import SofteqTypeError, SofteqValueError

pytestmark = pytest.mark.usefixtures("exact_wigner_matrices")


def turned(function, irreps_in, irreps_out, *inputs):
    """The largest relative difference between turning before and after, over a few elements of O(3)."""
    torch.manual_seed(3)
    matrices = o3.rand_matrix(4, dtype=torch.float64)
    matrices[::2] *= -1
    worst = 0.0
    for r in matrices:
        moved = function(*(x @ o3.Irreps(i).D_from_matrix(r).T for x, i in zip(inputs, irreps_in, strict=True)))
        expected = function(*inputs) @ o3.Irreps(irreps_out).D_from_matrix(r).T
        worst = max(worst, float((moved - expected).abs().max() / expected.abs().max()))
    return worst


IRREPS = "4x0e + 2x0o + 3x1o + 1x2e"


def test_the_input_has_a_gate_for_all_but_even_scalars():
    assert SoftGate(IRREPS).irreps_in == o3.Irreps("6x0e + 4x0e + 2x0o + 3x1o + 1x2e")
    assert SoftGate("3x0e").irreps_in == o3.Irreps("3x0e")


def test_hard_is_equivariant_and_none_is_not():
    hard = SoftGate(IRREPS, constraint="hard")
    x = torch.randn(5, hard.irreps_in.dim, dtype=torch.float64)
    assert turned(hard, [hard.irreps_in], IRREPS, x) < 1e-9
    assert turned(SoftGate(IRREPS, constraint="none").double(), [hard.irreps_in], IRREPS, x) > 0.1
    assert 1e-6 < turned(SoftGate(IRREPS).double(), [hard.irreps_in], IRREPS, x) < 0.05


def test_the_formula():
    gate = SoftGate("1x0e + 1x1o").double()
    g, s, *v = torch.randn(5, dtype=torch.float64)
    y = gate(torch.stack([g, s, *v]))
    swish = lambda z: z * torch.sigmoid(z)
    expected = torch.stack([swish(s), *(torch.sigmoid(g) * z for z in v)])
    torch.testing.assert_close(y, expected + 1e-3 * swish(torch.stack([s, *v])))


def test_contract():
    gate = SoftGate(IRREPS)
    x = torch.randn(2, gate.irreps_in.dim)
    torch.testing.assert_close(fold(gate)(x), gate(x))
    assert list(harden(gate).parameters()) == []
    torch.testing.assert_close(
        prior_penalty(gate, Prior(residual=2.0)), gate.pathways["residual"].weight.square().sum()
    )
    with pytest.raises(SofteqValueError, match="x: expected shape"):
        gate(torch.randn(2, 3))
    with pytest.raises(SofteqValueError, match="no equivariant pathway"):
        harden(SoftGate(IRREPS, constraint="none"))


ODD = {"act": "silu", "odd": "tanh", "gate": "sigmoid"}


def test_odd_scalars_pass_through_an_odd_function():
    gate = SoftGate(IRREPS, **ODD, constraint="hard").double()
    assert gate.irreps_in == o3.Irreps("4x0e + 4x0e + 2x0o + 3x1o + 1x2e")
    x = torch.randn(5, gate.irreps_in.dim, dtype=torch.float64)
    assert turned(gate, [gate.irreps_in], IRREPS, x) < 1e-9
    torch.testing.assert_close(gate(x)[:, 4:6], x[:, 8:10].tanh())


@pytest.mark.parametrize("odd", ["silu", "relu", "abs", torch.exp])
def test_a_function_that_is_not_odd_is_refused_for_odd_scalars(odd):
    with pytest.raises(SofteqValueError, match=r"odd: expected an odd function, f\(-t\) = -f\(t\)"):
        SoftGate(IRREPS, odd=odd)


def test_it_is_e3nn_s_normalised():
    ours = SoftGate(IRREPS, **ODD, constraint="hard", normalised=True)
    theirs = e3nn_nn.Gate("4x0e + 2x0o", [torch.nn.functional.silu, torch.tanh], "4x0e", [torch.sigmoid], "3x1o + 1x2e")
    x = torch.randn(5, ours.irreps_in.dim)
    gates, even, odd, gated = x.split([4, 4, 2, 14], -1)
    # e3nn draws its normalisation at random: good to a part in a thousand.
    torch.testing.assert_close(ours(x), theirs(torch.cat([odd, even, gates, gated], -1)), atol=1e-2, rtol=5e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_normalised_function_has_mean_square_one(name):
    gate = SoftGate("0e", act=name, constraint="hard", normalised=True)
    z = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    assert float(gate(z).square().mean()) == pytest.approx(1, abs=0.03)


def test_the_residual_takes_the_function_of_the_even_scalars():
    none = SoftGate("2x1o", act=torch.sin, constraint="none")
    x = torch.randn(3, 8)
    torch.testing.assert_close(none(x), torch.sin(x[:, 2:]))


def test_what_is_no_function_is_refused():
    for wrong, error, message in (
        ("swish", SofteqValueError, "act: expected one of .'silu'"),
        (3, SofteqTypeError, "act: expected a function or its name, got 3"),
        (torch.sum, SofteqTypeError, "act: expected a pointwise function"),
    ):
        with pytest.raises(error, match=message):
            SoftGate("0e + 1o", act=wrong, normalised=True)
    with pytest.raises(SofteqValueError, match="act: expected a function with a finite mean square"):
        SoftGate("0e", act=torch.zeros_like, normalised=True)
