"""Training against the same steps written out by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from softeq import Prior, SoftLinear, prior_penalty
from softeq.errors import SofteqValueError
from softeq.experiments.data.inertia import inertia_data, moment_of_inertia
from softeq.experiments.training.fit import FitSettings, fit, is_soft, load_parameters, mean_squared_error, precision
from softeq.experiments.training.task import Task
from softeq.groups import O
from softeq.models.mlp import MLP
from softeq.reps import Scalar, T, Vector

REP_IN, REP_OUT = (5 * Scalar + 5 * Vector)(O(3)), T(2)(O(3))


def task(sizes=(40, 30, 20), dtype=torch.float64):
    return Task(inertia_data(0, sizes=sizes, dtype=dtype), REP_IN, REP_OUT, moment_of_inertia)


def build(kind, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            return MLP(20, 9, channels=12, layers=1).double()
        hidden = (4 * Scalar + 4 * Vector)(O(3))
        return nn.Sequential(
            SoftLinear(REP_IN, hidden, constraint=kind), SoftLinear(hidden, REP_OUT, constraint=kind)
        ).double()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pathway(model, name):
    return [p for m in model.modules() if isinstance(m, SoftLinear) for p in m.pathways[name].parameters()]


def squares(parameters):
    return sum((p**2).sum() for p in parameters)


def by_hand(model, data, epochs, batch_size, penalty, lr, shrink=()):
    """Adam from its definition, over batches in the order of the same generator."""
    draws, parameters = generator(), list(model.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    step = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(data.x_train), generator=draws).split(batch_size):
            loss = ((model(data.x_train[rows]) - data.y_train[rows]) ** 2).mean() + penalty(model)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            rate, step = lr(step), step + 1
            with torch.no_grad():
                for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g**2)
                    p -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
                for p, decay in shrink:
                    p /= 1 + 2 * rate * decay
    return parameters


def assert_same(model, parameters):
    for ours, theirs in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_soft_loss_is_the_published_one():
    model, problem = build("soft"), task()
    twin = copy.deepcopy(model)
    settings = FitSettings(epochs=3, batch_size=16, lr=0.01, equivariant_decay=0.02, residual_decay=0.7)
    fit(model, problem, settings, generator())
    published = lambda m: 0.7 * squares(pathway(m, "residual")) + 0.02 * squares(pathway(m, "equivariant"))
    assert_same(model, by_hand(twin, problem.data, 3, 16, published, lambda step: 0.01))


def test_plain_loss_decays_every_parameter():
    model, problem = build("mlp"), task()
    twin = copy.deepcopy(model)
    fit(model, problem, FitSettings(epochs=3, batch_size=16, lr=0.01, residual_decay=0.3), generator())
    assert_same(model, by_hand(twin, problem.data, 3, 16, lambda m: 0.3 * squares(m.parameters()), lambda step: 0.01))


def test_cosine_goes_from_the_rate_to_nearly_zero():
    model, problem = build("mlp"), task()
    twin = copy.deepcopy(model)
    fit(model, problem, FitSettings(epochs=4, batch_size=20, lr=0.01, schedule="cosine"), generator())
    rate = lambda step: 0.01 * math.cos(math.pi * step / 16) ** 2  # 8 steps; (1 + cos 2a) / 2 = cos^2 a
    assert_same(model, by_hand(twin, problem.data, 4, 20, lambda m: 0.0, rate))


def test_proximal_divides_the_residual_pathways_and_leaves_the_equivariant_penalty_in_the_loss():
    model, problem = build("soft"), task()
    twin = copy.deepcopy(model)
    settings = FitSettings(
        epochs=2, batch_size=40, lr=0.01, equivariant_decay=0.05, residual_decay=20.0, shrinkage="proximal"
    )
    fit(model, problem, settings, generator())
    shrink = [(p, 20.0) for p in pathway(twin, "residual")]
    penalty = lambda m: 0.05 * squares(pathway(m, "equivariant"))
    assert_same(model, by_hand(twin, problem.data, 2, 40, penalty, lambda step: 0.01, shrink))


@pytest.mark.parametrize("kind", ["mlp", "hard"])
def test_proximal_needs_a_residual_pathway(kind):
    with pytest.raises(SofteqValueError, match="needs a residual pathway"):
        fit(build(kind), task(), FitSettings(epochs=1, shrinkage="proximal"), generator())


def test_precision_is_what_the_published_decay_stands_for():
    model, n = build("soft"), 1000
    penalty = prior_penalty(model, Prior(equivariant=precision(1e-3, n), residual=precision(100.0, n))) / n
    expected = 1e-3 * squares(pathway(model, "equivariant")) + 100 * squares(pathway(model, "residual"))
    torch.testing.assert_close(penalty, expected)


class Recorder(nn.Module):
    """The true answer, plus a parameter that does nothing; keeps the inputs of its training steps."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(9, dtype=torch.float64))
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x)
        return moment_of_inertia(x) + 0 * self.idle


def test_every_epoch_sees_every_row_once():
    model, problem = Recorder(), task()
    fit(model, problem, FitSettings(epochs=2, batch_size=16), generator())
    assert [len(x) for x in model.seen] == [16, 16, 8] * 2
    for epoch in (torch.cat(model.seen[:3]), torch.cat(model.seen[3:])):
        order = torch.cdist(epoch, problem.data.x_train).argmin(1)
        assert torch.equal(epoch, problem.data.x_train[order])
        assert len(order.unique()) == 40
    assert not torch.equal(torch.cat(model.seen[:3]), torch.cat(model.seen[3:]))


def test_augmentation_moves_inputs_and_targets_together_and_afresh():
    model, problem = Recorder(), task()
    fit(model, problem, FitSettings(epochs=2, batch_size=40, augment=True), generator())
    first, second = model.seen
    # The model is the truth, which the group respects: any mismatch of input and target would move the parameter.
    assert model.idle.abs().max() < 1e-6
    assert torch.equal(first[:, :5].sort(0).values, problem.data.x_train[:, :5].sort(0).values)
    assert torch.cdist(first, problem.data.x_train).min() > 1e-3
    assert torch.cdist(first, second).min() > 1e-3
    length = lambda x: x[:, 5:8].norm(dim=-1).sort().values
    torch.testing.assert_close(length(first), length(problem.data.x_train))


def test_keeps_the_last_and_the_best_validated_epoch():
    model, problem = build("mlp"), task(sizes=(5, 200, 50))
    result = fit(model, problem, FitSettings(epochs=200, batch_size=5, lr=0.02, validate_every=3), generator())
    validation = problem.data.x_validation, problem.data.y_validation
    assert mean_squared_error(model, *validation) == result.validation_mse
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.last, strict=True))
    load_parameters(model, result.best)
    assert mean_squared_error(model, *validation) == result.validation_mse_best
    # Five rows are overfitted long before the end.
    assert result.validation_mse_best < result.validation_mse
    assert 0 < result.best_epoch < 200
    assert result.best_epoch % 3 == 0


def test_last_epoch_is_validated_even_between_two_validations():
    result = fit(build("mlp"), task(), FitSettings(epochs=2, validate_every=50), generator())
    assert result.best_epoch == 2
    assert result.validation_mse == result.validation_mse_best


def test_training_lowers_the_error():
    model, problem = build("mlp"), task(sizes=(200, 100, 50))
    before = mean_squared_error(model, problem.data.x_train, problem.data.y_train)
    fit(model, problem, FitSettings(epochs=60, batch_size=50, lr=0.01), generator())
    assert mean_squared_error(model, problem.data.x_train, problem.data.y_train) < 0.6 * before


def test_same_seed_same_parameters():
    runs = []
    for seed in (0, 0, 1):
        model = build("mlp")
        fit(model, task(), FitSettings(epochs=2, batch_size=8, augment=True), generator(seed))
        runs.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_divergence_stops_and_is_told():
    model, calls = build("mlp").float(), []
    settings = FitSettings(epochs=50, batch_size=40, lr=1e30)
    result = fit(model, task(dtype=torch.float32), settings, generator(), lambda *step: calls.append(step))
    assert result.diverged_at is not None
    assert 1 < result.diverged_at < 50
    assert math.isnan(result.validation_mse)
    assert calls[-1][0] == result.diverged_at - 1


def test_progress_is_modest_and_ends_at_the_total():
    calls = []
    fit(build("mlp"), task(), FitSettings(epochs=150, batch_size=20), generator(), lambda *step: calls.append(step))
    assert calls[-1] == (300, 300)
    assert 100 <= len(calls) <= 300
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_seconds_per_step_is_the_time_of_a_step():
    class Slow(Recorder):
        def forward(self, x):
            if self.training:
                import time

                time.sleep(0.02)
            return super().forward(x)

    result = fit(Slow(), task(), FitSettings(epochs=12, batch_size=40), generator())
    assert 0.02 <= result.seconds_per_step < 0.2


def test_soft_networks_are_told_from_plain_ones():
    assert is_soft(build("soft"))
    assert is_soft(build("hard"))
    assert not is_soft(build("mlp"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("validate_every", 0),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("residual_decay", float("inf")),
        ("equivariant_decay", -1e-9),
        ("schedule", "linear"),
        ("shrinkage", "lasso"),
    ],
)
def test_settings_refuse(name, value):
    with pytest.raises(SofteqValueError, match=f"{name}: expected"):
        FitSettings(**{name: value})


def test_task_refuses_representations_of_another_size():
    with pytest.raises(SofteqValueError, match=r"expected sizes \(20, 9\)"):
        Task(task().data, Vector(O(3)), T(2)(O(3)), moment_of_inertia)


def test_denormals_are_flushed_in_training_alone():
    tiny = torch.full((1,), 1e-39)
    fit(build("none"), task(), FitSettings(epochs=1), generator())
    assert float(tiny * 0.5) > 0
