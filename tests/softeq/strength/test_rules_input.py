"""Rules refuse options out of range, networks with nothing to learn, and outputs that do not fit."""

import pytest
from torch import nn

from softeq import (
    SofteqError,
    SofteqTypeError,
    SofteqValueError,
    SoftLinear,
)
from softeq.strength import rule

from .test_rules_in_training import LABELS, OUT, REP, X, network, turn

pytestmark = pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mackay", {"start": 1e4}, "start: expected 3 to 100.*stays hard"),
        ("variational", {"start": 0.1}, "start: expected 3 to 100.*overfits"),
        ("variational", {"curvature": "full"}, "curvature: expected one of diagonal, kfac, trace"),
        ("variational", {"learn": "some"}, "learn: expected"),
        ("variational", {"every": 0}, "every: expected"),
        ("variational", {"seed": 0.5}, "seed: expected"),
        ("variational", {"eta": 1.0}, "variational: expected options among .*got eta"),
        ("group-lasso", {"eta": -1.0}, "eta: expected"),
        ("annealed", {}, "steps"),
        ("annealed", {"steps": 10, "loose": 5.0, "tight": 1.0}, "loose: expected"),
        ("annealed", {"steps": 10, "turn": 1.5}, "turn: expected"),
        ("dual", {"rate": 0.0}, "rate: expected"),
        ("remul", {"action": 3}, "action: expected"),
        ("remul", {"action": turn, "against": "them"}, "against: expected"),
        ("validation", {"held": 3.0}, "held: expected a function"),
    ],
)
def test_bad_options(name, change, message):
    with pytest.raises(SofteqError, match=message):
        rule(name, network(), samples=24, **change)


def test_a_hard_network_has_nothing_to_learn():
    with pytest.raises(SofteqValueError, match="expected a residual pathway whose precision can be learned"):
        rule("mackay", SoftLinear(REP, OUT, constraint="hard"), samples=3)


def test_outputs_that_do_not_fit():
    model = network()
    one = rule("mackay", model, samples=24, likelihood="categorical")
    output = model(X)
    with pytest.raises(SofteqTypeError, match="output: expected the tensor"):
        one.backward(output.square().mean())
    with pytest.raises(SofteqValueError, match="output: expected logits"):
        one.backward(output.square().mean(), output[:, :1])
    with pytest.raises(SofteqValueError, match="output: expected a floating"):
        one.backward(output.square().mean(), output.detach())
    with pytest.raises(SofteqValueError, match="it has no gradient there"):
        one.backward(output.square().mean(), model(X))
    assert all(p.grad is None for p in model.parameters())
    gaussian = rule("mackay", model, samples=24, every=1)

    def entropies():
        for size in (1.0, 10.0, 100.0):
            output = size * model(X)
            gaussian.backward(nn.functional.cross_entropy(output, LABELS), output)
            gaussian._backwards = 0

    with pytest.raises(SofteqValueError, match="expected a squared error"):
        entropies()
