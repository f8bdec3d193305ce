"""Successive halving: whose turn it is, that candidates do not mix, that the better one stays, bad input."""

import io
import math

import pytest
import torch
from torch import nn

from softeq import Prior, SofteqTypeError, SofteqValueError, SoftLinear, Vector, weight_defect
from softeq.groups import Z
from softeq.strength import rule
from softeq.strength._halving import Plan

HARD = 1e12


def network(seed=0):
    torch.manual_seed(seed)
    small, wide = Vector(Z(4)), (3 * Vector)(Z(4))
    return nn.Sequential(SoftLinear(small, wide), nn.BatchNorm1d(12), nn.Tanh(), SoftLinear(wide, small))


def data(broken, noise=0.05, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(120, 4, generator=g)
    y = x.roll(1, 1) + broken * x * torch.tensor([1.0, -1.0, 2.0, 0.0])
    return x, y + noise * torch.randn(120, 4, generator=g)


def run(model, one, x, y, steps, first=0, optimizer=None, lr=0.02):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr) if optimizer is None else optimizer
    for step in range(first, steps):
        g = torch.Generator().manual_seed(step)
        rows = torch.randint(0, len(x), (20,), generator=g)
        optimizer.zero_grad()
        with one.perturbed():
            output = model(x[rows])
            loss = (output - y[rows]).square().mean()
        one.backward(loss, output)
        optimizer.step()
        one.step(optimizer)
    return optimizer


def halving(model, x, y, steps, **options):
    def held():
        return (model(x[80:]) - y[80:]).square().mean()

    return rule("halving", model, samples=80, held=held, steps=steps, prior=Prior(equivariant=1e-6), **options)


@pytest.mark.parametrize(("candidates", "cost"), [(2, 1.5), (3, 1.75), (4, 2.0), (5, 2.0), (8, 2.5)])
def test_the_plan_shares_the_steps_alike(candidates, cost):
    plan = Plan(candidates, 1000, 10)
    assert plan.cost == cost
    assert plan.alone_from <= 1000 - 1000 / (2 * cost) + candidates
    for first, alive, each in plan.rounds:
        turns = [plan.turn(step) for step in range(first, first + alive * each)]
        assert [turns.count(k) for k in range(alive)] == [each] * alive
        assert plan.ends(first + alive * each)
    assert plan.turn(plan.alone_from) == 0


@pytest.mark.parametrize(("broken", "winner"), [(0.0, 0), (1.0, 1)])
def test_what_the_held_out_data_want_stays(broken, winner):
    torch.manual_seed(0)
    model = nn.Sequential(SoftLinear(Vector(Z(4)), Vector(Z(4))))
    x, y = data(broken, noise=1.0)
    one = halving(model, x, y, 240, candidates=(HARD, 1e-3))
    run(model, one, x[:24], y[:24], 240, lr=0.05)
    assert one.alone
    assert one.alive == [winner]
    assert one.prior.residual == one.candidates[winner].prior.residual
    defects = weight_defect(model).values()
    assert max(defects) < 1e-6 if winner == 0 else max(defects) > 0.1
    assert [len(row["held"]) for row in one.found] == [2]


def test_candidates_do_not_mix():
    """Each candidate's weights and optimizer are those of a training of its own on the batches of its turns."""
    x, y = data(0.5)
    model = network()
    one = halving(model, x, y, 80, candidates=(HARD, 1.0))
    plan = one.plan
    run(model, one, x[:80], y[:80], plan.alone_from - 1)
    for index, precision in enumerate((HARD, 1.0)):
        alone = network()
        fixed = rule("fixed", alone, samples=80, prior=Prior(1e-6, precision))
        optimizer = torch.optim.Adam(alone.parameters(), lr=0.02)
        for step in range(plan.alone_from - 1):
            if plan.turn(step) == index:
                run(alone, fixed, x[:80], y[:80], step + 1, first=step, optimizer=optimizer)
        kept = model.state_dict() if one._now == index else one.copies[index].values
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(kept[name], value)


def test_it_goes_on_from_a_checkpoint():
    x, y = data(0.5)
    steps, stop = 90, 37
    whole, first, second = network(), network(), network()
    rule_whole = halving(whole, x, y, steps, candidates=(HARD, "mackay", 1.0))
    run(whole, rule_whole, x[:80], y[:80], steps)
    rule_first = halving(first, x, y, steps, candidates=(HARD, "mackay", 1.0))
    optimizer = run(first, rule_first, x[:80], y[:80], stop)
    file = io.BytesIO()
    torch.save([rule_first.state_dict(), first.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    rule_second = halving(second, x, y, steps, candidates=(HARD, "mackay", 1.0))
    second.load_state_dict(kept[1])
    rule_second.load_state_dict(kept[0])
    optimizer = torch.optim.Adam(second.parameters(), lr=0.02)
    optimizer.load_state_dict(kept[2])
    run(second, rule_second, x[:80], y[:80], steps, first=stop, optimizer=optimizer)
    assert rule_second.alive == rule_whole.alive
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)


def test_a_candidate_whose_held_out_loss_is_not_finite_goes():
    x, y = data(0.0)
    model = network()
    one = rule("halving", model, samples=80, held=lambda: math.nan if one._now == 0 else 1.0, steps=30,
               candidates=(HARD, 1.0))  # fmt: skip
    run(model, one, x[:80], y[:80], 30)
    assert one.alive == [1]


def test_held_is_measured_in_evaluation_mode_and_training_goes_on():
    x, y = data(0.0)
    model = network()
    modes = []

    def held():
        modes.append((model[1].training, torch.is_grad_enabled()))
        return 1.0

    one = rule("halving", model, samples=80, held=held, steps=30, candidates=(HARD, 1.0))
    run(model, one, x[:80], y[:80], 30)
    assert modes == [(False, False)] * 2
    assert model[1].training


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"held": 3}, SofteqTypeError, "held: expected a function"),
        ({"steps": 2}, SofteqValueError, "steps: expected enough"),
        ({"steps": 2.5}, SofteqTypeError, "steps: expected the number"),
        ({"candidates": (1.0,)}, SofteqValueError, "candidates: expected two or more"),
        ({"candidates": (1.0, "dual")}, SofteqValueError, "candidates: expected a precision"),
        ({"candidates": (1.0, None)}, SofteqTypeError, "candidates: expected precisions"),
        ({"candidates": (1.0, -1.0)}, SofteqValueError, "residual"),
    ],
)
def test_bad_input(options, error, match):
    given = {"held": lambda: 1.0, "steps": 100, **options}
    with pytest.raises(error, match=match):
        rule("halving", network(), samples=10, **given)


@pytest.mark.parametrize(("value", "match"), [("x", "a number"), (torch.ones(2), "one number")])
def test_a_held_out_measure_that_is_no_number(value, match):
    x, y = data(0.0)
    model = network()
    one = rule("halving", model, samples=80, held=lambda: value, steps=20, candidates=(HARD, 1.0))
    with pytest.raises(SofteqTypeError, match=match):
        run(model, one, x[:80], y[:80], 20)


def test_held_out_losses_of_which_none_is_finite():
    x, y = data(0.0)
    model = network()
    one = rule("halving", model, samples=80, held=lambda: math.inf, steps=20, candidates=(HARD, 1.0))
    with pytest.raises(SofteqValueError, match="finite number for some candidate"):
        run(model, one, x[:80], y[:80], 20)
