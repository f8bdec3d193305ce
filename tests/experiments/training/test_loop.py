"""The loop against the same steps written out by hand, its schedules, and what it leaves behind."""

import math

import pytest
import torch
from torch import nn

from softeq.experiments.training.loop import LoopSettings, load_state, train


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def settings(**changes):
    return LoopSettings(**{"steps": 12, "batch_size": 16, "lr": 1e-2, "validate_every": 4, **changes})


def by_hand(model, task, how, rates):
    """Adam from its definition, over batches in the order of the same generator."""
    parameters = list(model.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    order, step = generator(), 0
    while step < how.steps:
        for rows in torch.randperm(len(task.x), generator=order).split(how.batch_size):
            if step == how.steps:
                break
            loss = ((model(task.x[rows]) - task.y[rows]) ** 2).mean()
            gradients = torch.autograd.grad(loss, parameters)
            if how.clip is not None:
                norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
                gradients = [g * min(1.0, how.clip / (norm + 1e-6)) for g in gradients]
            rate, step = rates(step), step + 1
            with torch.no_grad():
                for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g**2)
                    p -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return model


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"schedule": "constant"}, lambda step: 1e-2),
        ({"schedule": "cosine"}, lambda step: 1e-2 * (1 + math.cos(math.pi * step / 12)) / 2),
        ({"schedule": "constant", "warmup": 0.5}, lambda step: 1e-2 * min(1, (step + 1) / 6)),
        ({"schedule": "constant", "clip": 0.5}, lambda step: 1e-2),
    ],
    ids=["constant", "cosine", "warm-up", "clipped"],
)
def test_the_steps_are_adams(line, changes, rates):
    how, ours = settings(**changes), network()
    train(ours, line(), how, generator())
    theirs = by_hand(network(), line(), how, rates)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_every_pass_sees_every_sample_once(line):
    task = line(samples=40)
    train(network(), task, settings(steps=6, batch_size=16), generator())
    assert [len(rows) for rows in task.seen] == [16, 16, 8] * 2
    for a_pass in (task.seen[:3], task.seen[3:]):
        assert sorted(row for rows in a_pass for row in rows) == list(range(40))
    assert task.seen[:3] != task.seen[3:]


def test_networks_are_looked_at_on_validation_samples_alone(line):
    task = line()
    training = train(network(), task, settings(), generator())
    assert task.asked == ["validation"] * 3
    assert [step for step, _ in training.validations] == [4, 8, 12]
    assert training.error == training.validations[-1][1]
    assert training.best_error == min(error for _, error in training.validations)
    assert len(training.losses) == 3


def test_the_last_step_is_validated_too(line):
    assert [s for s, _ in train(network(), line(), settings(steps=10), generator()).validations] == [4, 8, 10]


def test_the_best_validated_state_is_kept_and_the_last_one_stays(line):
    task, errors = line(), iter([3.0, 1.0, 2.0])
    task.validation_error = lambda model: next(errors)
    model, states = network(), []

    def keep(step, error):
        states.append({k: v.clone() for k, v in model.state_dict().items()})

    training = train(model, task, settings(), generator(), after_validation=keep)
    assert (training.best_step, training.best_error, training.error) == (8, 1.0, 2.0)
    assert all(torch.equal(training.best_state[k], states[1][k]) for k in states[1])
    assert all(torch.equal(model.state_dict()[k], states[2][k]) for k in states[2])
    load_state(model, training.best_state)
    assert all(torch.equal(model.state_dict()[k], states[1][k]) for k in states[1])


def test_a_loss_that_is_not_finite_ends_the_training(line):
    task, told = line(), []
    task.y[:] = math.inf
    training = train(network(), task, settings(), generator(), on_step=lambda: told.append(1))
    assert (training.diverged_at_step, training.stopped, training.steps, told) == (1, "diverged", 1, [])
    assert math.isnan(training.error)
    assert training.to_record()["diverged_at_step"] == 1


def test_looking_on_changes_nothing(line):
    first, model = network(), network()

    def spoil(step, error):
        model.eval()
        torch.randn(3)

    train(first, line(), settings(), generator())
    train(model, line(), settings(), generator(), after_validation=spoil)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), model.parameters(), strict=True))


def test_the_generators_order_and_move_the_samples(line):
    def losses(order, motion=None):
        moved = None if motion is None else generator(motion)
        return train(network(), line(), settings(), generator(order), motion=moved).losses

    assert losses(0) == losses(0) != losses(1)
    assert losses(0) != losses(0, motion=5) == losses(0, motion=5) != losses(0, motion=6)


def plateau(**changes):
    fixed = {"steps": 1000, "schedule": "plateau", "validate_every": 10, "patience": 3, "tolerance": 0.1}
    return settings(**{**fixed, "cooldown": 0.25, **changes})


def scripted(task, errors):
    """The task with validation errors that are given, the last of them for ever."""
    left = list(errors)
    task.validation_error = lambda model: left.pop(0) if len(left) > 1 else left[0]
    return task


def test_a_plateau_ends_the_training_after_a_fall(line):
    # Improves by a tenth and more up to step 40, then not for three validations: the fall begins at 70.
    training = train(network(), scripted(line(), [9, 7, 5, 3, 2.9]), plateau(), generator())
    assert training.stopped == "plateau"
    assert training.steps == 70 + 24  # a quarter of all steps: 24 of 94
    assert training.validations[-1][0] == 94


def test_without_a_plateau_the_cap_ends_it(line):
    training = train(network(), scripted(line(), [0.5**k for k in range(200)]), plateau(), generator())
    assert (training.stopped, training.steps) == ("steps", 1000)


def test_the_rate_stays_and_then_falls(line, monkeypatch):
    rates, made = [], torch.optim.Adam.step

    def step(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return made(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train(network(), scripted(line(), [1.0]), plateau(), generator())
    # The first validation is the best; three more without improvement: the fall begins at 40.
    assert rates[:41] == [1e-2] * 41
    assert rates[40] > rates[41] > rates[-1] > 0
    assert len(rates) == 40 + 14


def test_the_number_at_equal_steps_is_of_that_step_or_of_the_end(line):
    training = train(network(), line(), settings(equal_steps=8), generator())
    assert training.at_equal_steps - 100 == pytest.approx(dict(training.validations)[8])
    shorter = train(network(), line(), settings(equal_steps=99), generator())
    assert shorter.at_equal_steps - 100 == pytest.approx(shorter.error)
    assert math.isnan(train(network(), line(), settings(), generator()).at_equal_steps)


def test_what_does_not_compile_whole_is_an_error_and_never_runs_eagerly(line):
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 0 else super().forward(-x)

    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        train(Branching(3, 1).double(), line(), settings(steps=1), generator(0), compiled=True)
