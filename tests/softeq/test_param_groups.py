"""param_groups: every parameter in one group, with the options of its pathway."""

import pytest
import torch
from torch import nn

from softeq import (
    Scalar,
    SofteqTypeError,
    SofteqValueError,
    SoftGated,
    SoftLinear,
    SoftPathways,
    Vector,
    gated,
    groups,
    param_groups,
)

REP = (2 * Scalar + Vector)(groups.SO(3))


def network():
    layers = [SoftLinear(REP, gated(REP)), SoftGated(REP), SoftLinear(REP, REP, parametrization="projected")]
    return nn.Sequential(*layers, nn.Linear(5, 2))


def by_name(found):
    return {group["name"]: group for group in found}


def test_every_parameter_is_in_one_group_by_its_pathway():
    model = network()
    found = param_groups(model)
    assert [group["name"] for group in found] == ["equivariant", "residual", "projected", "other"]
    ids = [id(p) for group in found for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    groups_ = by_name(found)
    assert {id(p) for p in groups_["equivariant"]["params"]} == {
        id(p) for layer in model[:2] for p in layer.pathways["equivariant"].parameters()
    }
    assert {id(p) for p in groups_["projected"]["params"]} == {id(p) for p in model[2].parameters()}
    assert {id(p) for p in groups_["other"]["params"]} == {id(p) for p in model[3].parameters()}


def test_the_options_reach_the_optimizer():
    model = network()
    optimizer = torch.optim.Adam(param_groups(model, {"lr": 0.5}, residual={"lr": 0.0, "betas": (0.5, 0.9)}), lr=0.1)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"equivariant": 0.5, "residual": 0.0, "projected": 0.1, "other": 0.1}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randn(8, 5)).square().sum().backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before if "residual" in name)
    assert not torch.equal(before["0.pathways.equivariant.weight"], after["0.pathways.equivariant.weight"])


def test_a_shared_parameter_is_where_it_is_met_first_and_nested_layers_are_the_outer_pathways():
    shared = SoftLinear(REP, REP)
    model = nn.Sequential(SoftPathways(equivariant=nn.Linear(5, 5), residual=shared), shared)
    found = by_name(param_groups(model))
    assert set(found) == {"equivariant", "residual"}
    assert {id(p) for p in found["residual"]["params"]} == {id(p) for p in shared.parameters()}


def test_hard_and_none_layers_have_their_group_alone():
    assert [g["name"] for g in param_groups(SoftLinear(REP, REP, constraint="hard"))] == ["equivariant"]
    assert [g["name"] for g in param_groups(SoftLinear(REP, REP, constraint="none"))] == ["residual"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"equivariant": 0.1}, SofteqTypeError, "equivariant: expected a mapping"),
        ({"residual": {"params": []}}, SofteqValueError, "residual: .*params"),
        ({"rungs": {"O2eR3": {"lr": 1.0}}}, SofteqValueError, "rungs: .*O2eR3"),
        ({"rungs": {"equivariant": {"lr": 1.0}}}, SofteqValueError, "rungs: .*equivariant"),
        ({"rungs": [1]}, SofteqTypeError, "rungs: expected a mapping"),
    ],
    ids=["number", "params", "unknown rung", "no rung", "list"],
)
def test_bad_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        param_groups(network(), **options)


def test_a_model_without_soft_layers_is_refused():
    with pytest.raises(SofteqValueError, match="param_groups: Linear has no soft layer"):
        param_groups(nn.Linear(2, 2))
    with pytest.raises(SofteqTypeError, match="model"):
        param_groups([nn.Linear(2, 2)])
