"""The interface that all rules share: checks, bookkeeping, checkpoints."""

import io

import pytest
import torch
from torch import nn

from softeq import (
    Prior,
    Scalar,
    SofteqError,
    SofteqTypeError,
    SofteqValueError,
    SoftLinear,
    T,
    Vector,
    groups,
    prior_penalty,
    strength,
)
from softeq.strength import rule
from softeq.strength._charges import charges_of

REP, OUT = (2 * Scalar + Vector)(groups.O(3)), T(1)(groups.O(3))


def network(constraint="soft"):
    return nn.Sequential(SoftLinear(REP, REP, constraint=constraint), SoftLinear(REP, OUT, constraint=constraint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "best"}, "name: expected one of fixed, annealed"),
        ({"model": nn.Linear(1, 1)}, "model: expected a soft layer"),
        ({"model": "net"}, "model: expected an nn.Module, got str"),
        ({"samples": 0}, "samples: expected at least one"),
        ({"samples": 2.5}, "samples: expected the number"),
        ({"likelihood": "poisson"}, "likelihood: expected one of gaussian, categorical, got 'poisson'"),
        ({"strenght": 3}, "fixed: expected options among prior, elsewhere, record, got strenght"),
        ({"prior": 3.0}, "prior: expected a softeq.Prior, got float"),
        ({"prior": Prior(overrides={"9": {"residual": 1.0}})}, "overrides"),
        ({"elsewhere": -1.0}, "elsewhere: expected a finite precision"),
        ({"record": -1}, "record: expected a number of steps"),
    ],
)
def test_bad_arguments(change, message):
    given = {"name": "fixed", "model": network(), "samples": 10, **change}
    with pytest.raises(SofteqError, match=message):
        rule(given.pop("name"), given.pop("model"), **given)


def test_losses_that_cannot_be_trained_on_change_nothing():
    model = network()
    one = rule("fixed", model, samples=10)
    x = torch.randn(4, 5)
    for loss, kind in [
        (torch.tensor(1.0), SofteqTypeError),
        (model(x).square().mean(1), SofteqTypeError),
        (3.0, SofteqTypeError),
        (model(x).sum() * float("nan"), SofteqValueError),
    ]:
        with pytest.raises(kind, match="loss: expected"):
            one.backward(loss)
    assert all(p.grad is None for p in model.parameters())
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(SofteqValueError, match="step: expected rule"):
        one.step(optimizer)


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
def test_the_charges_are_what_the_penalty_counts(constraint):
    torch.manual_seed(0)
    model, prior = network(constraint).double(), Prior(0.3, 7.0, {"1": {"residual": 2.0}})
    one = rule("fixed", model, samples=1, prior=prior)
    total = sum(0.5 * pull.residual * pull.charge.parameter.square().sum() for pull in one._pulls())
    torch.testing.assert_close(total, prior_penalty(model, prior))


def test_redundant_coordinates_count_by_rank():
    soft, projected = SoftLinear(REP, OUT), SoftLinear(REP, OUT, parametrization="projected")
    ranks = {(c.pathway, c.name.rsplit(".", 1)[-1]): c.rank for c in charges_of(soft)}
    assert ranks[("equivariant", "weight")] == soft.projector.rank == 1
    assert ranks[("residual", "weight")] == 15
    assert [c.rank for c in charges_of(projected)] == [14, 3]


def test_history_and_checkpoints():
    torch.manual_seed(0)
    model = network()
    one = rule("fixed", model, samples=10, prior=Prior(residual=5.0), record=2)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(4):
        optimizer.zero_grad()
        one.backward(model(torch.randn(4, 5)).square().mean())
        optimizer.step()
        one.step(optimizer)
    assert [row["step"] for row in one.history] == [2] * 4 + [4] * 4
    row = next(r for r in one.history if r["layer"] == "1" and r["pathway"] == "residual")
    assert row["precision"] == 5.0
    assert 0 < row["defect"] < 1
    kept = io.BytesIO()
    torch.save(one.state_dict(), kept)
    kept.seek(0)
    other = rule("fixed", model, samples=10, prior=Prior(residual=5.0), record=2)
    other.load_state_dict(torch.load(kept, weights_only=True))
    assert other.state_dict() == one.state_dict()
    with pytest.raises(SofteqValueError, match="state: expected that of the rule 'fixed'"):
        other.load_state_dict({"rule": "other"})


def test_the_default_is_a_rule():
    assert strength.DEFAULT in strength.RULES


def test_shares_are_the_diagonal_of_the_projection():
    layer = SoftLinear(REP, OUT).double()
    charge = next(c for c in charges_of(layer) if c.pathway == "equivariant" and c.rank == 1)
    units = torch.eye(15, dtype=torch.float64).view(15, 3, 5)
    exact = torch.stack([charge.part(unit).flatten()[k] for k, unit in enumerate(units)]).view(3, 5)
    shares = charge.shares()
    torch.testing.assert_close(shares, exact, rtol=0.3, atol=0)
    assert float(shares.sum()) == pytest.approx(1)
    assert next(c for c in charges_of(layer) if c.pathway == "residual").shares() is None
