"""The projected parametrization: one free weight, whose penalty is the best split's price between the pathways."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from softeq import Prior, Scalar, SoftLinear, T, Vector, assert_equivariant, equivariant_basis, groups, prior_penalty

DOUBLE = {"dtype": torch.float64}
REPS = {
    "SO(3)": ((Vector + Scalar)(groups.SO(3)), (2 * Vector + Scalar + T(2))(groups.SO(3))),
    "SL(2)": ((Vector + T(1, 1) + Scalar)(groups.SL(2)), (Vector.dual + 2 * Scalar)(groups.SL(2))),
    "Permutation(3)": (Vector(groups.Permutation(3)), (T(2) + Scalar)(groups.Permutation(3))),
    "hardly anything equivariant": (Scalar(groups.SO(3)), (Scalar + Vector)(groups.SO(3))),
    "everything equivariant": (Vector(groups.Trivial(2)), (2 * Vector)(groups.Trivial(2))),
}


def projected_layer(name, seed=0):
    layer = SoftLinear(*REPS[name], parametrization="projected").double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, **DOUBLE))
    return layer


@functools.cache
def as_matrix(rep_in, rep_out):
    """The projector as a matrix on flattened weights."""
    basis = equivariant_basis(rep_in, rep_out).flatten(1)
    return basis.T @ basis


def cheapest_split(P, w, equivariant, residual):
    """min over (e, r) with P e + r = w of 1/2 (a |e|^2 + b |r|^2), by solving the quadratic for e with r = w - P e.

    Stationarity: (a I + b P) e = b P w; the pseudo-inverse takes the smallest e where both precisions vanish.
    """
    eye = torch.eye(len(w), dtype=w.dtype)
    e = torch.linalg.pinv(equivariant * eye + residual * P, hermitian=True) @ (residual * P @ w)
    r = w - P @ e
    return 0.5 * (equivariant * e.square().sum() + residual * r.square().sum()), e, r


def both_splits(layer, prior):
    total = 0.0
    scalar = Scalar(layer.rep_out.group)
    for value, rep_in in ((layer.free_weight, layer.rep_in), (layer.free_bias, scalar)):
        P = as_matrix(rep_in, layer.rep_out)
        total = total + cheapest_split(P, value.flatten(), prior.equivariant, prior.residual)[0]
    return total


PRECISION = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(REPS)), PRECISION, PRECISION, st.integers(0, 2**31))
def test_the_penalty_is_that_of_the_cheapest_split(name, equivariant, residual, seed):
    layer, prior = projected_layer(name, seed), Prior(equivariant=equivariant, residual=residual)
    penalty, expected = prior_penalty(layer, prior), both_splits(layer, prior)
    torch.testing.assert_close(penalty, expected, atol=1e-9, rtol=1e-6)
    assert penalty.item() >= 0
    if equivariant == residual == 0:
        assert penalty.item() == 0
    found = torch.autograd.grad(penalty, list(layer.parameters()))
    assert all(bool(torch.isfinite(g).all()) for g in found)


@pytest.mark.parametrize("precisions", [(1e-6, 1.0), (0.5, 3.0), (3.0, 0.5), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("name", REPS)
def test_the_gradient_is_that_of_the_cheapest_split(name, precisions):
    """By the envelope theorem it is b r: the residual part of the split times its precision."""
    layer, prior = projected_layer(name), Prior(*precisions)
    parameters = [layer.free_weight, layer.free_bias]
    found = torch.autograd.grad(prior_penalty(layer, prior), parameters)
    for gradient, value, rep_in in zip(found, parameters, (layer.rep_in, Scalar(layer.rep_out.group)), strict=True):
        P = as_matrix(rep_in, layer.rep_out)
        _, _, r = cheapest_split(P, value.detach().flatten(), *precisions)
        torch.testing.assert_close(gradient.flatten(), prior.residual * r, atol=1e-9, rtol=1e-9)


def test_it_equals_the_pathways_penalty_minimised_by_gradient_descent():
    """No closed form: the split itself is trained, with the merged weight held fixed."""
    torch.manual_seed(0)
    target = projected_layer("SO(3)")
    layer = SoftLinear(*REPS["SO(3)"]).double()
    prior = Prior(equivariant=0.5, residual=2.0)
    e, r = layer.pathways["equivariant"], layer.pathways["residual"]

    def hold():
        """The residual pathway takes what the equivariant one leaves of the target."""
        r.weight.data = target.weight.detach() - layer.projector(e.weight.detach())
        r.bias.data = target.bias.detach() - layer._project_bias(e.bias.detach())

    for _ in range(200):
        hold()
        layer.zero_grad()
        prior_penalty(layer, prior).backward()
        with torch.no_grad():
            # The residual's gradient reaches e through r = target - P e.
            e.weight -= 0.3 * (e.weight.grad - layer.projector(r.weight.grad))
            e.bias -= 0.3 * (e.bias.grad - layer._project_bias(r.bias.grad))
    hold()
    torch.testing.assert_close(prior_penalty(layer, prior), prior_penalty(target, prior), atol=1e-9, rtol=1e-9)
    x = torch.randn(3, layer.in_features, **DOUBLE)
    torch.testing.assert_close(layer(x), target(x), atol=1e-9, rtol=0)


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
@pytest.mark.parametrize("constraint", ["hard", "none"])
def test_hard_and_none_have_one_pathway_in_either_form(constraint, parametrization):
    layer = SoftLinear(*REPS["SO(3)"], constraint=constraint, parametrization=parametrization)
    assert list(layer.pathways) == [{"hard": "equivariant", "none": "residual"}[constraint]]


def test_its_only_parameters_are_the_free_weight_and_bias():
    layer = projected_layer("SO(3)")
    assert dict(layer.named_parameters()).keys() == {"free_weight", "free_bias"}
    assert len(layer.pathways) == 0
    assert isinstance(layer.pathways, nn.ModuleDict)
    assert layer.weight is layer.free_weight
    assert layer.bias is layer.free_bias


def test_its_forward_is_a_plain_linear_layer():
    layer = projected_layer("SL(2)")
    x = torch.randn(4, layer.in_features, **DOUBLE)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.free_weight, layer.free_bias), atol=0, rtol=0)


def test_hardened_it_is_the_projection():
    layer = projected_layer("SO(3)")
    hard = layer.hardened()
    P = as_matrix(*REPS["SO(3)"])
    torch.testing.assert_close(hard.weight.flatten(), P @ layer.free_weight.flatten(), atol=1e-12, rtol=0)
    assert_equivariant(hard, *REPS["SO(3)"], tolerance=1e-9)
    # Nothing of what was cut off is stored, where the penalty would charge for it.
    weight, bias = (getattr(hard.pathway("equivariant"), part) for part in ("weight", "bias"))
    torch.testing.assert_close(weight, hard.weight, atol=1e-12, rtol=0)
    cost = prior_penalty(hard, Prior(equivariant=2.0, residual=0.0))
    torch.testing.assert_close(cost, weight.square().sum() + bias.square().sum())


def test_its_state_dict_round_trips():
    layer, twin = projected_layer("SO(3)"), projected_layer("SO(3)", seed=5)
    twin.load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin.weight, layer.weight, atol=0, rtol=0)
    assert twin.weight_defect() == layer.weight_defect()
