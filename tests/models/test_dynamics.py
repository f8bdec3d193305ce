"""Soft EMLP: the split of channels, equivariance under several groups, the published network's size and start."""

import copy

import pytest
import torch

from softeq import (
    Prior,
    Scalar,
    SoftBilinear,
    SofteqTypeError,
    SofteqValueError,
    SoftLinear,
    T,
    Vector,
    assert_equivariant,
    fold,
    groups,
    harden,
    prior_penalty,
    weight_defect,
)
from softeq.bilinear import PUBLISHED_SCALE
from softeq.models.dynamics import SoftEMLP, uniform_rep
from softeq.reps import Pseudoscalar
from softeq.testing import equivariance_errors

O3 = groups.O(3)
PARTICLES = groups.separate(groups.O(3), groups.Permutation(3))
HIDDEN = {  # wide enough in tensors for the bilinear layer to make what comes out
    "particles": (4 * Scalar + 2 * Vector.of(1) + 2 * Vector.of(1) * Vector.of(0))
    + (3 * Vector + 2 * T(2) + 2 * T(3)).of(0),
    "Z(2), signs": 4 * Scalar + 4 * Pseudoscalar + 2 * Vector,
}
REP_IN, REP_OUT = (5 * Scalar + 5 * Vector)(O3), T(2)(O3)
CASES = {
    "O(3)": (REP_IN, REP_OUT),
    "SL(3)": ((2 * Scalar + 5 * Vector)(groups.SL(3)), (T(2) + Vector.dual)(groups.SL(3))),
    "O2eR3": ((4 * Vector)(groups.O2eR3()), Scalar(groups.O2eR3())),
    "Lorentz": ((2 * Vector + Scalar)(groups.Lorentz()), (Scalar + Vector)(groups.Lorentz())),
    "Z(4)": ((2 * Vector + Scalar)(groups.Z(4)), (Vector + Scalar)(groups.Z(4))),
    "Cube": ((Vector + Scalar)(groups.Cube()), (Vector + 2 * Scalar)(groups.Cube())),
    "Z(2), signs": ((3 * Pseudoscalar + 2 * Scalar)(groups.Z(2)), (2 * Pseudoscalar + Vector)(groups.Z(2))),
    "particles": (
        (Vector.of(1) + Vector.of(1) * Vector.of(0))(PARTICLES),
        (Scalar + T(2).of(0))(PARTICLES),
    ),
    "Permutation(4)": ((2 * Vector)(groups.Permutation(4)), (Vector + Scalar)(groups.Permutation(4))),
}


def small(name, constraint="hard", published=False):
    """Wide enough for T(3) where a matrix comes out: v -> 1 (x) v, applied to w, is what makes v (x) w from vectors."""
    torch.manual_seed(0)
    channels = 110 if name in ("O(3)", "SL(3)") else 24
    return SoftEMLP(
        *CASES[name], channels=HIDDEN.get(name, channels), layers=2, constraint=constraint, published=published
    ).double()


def inputs_for(rep, n=6):
    return torch.randn(n, rep.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_the_hard_network_is_equivariant_and_does_something(name):
    model = small(name)
    assert_equivariant(model, *CASES[name], tolerance=1e-8 if name in ("SL(3)", "Lorentz") else 1e-9)
    y = model(inputs_for(CASES[name][0]))
    assert y.shape == (6, CASES[name][1].size)
    assert y.std(0).min() > 1e-6


@pytest.mark.parametrize("name", CASES)
def test_the_soft_network_is_near_the_hard_one_and_the_free_one_is_not(name):
    errors = [
        float(equivariance_errors(small(name, constraint), *CASES[name]).mean())
        for constraint in ("hard", "soft", "none")
    ]
    assert errors[0] < 1e-9 < errors[1] < 0.1 < errors[2], errors


@pytest.mark.parametrize("published", [False, True])
def test_it_hardens_and_folds_as_a_whole(published):
    model = small("O(3)", "soft", published=published)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "residual" in name:
                p.add_(0.1)
    assert_equivariant(harden(model), *CASES["O(3)"], tolerance=1e-9)
    x = inputs_for(REP_IN)
    torch.testing.assert_close(fold(model)(x), model(x), atol=1e-9, rtol=1e-9)
    assert set(weight_defect(model)) == {"blocks.0.linear", "blocks.1.linear", "last"}


def test_the_prior_covers_every_parameter():
    model = small("O(3)", "soft")
    prior_penalty(model, Prior(0.5, 2.0)).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, (2.0 if "residual" in name else 0.5) * p.detach(), msg=name)


def test_the_published_network_has_918450_parameters():
    model = SoftEMLP(REP_IN, REP_OUT, channels=384, layers=3, published=True)
    assert sum(p.numel() for p in model.parameters()) == 918_450


def test_the_published_start():
    model = small("O(3)", "soft", published=True)
    for layer in (m for m in model.modules() if isinstance(m, SoftLinear)):
        equivariant, residual = layer.pathways["equivariant"], layer.pathways["residual"]
        gram = equivariant.weight @ equivariant.weight.T
        rows, columns = equivariant.weight.shape
        small_side = gram if rows <= columns else equivariant.weight.T @ equivariant.weight
        torch.testing.assert_close(small_side, torch.eye(len(small_side), dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(residual.weight, 1e-3 * equivariant.weight, atol=1e-9, rtol=1e-6)
        torch.testing.assert_close(residual.bias, 1e-3 * equivariant.bias, atol=1e-9, rtol=1e-6)
        assert equivariant.bias.abs().max() <= rows**-0.5
    for layer in (m for m in model.modules() if isinstance(m, SoftBilinear)):
        assert list(layer.pathways) == ["equivariant"], "the published bilinear layer has no residual pathway"


def test_the_parts_of_the_published_set_up_come_one_by_one():
    whole = small("O(3)", "soft", published=True)
    parts = small("O(3)", "soft", published=("start", "scale", "bilinear"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    linear = small("O(3)", "soft", published=("scale", "bilinear")).blocks[0].linear.pathways["equivariant"].weight
    gram = linear @ linear.mT
    assert not torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-3), "not the published start"
    bilinear = small("O(3)", "soft", published=("start", "scale")).blocks[0].bilinear
    assert list(bilinear.pathways) == ["equivariant", "residual"]
    own = small("O(3)", "soft", published=("start",)).blocks[0].bilinear
    assert set(bilinear.pathways["equivariant"].scales) == {PUBLISHED_SCALE} != set(own.pathways["equivariant"].scales)


def test_the_published_bilinear_layer_scales_by_a_tenth():
    """Standard normal weights and a factor of 0.1 throughout."""
    model = small("O(3)", "soft", published=True)
    bilinear = model.blocks[0].bilinear
    reference = SoftBilinear(bilinear.rep_in, bilinear.rep_out, constraint="hard", scale=0.1).double()
    reference.load_state_dict(bilinear.state_dict())
    x = inputs_for(bilinear.rep_in)
    torch.testing.assert_close(bilinear(x), reference(x), atol=1e-12, rtol=0)


def test_outputs_start_at_order_one_whatever_the_depth():
    for layers in (0, 1, 4):
        torch.manual_seed(0)
        model = SoftEMLP(REP_IN, REP_OUT, channels=60, layers=layers)
        y = model(torch.randn(300, REP_IN.size, generator=torch.Generator().manual_seed(0)))
        assert 0.02 < float(y.detach().std()) < 5, layers


def test_a_network_of_scalars_alone_works():
    """One channel has no tensor that could make a bilinear map."""
    model = SoftEMLP(REP_IN, Scalar(O3), channels=1, layers=1, constraint="hard").double()
    assert_equivariant(model, REP_IN, Scalar(O3), tolerance=1e-9)


def test_it_learns():
    """The inertia of one particle, r^2 I - r r^T: a hundred steps take the error down by far."""
    torch.manual_seed(0)
    rep_in = Vector(O3)
    model = SoftEMLP(rep_in, REP_OUT, channels=24, layers=1)
    r = torch.randn(128, 3, generator=torch.Generator().manual_seed(0))
    target = (r.square().sum(1)[:, None, None] * torch.eye(3) - r[:, :, None] * r[:, None]).flatten(1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        optimiser.zero_grad()
        loss = (model(r) - target).square().mean()
        (loss + prior_penalty(model, Prior()) / len(r)).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_copies_and_states_round_trip():
    model, x = small("SL(3)", "soft"), inputs_for(CASES["SL(3)"][0])
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x), atol=0, rtol=0)
    torch.manual_seed(1)
    other = SoftEMLP(*CASES["SL(3)"], channels=110, layers=2).double()
    assert not torch.allclose(other(x), model(x))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), model(x), atol=0, rtol=0)


def test_leading_axes():
    model = small("O(3)", "soft")
    x = torch.randn(2, 3, REP_IN.size, dtype=torch.float64)
    torch.testing.assert_close(model(x)[1], model(x[1]), atol=1e-9, rtol=1e-9)


def sizes(model):
    return [block.gate.rep_out.size for block in model.blocks]


def test_each_block_has_its_own_channels():
    assert sizes(SoftEMLP(REP_IN, REP_OUT, channels=[32, 64])) == [32, 64]
    assert sizes(SoftEMLP(REP_IN, REP_OUT, channels=(8,))) == [8]
    assert sizes(SoftEMLP(REP_IN, REP_OUT, channels=[])) == []
    assert sizes(SoftEMLP(REP_IN, REP_OUT, channels=8)) == [8, 8, 8]
    hidden = 4 * Scalar + 3 * Vector
    model = SoftEMLP(REP_IN, REP_OUT, channels=[hidden, 20, hidden(O3)], constraint="hard").double()
    assert [block.gate.rep_out for block in model.blocks] == [hidden(O3), uniform_rep(20, O3), hidden(O3)]
    assert_equivariant(model, REP_IN, REP_OUT, tolerance=1e-9)


def test_hard_is_emlp_on_permutations():
    """Vectors pass through swish entry by entry: no gates, and a deep set's layer in closed form."""
    group = groups.Permutation(3)
    model = SoftEMLP(Vector(group), Vector(group), channels=[5 * Vector], constraint="hard").double()
    assert model.blocks[0].gate.in_features == 15
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block = model.blocks[0]
    before = block.linear(x) + block.bilinear(block.linear(x))
    torch.testing.assert_close(block(x), before * torch.sigmoid(before), atol=1e-12, rtol=1e-12)


BAD = {
    "channels": ({"channels": 0}, "channels"),
    "one of the channels": ({"channels": [8, 0], "layers": None}, "channels"),
    "as many layers as channels": ({"channels": [8, 8]}, "2 hidden blocks, got layers=1"),
    "channels of another group": ({"channels": Vector(groups.SO(3))}, r"representations of O\(3\)"),
    "empty channels": ({"channels": 0 * Vector}, "at least one coordinate"),
    "layers": ({"layers": -1}, "layers: expected at least 0"),
    "constraint": ({"constraint": "tight"}, "constraint"),
    "published": ({"published": True, "constraint": "none"}, "published"),
    "unknown part": ({"published": ("start", "decays")}, "published: expected True, False or some of"),
    "a part as text": ({"published": "start"}, "published: expected True, False or some of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_name(case):
    options, message = BAD[case]
    with pytest.raises(SofteqValueError, match=message):
        SoftEMLP(REP_IN, REP_OUT, **{"channels": 8, "layers": 1} | options)


@pytest.mark.parametrize("channels", [8.5, True, "8", None, [8, 8.5]])
def test_channels_are_widths_or_representations(channels):
    with pytest.raises(SofteqTypeError, match="channels: expected a width, a Rep"):
        SoftEMLP(REP_IN, REP_OUT, channels=channels)


def test_bad_representations_are_refused_by_name():
    with pytest.raises(SofteqValueError, match=r"rep_in.*rep_out"):
        SoftEMLP(Vector(O3), Vector(groups.SO(3)))
    with pytest.raises(SofteqTypeError, match="rep_out"):
        SoftEMLP(Vector(O3), None)
