"""From an arm's rule to what the loop steps with."""

import pytest
import torch
from torch import nn

from softeq import Scalar, SoftLinear, Vector
from softeq.errors import SofteqValueError
from softeq.experiments.training.loop import LoopSettings, train
from softeq.experiments.training.published import PublishedPenalty
from softeq.experiments.training.rules import TOLD, rule_of
from softeq.groups import SO2eR3
from softeq.strength import RULES


def soft():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SoftLinear(Vector(SO2eR3()), Scalar(SO2eR3())).double()


def test_the_prior_is_divided_by_the_number_of_training_samples(line):
    """One step of gradient descent, then w / (1 + lr precision / n), by hand."""
    task, model = line(samples=40), soft()
    rule = rule_of(model, task, "fixed", {"equivariant": 0.0, "residual": 80.0})
    weight = model.pathways["residual"].weight
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss, output = task.loss(model, torch.arange(40), None)
    rule.backward(loss, output)
    moved = before - 0.1 * weight.grad
    optimizer.step()
    rule.step(optimizer)
    torch.testing.assert_close(weight.detach(), moved / (1 + 0.1 * 80.0 / 40))


def test_a_plain_network_has_the_residual_precision_on_every_parameter(line):
    task, model = line(samples=10), nn.Linear(3, 1).double()
    rule = rule_of(model, task, "fixed", {"residual": 5.0})
    assert rule.elsewhere == 5.0
    assert len(rule.charges) == 2
    assert rule_of(model, task, "fixed", {"residual": 0.0}) is None
    assert rule_of(model, task, "fixed", None) is None
    assert rule_of(soft(), task, "fixed", {"residual": 5.0}).elsewhere == 0.0


def test_the_published_penalty_is_its_own(line):
    rule = rule_of(soft(), line(samples=10), "published", {"equivariant": 1.0, "residual": 2.0})
    assert isinstance(rule, PublishedPenalty)


def test_what_is_told_is_told_of_a_rule_that_there_is():
    assert set(TOLD) <= set(RULES)


def test_a_schedule_goes_over_the_steps_that_there_may_be(line):
    rule = rule_of(soft(), line(), "annealed", None, steps=77)
    assert rule.total == 77


@pytest.mark.parametrize("name", ["validation", "remul"])
def test_a_rule_that_must_be_told_of_the_task_says_what_the_task_lacks(line, name):
    model, task = soft(), line()
    with pytest.raises(SofteqValueError, match=r"rule: .* which it needs"):
        train(model, task, LoopSettings(4, 20, 1e-2), torch.Generator(), rule=rule_of(model, task, name, None))
