"""Every rule in the loop: it trains, continues from a checkpoint, and does what it is for."""

import io

import pytest
import torch
from torch import nn

from softeq import (
    Scalar,
    SofteqValueError,
    SoftLinear,
    Vector,
    groups,
    harden,
    weight_defect,
)
from softeq.strength import RULES, rule

REP = (2 * Scalar + Vector)(groups.O(3))
OUT = (Scalar + Vector)(groups.O(3))
X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 4, (24,), generator=torch.Generator().manual_seed(2))
LEARNED = ("variational", "mackay", "group-lasso", "dual", "validation")
pytestmark = pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")


def network(parametrization="pathways"):
    torch.manual_seed(3)
    return nn.Sequential(
        SoftLinear(REP, REP, parametrization=parametrization),
        nn.Tanh(),
        SoftLinear(REP, OUT, parametrization=parametrization),
    )


def turn(generator):
    g = groups.SO(3).sample(1, generator)[0].float()
    return lambda x: x @ REP.rho(g.double()).float().T, lambda y: y @ OUT.rho(g.double()).float().T


def options(name, model, loss_of):
    extra = {
        "annealed": {"steps": 10},
        "remul": {"action": turn},
        "validation": {"held": lambda: loss_of(model(X[:8]), 0)[0]},
        "halving": {"held": lambda: loss_of(model(X[:8]), 0)[0], "steps": 20},
    }
    return extra.get(name, {})


def loss_of(likelihood):
    def found(output, start):
        rows = slice(start, start + len(output))
        if likelihood == "categorical":
            return nn.functional.cross_entropy(output, LABELS[rows]), LABELS[rows]
        return nn.functional.mse_loss(output, Y[rows]), Y[rows]

    return found


def steps(model, one, optimizer, count, likelihood="gaussian", cast=None, first=0):
    for step in range(first, first + count):
        start = 8 * (step % 3)
        optimizer.zero_grad()
        with one.perturbed(), torch.autocast("cpu", cast or torch.bfloat16, enabled=cast is not None):
            output = model(X[start : start + 8])
            loss, target = loss_of(likelihood)(output.float(), start)
        one.backward(loss, output, target=target)
        optimizer.step()
        one.step(optimizer)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def made(name, model, likelihood="gaussian", **more):
    return rule(name, model, samples=24, likelihood=likelihood, **options(name, model, loss_of(likelihood)), **more)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
@pytest.mark.parametrize("name", RULES)
def test_a_checkpoint_continues_as_if_nothing_had_happened(name, likelihood):
    model = network()
    one = made(name, model, likelihood, record=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    start = parameters(model)
    steps(model, one, optimizer, 7, likelihood)
    kept = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rule": one.state_dict()}, kept)
    steps(model, one, optimizer, 6, likelihood, first=7)
    assert not torch.equal(parameters(model), start)
    assert one.history

    kept.seek(0)
    state = torch.load(kept, weights_only=True)
    other = network()
    again = made(name, other, likelihood, record=2)
    resumed = torch.optim.Adam(other.parameters(), lr=1e-2)
    other.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    again.load_state_dict(state["rule"])
    steps(other, again, resumed, 6, likelihood, first=7)
    torch.testing.assert_close(parameters(other), parameters(model), rtol=0, atol=0)
    assert again.history == one.history
    with pytest.raises(SofteqValueError, match="state"):
        again.load_state_dict({"rule": "none of them"})


@pytest.mark.parametrize("curvature", ["diagonal", "kfac", "trace"])
@pytest.mark.parametrize("name", ["variational", "mackay", "group-lasso"])
@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
def test_curvatures_and_the_projected_form(name, curvature, parametrization):
    model = network(parametrization)
    one = made(name, model, curvature=curvature)
    before = [path.precision for path in one.paths]
    steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 12)
    after = [path.precision for path in one.paths]
    assert all(0 < p < float("inf") for p in after)
    assert before != after
    assert all(0 <= path.effective <= path.rank for path in one.paths)
    for path in one.paths:
        assert one.prior.of(path.layer)["residual"] == pytest.approx(path.precision * one.loss_per_nat)


def test_all_pathways_can_be_learned():
    model = network()
    one = made("mackay", model, learn="all")
    assert {(p.layer, p.pathway) for p in one.paths} == {(n, p) for n in "02" for p in ("equivariant", "residual")}
    assert next(p for p in one.paths if p.pathway == "equivariant").rank == model[0].projector.rank + 2
    steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 12)


def test_weight_noise_is_there_until_backward_and_gone_after():
    model = network()
    one = made("variational", model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    steps(model, one, optimizer, 6)
    mean = parameters(model)
    with one.perturbed():
        noisy = parameters(model)
        output = model(X)
    assert not torch.equal(noisy, mean)
    own = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "equivariant" in n])
    assert torch.equal(
        own, torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "equivariant" in n])
    )
    one.backward((output - Y).square().mean(), output)
    assert torch.equal(parameters(model), mean)
    with pytest.raises(RuntimeError, match="stop"), one.perturbed():
        raise RuntimeError("stop")
    assert torch.equal(parameters(model), mean)


def test_the_annealed_rule_ends_hard():
    model = network()
    one = rule("annealed", model, samples=24, steps=60, loose=0.1, tight=1e3, turn=0.4)
    assert one.precision(0) == pytest.approx(1e3)
    assert min(one.precision(k) for k in range(60)) == pytest.approx(0.1, rel=0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    steps(model, one, optimizer, 40)
    assert max(weight_defect(model).values()) > 1e-3
    steps(model, one, optimizer, 20)
    torch.testing.assert_close(harden(model)(X), model(X), rtol=0, atol=1e-5)


def test_the_dual_rule_tightens_and_slack_costs():
    def sizes(**more):
        model = network()
        one = made("dual", model, rate=20.0, every=1, **more)
        steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 150)
        return max(weight_defect(model).values()), max(one.multipliers.values())

    plain, elastic = sizes(), sizes(elastic=0.5)
    assert plain[0] < 1e-3
    assert elastic[0] > 10 * plain[0]


def test_remul_makes_a_plain_backbone_more_equivariant_and_needs_no_soft_layer():
    def trained(weight, against="self"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))
        one = rule("remul", model, samples=24, action=turn, weight=weight, against=against)
        steps(model, one, torch.optim.Adam(model.parameters(), lr=1e-2), 150)
        move_in, move_out = turn(torch.Generator().manual_seed(9))
        with torch.no_grad():
            return float((model(move_in(X)) - move_out(model(X))).square().mean())

    free, held, labels = trained(0.0), trained(3.0), trained(3.0, "labels")
    assert held < 0.3 * free
    assert labels < 0.8 * free


def test_validation_tightens_what_hurts_held_out_data_and_loosens_what_helps():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(300, 5, generator=g)
    torch.manual_seed(7)
    with torch.no_grad():
        whole = SoftLinear(REP, OUT, constraint="hard")(x)
        broken = whole + x @ torch.randn(5, 4, generator=g)
    found = {}
    for kind, y in (("whole", whole), ("broken", broken)):
        torch.manual_seed(0)
        layer, noisy = SoftLinear(REP, OUT), y + 0.5 * torch.randn(y.shape, generator=g)
        one = rule("validation", layer, samples=20, every=2, record=0,
                   held=lambda m=layer, y=noisy: nn.functional.mse_loss(m(x[20:]), y[20:]))  # fmt: skip
        optimizer = torch.optim.Adam(layer.parameters(), lr=2e-2)
        for _ in range(250):
            optimizer.zero_grad()
            output = layer(x[:20])
            loss = nn.functional.mse_loss(output, noisy[:20])
            one.backward(loss, output)
            optimizer.step()
            one.step(optimizer)
        found[kind] = one.paths[0].precision, layer.weight_defect()
    assert found["whole"][0] > 10 * found["broken"][0]
    assert found["whole"][1] < 0.05
    assert found["broken"][1] > 0.5
