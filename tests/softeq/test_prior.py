"""The prior: its formula, each parameter once, bad precisions; and that a higher precision does its work."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from softeq import (
    Prior,
    Scalar,
    SoftBilinear,
    SofteqTypeError,
    SofteqValueError,
    SoftGated,
    SoftLinear,
    SoftPathways,
    T,
    Vector,
    gated,
    groups,
    prior_penalty,
    weight_defect,
)
from softeq.prior import soft_layers
from softeq.testing import equivariance_errors

SO3 = groups.SO(3)
REP = (2 * Scalar + Vector)(SO3)
PRIOR = Prior(equivariant=0.25, residual=3.0)


def squares(module):
    return sum(float(p.detach().double().square().sum()) for p in module.parameters())


def network():
    return nn.Sequential(SoftLinear(REP, gated(REP)), SoftGated(REP), SoftBilinear(REP, REP), SoftLinear(REP, REP))


def expected_penalty(layers, prior=PRIOR):
    of = {"equivariant": prior.equivariant, "residual": prior.residual}
    return sum(0.5 * of[name] * squares(p) for layer in layers for name, p in layer.pathways.items())


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_formula(equivariant, residual):
    layer, prior = SoftLinear(REP, REP).double(), Prior(equivariant, residual)
    penalty = prior_penalty(layer, prior)
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(expected_penalty([layer], prior), rel=1e-12, abs=1e-300)


def test_it_sums_over_all_soft_layers_and_leaves_other_parameters_out():
    model = nn.Sequential(nn.Linear(5, 5), network(), nn.LayerNorm(5))
    assert prior_penalty(model, PRIOR).item() == pytest.approx(expected_penalty(model[1]), rel=1e-5)
    prior_penalty(model, PRIOR).backward()
    assert model[0].weight.grad is None
    for name, p in model[1].named_parameters():
        precision = PRIOR.residual if "residual" in name else PRIOR.equivariant
        torch.testing.assert_close(p.grad, precision * p.detach())


def test_biases_count():
    layer = SoftLinear(REP, REP)
    before = prior_penalty(layer, PRIOR).item()
    with torch.no_grad():
        layer.pathways["residual"].bias.copy_(torch.ones(5))
        layer.pathways["equivariant"].bias.zero_()
    without = SoftLinear(REP, REP, bias=False)
    without.load_state_dict({k: v for k, v in layer.state_dict().items() if "bias" not in k})
    assert prior_penalty(layer, PRIOR).item() == pytest.approx(
        prior_penalty(without, PRIOR).item() + 0.5 * 3.0 * 5, rel=1e-6
    )
    assert before != prior_penalty(layer, PRIOR).item()


def test_the_name_of_a_layer_is_nothing_to_it():
    plain = network()
    named = nn.ModuleDict({name: plain[int(i)] for i, name in enumerate(["weight_free", "bias", "residual", "x"])})
    assert prior_penalty(named, PRIOR).item() == prior_penalty(plain, PRIOR).item()


def test_a_shared_layer_counts_once():
    layer = SoftLinear(REP, REP)
    for model in (nn.Sequential(layer, layer), nn.ModuleDict({"a": nn.Sequential(layer), "b": layer})):
        assert prior_penalty(model, PRIOR).item() == pytest.approx(prior_penalty(layer, PRIOR).item(), rel=1e-6)


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
def test_tied_parameters_count_once(parametrization):
    first, second = (SoftLinear(REP, REP, parametrization=parametrization) for _ in range(2))
    if parametrization == "pathways":
        second.pathways["equivariant"].weight = first.pathways["equivariant"].weight
        own = [second.pathways["equivariant"].bias]
        expected = 0.5 * 0.25 * float(own[0].detach().square().sum()) + 0.5 * 3.0 * squares(second.pathways["residual"])
    else:
        second.free_weight = first.free_weight
        with torch.no_grad():
            second.free_bias.zero_()
        expected = 0.0
    alone = prior_penalty(first, PRIOR).item()
    assert prior_penalty(nn.Sequential(first, second), PRIOR).item() == pytest.approx(alone + expected, rel=1e-5)


def test_a_parameter_that_two_pathways_share_counts_in_the_first():
    shared = nn.Linear(5, 5)
    model = SoftPathways(equivariant=shared, residual=nn.Sequential(shared, nn.Linear(5, 5)))
    expected = 0.5 * 0.25 * squares(shared) + 0.5 * 3.0 * squares(model.pathways["residual"][1])
    assert prior_penalty(model, PRIOR).item() == pytest.approx(expected, rel=1e-5)


def test_nested_pathways_count_once_as_the_outer_pathway():
    inner = SoftPathways(equivariant=nn.Linear(5, 5), residual=SoftLinear(REP, REP))
    outer = SoftPathways(equivariant=SoftLinear(REP, REP), residual=inner)
    model = nn.Sequential(outer, SoftLinear(REP, REP))
    expected = 0.5 * 0.25 * squares(outer.pathways["equivariant"]) + 0.5 * 3.0 * squares(inner)
    assert prior_penalty(model, PRIOR).item() == pytest.approx(expected + expected_penalty([model[1]]), rel=1e-5)
    assert [name for name, _ in soft_layers(model)] == ["0", "1"]
    assert [name for name, _ in soft_layers(outer)] == [""]


def test_names_that_begin_alike_are_not_nested():
    model = nn.ModuleDict({"a": SoftPathways(residual=nn.Linear(5, 5)), "ab": SoftLinear(REP, REP)})
    assert [name for name, _ in soft_layers(model)] == ["a", "ab"]


def test_the_penalty_has_the_models_dtype():
    model = network().double()
    assert prior_penalty(model, PRIOR).dtype == torch.float64
    assert prior_penalty(SoftGated(REP, constraint="hard"), PRIOR).item() == 0.0


def test_the_priors_defaults_and_copies():
    prior = Prior()
    assert (prior.equivariant, prior.residual, dict(prior.overrides)) == (1e-6, 1.0, {})
    for twin in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior)), dataclasses.replace(prior)):
        assert twin == prior
    assert dataclasses.asdict(Prior(1, 2, {"a": {"residual": 3}}))["overrides"] == {"a": {"residual": 3}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        prior.residual = 2.0


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [-1.0, -1e-300, NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("name", ["equivariant", "residual", "override"])
def test_precisions_that_are_none_are_refused_by_name(name, value):
    options = {"overrides": {"layer": {"residual": value}}} if name == "override" else {name: value}
    message = r"overrides\['layer'\]\['residual'\]" if name == "override" else name
    with pytest.raises(SofteqValueError, match=f"{message}.*expected a finite precision"):
        Prior(**options)


def test_infinite_precision_points_to_the_hard_layer():
    with pytest.raises(SofteqValueError, match="constraint='hard'"):
        Prior(residual=INF)


@pytest.mark.parametrize("value", ["1", None, True, [1.0], 1j], ids=repr)
@pytest.mark.parametrize("name", ["equivariant", "residual"])
def test_what_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(SofteqTypeError, match=f"{name}: expected a precision as a number"):
        Prior(**{name: value})


def test_numbers_of_numpy_are_numbers():
    assert Prior(equivariant=np.float64(0.5), residual=2).equivariant == 0.5


@pytest.mark.parametrize("prior", [None, 1.0, {"residual": 1.0}], ids=repr)
def test_what_is_no_prior_is_refused(prior):
    with pytest.raises(SofteqTypeError, match="prior: expected a Prior"):
        prior_penalty(network(), prior)


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Sequential(), nn.Identity()], ids=lambda m: type(m).__name__)
def test_a_model_without_soft_layers_is_refused(model):
    with pytest.raises(SofteqValueError, match=f"prior_penalty: {type(model).__name__} has no soft layer"):
        prior_penalty(model, Prior())


def nearly_equivariant_data(n=200):
    """A linear map that is equivariant but for a tenth, with a little noise."""
    rep_in, rep_out = (2 * Scalar + 2 * Vector)(SO3), (Vector + Scalar + T(2))(SO3)
    generator = torch.Generator().manual_seed(3)
    truth = SoftLinear(rep_in, rep_out, constraint="hard", bias=False).double().weight.detach()
    breaking = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    truth = truth + 0.1 * breaking * truth.norm() / breaking.norm()
    x = torch.randn(n, rep_in.size, generator=generator, dtype=torch.float64)
    return (
        rep_in,
        rep_out,
        x,
        x @ truth.T + 0.01 * torch.randn(n, rep_out.size, generator=generator, dtype=torch.float64),
    )


def train(model, x, y, prior, steps, lr):
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimiser.zero_grad()
        loss = (model(x) - y).square().mean() + prior_penalty(model, prior) / len(x)
        loss.backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
def test_more_residual_precision_brings_a_layer_closer_to_its_constraint(parametrization):
    rep_in, rep_out, x, y = nearly_equivariant_data()
    defects, errors = [], []
    for residual in (0.0, 10.0, 1e3, 1e5):
        torch.manual_seed(0)
        layer = SoftLinear(rep_in, rep_out, parametrization=parametrization).double()
        train(layer, x, y, Prior(equivariant=1e-6, residual=residual), steps=250, lr=0.05)
        defects.append(layer.weight_defect())
        errors.append(float(equivariance_errors(layer, rep_in, rep_out).mean()))
    assert defects == sorted(defects, reverse=True), defects
    assert errors == sorted(errors, reverse=True), errors
    assert 0.05 < defects[0] < 0.15, "with a free residual the layer finds the broken map"
    assert defects[-1] < 0.2 * defects[0]
    assert errors[-1] < 0.2 * errors[0]


def test_more_residual_precision_brings_a_network_closer_to_its_constraint():
    rep_in, rep_out, x, y = nearly_equivariant_data(100)
    hidden = (4 * Scalar + 3 * Vector + T(2))(SO3)
    results = []
    for residual in (1e-3, 1e4):
        torch.manual_seed(0)
        layers = [SoftLinear(rep_in, gated(hidden)), SoftGated(hidden), SoftLinear(hidden, rep_out)]
        model = train(nn.Sequential(*layers).double(), x, y, Prior(1e-6, residual), steps=200, lr=0.02)
        error = float(equivariance_errors(model, rep_in, rep_out).mean())
        results.append((error, max(weight_defect(model).values())))
    assert results[1][0] < 0.2 * results[0][0], results
    assert results[1][1] < 0.2 * results[0][1], results
