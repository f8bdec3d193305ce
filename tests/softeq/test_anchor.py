"""anchor: the prior's means, where they are kept, what they survive, and what they change."""

import copy

import pytest
import torch
from torch import nn

from softeq import (
    Prior,
    Scalar,
    SoftConv2d,
    SofteqTypeError,
    SofteqValueError,
    SoftLinear,
    SoftPathways,
    Vector,
    anchor,
    fold,
    groups,
    harden,
    prior_penalty,
    soften,
)
from softeq.testing import check_layer

REP = (2 * Scalar + Vector)(groups.SO(3))
PRIOR = Prior(equivariant=0.25, residual=3.0)


def network(parametrization="pathways"):
    return nn.Sequential(
        SoftLinear(REP, REP, parametrization=parametrization), nn.ReLU(), SoftLinear(REP, REP)
    ).double()


def shifted(model, by=0.1):
    """The same model a little further, every parameter by the same amount."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by
    return model


def counted(model):
    """The penalty of a shift by 0.1 from the means."""
    of = {"equivariant": 0.25, "residual": 3.0}
    return sum(
        0.5 * of[name] * 0.01 * sum(p.numel() for p in pathway.parameters())
        for layer in model
        if isinstance(layer, SoftLinear)
        for name, pathway in layer.pathways.items()
    )


def test_an_anchored_network_costs_nothing_and_a_step_from_there_what_it_is_long():
    model = network()
    assert prior_penalty(model, PRIOR).item() > 0.1
    assert anchor(model) is model
    assert prior_penalty(model, PRIOR).item() == 0.0
    assert prior_penalty(shifted(model), PRIOR).item() == pytest.approx(counted(model), rel=1e-12)


def test_the_gradient_pulls_towards_the_means():
    model = shifted(anchor(network()))
    prior_penalty(model, PRIOR).backward()
    for name, p in model.named_parameters():
        precision = PRIOR.residual if "residual" in name else PRIOR.equivariant
        torch.testing.assert_close(p.grad, torch.full_like(p, 0.1 * precision))


def test_the_projected_form_prices_the_distance_from_its_mean():
    layer = SoftLinear(REP, REP, parametrization="projected").double()
    start = layer.free_weight.detach().clone()
    anchor(layer)
    assert prior_penalty(layer, PRIOR).item() == 0.0
    away = SoftLinear(REP, REP, parametrization="projected").double()
    with torch.no_grad():
        away.free_bias.zero_()
        layer.free_weight.copy_(start + away.free_weight)
    assert prior_penalty(layer, PRIOR).item() == pytest.approx(prior_penalty(away, PRIOR).item(), rel=1e-12)


def test_a_parameter_of_zeros_costs_no_memory():
    layer = SoftConv2d(3, 4, 3, size=(8, 8), residual="local")
    with torch.no_grad():
        for parameter in layer.pathways["residual"].parameters():
            parameter.zero_()
    anchor(layer)
    kept = sum(mean.numel() for mean in layer.prior_means().values())
    assert kept == sum(p.numel() for p in layer.pathways["equivariant"].parameters()) + 2
    assert prior_penalty(layer, PRIOR).item() == 0.0


def test_a_prior_step_finds_the_mean_of_every_parameter():
    model = anchor(network())
    start = [p.detach().clone() for p in model.parameters()]
    shifted(model)
    found = {key: mean for layer in (model[0], model[2]) for key, mean in layer.prior_means().items()}
    assert all(torch.equal(found[id(p)], value) for p, value in zip(model.parameters(), start, strict=True))
    assert network()[0].prior_means() == {}


def test_copies_keep_their_means():
    model = shifted(anchor(network()))
    twin = copy.deepcopy(model)
    assert prior_penalty(twin, PRIOR).item() == prior_penalty(model, PRIOR).item() > 0
    anchor(twin)
    assert prior_penalty(model, PRIOR).item() > 0


def test_an_average_of_equal_models_costs_what_each_does():
    model = shifted(anchor(network()))
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(3):
        average.update_parameters(model)
    assert prior_penalty(average, PRIOR).item() == prior_penalty(model, PRIOR).item()


def test_means_follow_the_dtype():
    model = anchor(network()).float()
    assert prior_penalty(model, PRIOR).item() == 0.0
    assert all(mean.dtype == torch.float32 for mean in model[0].prior_means().values())


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_anchors_the_model_that_it_is_loaded_into(parametrization, assign):
    model = shifted(anchor(network(parametrization)))
    state = copy.deepcopy(model.state_dict())
    for target in (network(parametrization), anchor(network(parametrization))):
        target.load_state_dict(state, assign=assign)
        assert prior_penalty(target, PRIOR).item() == prior_penalty(model, PRIOR).item()


def test_a_checkpoint_anchors_a_model_that_was_built_without_values():
    model = shifted(anchor(network()))
    with torch.device("meta"):
        target = network()
    target.load_state_dict(model.state_dict(), assign=True)
    assert prior_penalty(target, PRIOR).item() == prior_penalty(model, PRIOR).item()


def test_means_of_zero_and_others_load_into_each_other():
    zero, other = network(), anchor(network())
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.zero_()
    zero_state, other_state = copy.deepcopy(anchor(zero).state_dict()), copy.deepcopy(other.state_dict())
    zero.load_state_dict(other_state)
    other.load_state_dict(zero_state)
    assert prior_penalty(zero, PRIOR).item() == 0.0
    assert prior_penalty(shifted(other), PRIOR).item() == pytest.approx(counted(other))


def test_a_checkpoint_from_before_leaves_the_means():
    model = network()
    old = copy.deepcopy(shifted(copy.deepcopy(model)).state_dict())
    anchor(model).load_state_dict(old)
    assert prior_penalty(model, PRIOR).item() == pytest.approx(counted(model), rel=1e-12)


@pytest.mark.parametrize("damage", ["missing", "shape", "unknown"])
def test_a_checkpoint_with_damaged_means_does_not_load(damage):
    state = anchor(network()).state_dict()
    key = "0.means.pathways__residual__weight"
    if damage == "missing":
        del state[key]
    elif damage == "shape":
        state[key] = torch.zeros(2, 2)
    else:
        state["0.means.pathways__other__weight"] = torch.zeros(())
    with pytest.raises(RuntimeError, match="means"):
        anchor(network()).load_state_dict(state)


def test_nested_layers_have_one_mean_each_and_the_last_anchor_counts():
    inner = SoftLinear(REP, REP)
    outer = SoftPathways(equivariant=inner, residual=nn.Linear(5, 5))
    anchor(inner)
    shifted(inner)
    expected = 0.5 * 0.25 * 0.01 * sum(p.numel() for p in inner.parameters())
    rest = 0.5 * 3.0 * sum(float(p.detach().square().sum()) for p in outer.pathways["residual"].parameters())
    assert prior_penalty(outer, PRIOR).item() == pytest.approx(expected + rest, rel=1e-5)
    anchor(outer)
    assert prior_penalty(outer, PRIOR).item() == 0.0
    assert not any("means" in name for name, _ in inner.named_buffers())


def test_folded_and_hardened_copies_carry_none():
    model = anchor(network())
    for copied in (fold(model), harden(model)):
        assert not any("means" in name for name in copied.state_dict())
    assert prior_penalty(harden(model), PRIOR).item() > 0


def test_the_penalty_of_an_anchored_model_compiles():
    model = shifted(anchor(network()))
    compiled = torch.compile(lambda: prior_penalty(model, PRIOR), backend="eager")
    assert compiled().item() == pytest.approx(prior_penalty(model, PRIOR).item(), rel=1e-12)


def test_a_model_without_soft_layers_and_what_is_no_model_are_refused():
    with pytest.raises(SofteqValueError, match="anchor: Linear has no soft layer"):
        anchor(nn.Linear(2, 2))
    with pytest.raises(SofteqTypeError, match=r"model: expected an nn.Module, got list"):
        anchor([network()])


def test_values_that_are_no_mean_are_refused_by_name_and_nothing_changes():
    model = network()
    with torch.no_grad():
        model[2].pathways["residual"].weight[0, 0] = torch.nan
    with pytest.raises(SofteqValueError, match=r"anchor: 2\.pathways\.residual\.weight has NaN"):
        anchor(model)
    assert model[0].prior_means() == {}
    with torch.device("meta"), pytest.raises(SofteqValueError, match="meta"):
        anchor(network())


@pytest.mark.parametrize("residual", ["local", "lowrank", "dense"])
def test_a_softened_network_costs_nothing_at_the_start_and_leaves_it_at_a_price(residual):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    x = torch.randn(4, 1, 8, 8)
    soft = soften(plain, x, residual=residual).model
    prior = Prior(equivariant=1.0, residual=1.0)
    assert prior_penalty(soft, prior).item() == 0.0
    soft = soft.to(memory_format=torch.channels_last)
    assert prior_penalty(soft, prior).item() == 0.0
    optimizer = torch.optim.SGD(soft.parameters(), lr=0.1)
    soft(x).square().sum().backward()
    optimizer.step()
    assert prior_penalty(soft, prior).item() > 0
    assert prior_penalty(soften(plain, x, residual=residual, anchored=False).model, prior).item() > 0.1


def test_soften_leaves_the_means_of_layers_that_were_soft():
    torch.manual_seed(0)
    own = shifted(anchor(SoftConv2d(1, 3, 3, size=(8, 8))))
    plain = nn.Sequential(own, nn.Conv2d(3, 2, 3))
    soft = soften(plain, torch.randn(2, 1, 8, 8)).model
    assert prior_penalty(soft, PRIOR).item() == pytest.approx(prior_penalty(own, PRIOR).item(), rel=1e-6)


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
def test_an_anchored_layer_keeps_what_layers_promise(parametrization):
    layer = anchor(SoftLinear(REP, REP, parametrization=parametrization))
    found = check_layer(
        layer, (torch.randn(3, REP.size),), only=["partition", "penalty", "state", "meta", "averages", "double"]
    )
    assert len(found) == 6
