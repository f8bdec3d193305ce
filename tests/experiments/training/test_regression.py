"""The metrics, on functions whose errors are known."""

import math

import pytest
import torch
from torch import nn

from softeq import SoftLinear
from softeq.errors import SofteqValueError
from softeq.experiments.data.inertia import inertia_data, modified_moment_of_inertia, moment_of_inertia
from softeq.experiments.training.regression import RegressionTask, act, defects, equivariance_error
from softeq.experiments.training.trials import run_trials
from softeq.groups import O, O2eR3
from softeq.models.mlp import MLP
from softeq.reps import Scalar, T, Vector

REP_IN, REP_OUT = (5 * Scalar + 5 * Vector)(O(3)), T(2)(O(3))


class Function(nn.Module):
    """A function with one parameter, which is added to it."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        return self.function(x) + self.shift


def task(modified=False):
    data = inertia_data(0, modified=modified, sizes=(30, 30, 200), dtype=torch.float64)
    return RegressionTask(data, REP_IN, REP_OUT, modified_moment_of_inertia if modified else moment_of_inertia)


def generator():
    return torch.Generator().manual_seed(0)


def measured(function, problem):
    return problem.measure(Function(function))


def test_the_truth_has_no_error_where_the_symmetry_holds():
    metrics = measured(moment_of_inertia, task())
    for name in ("train_mse", "test_mse", "test_mse_moved", "test_mse_transformed"):
        assert metrics[name] < 1e-25
    assert metrics["equivariance_error"] < 1e-14


def test_the_truth_is_right_at_moved_inputs_where_the_symmetry_is_broken():
    metrics = measured(modified_moment_of_inertia, task(modified=True))
    assert metrics["test_mse"] < 1e-25
    assert metrics["test_mse_moved"] < 1e-25
    assert metrics["test_mse_transformed"] > 0.1
    assert metrics["equivariance_error"] > 0.01


def test_an_equivariant_function_is_wrong_there_and_consistent_with_itself():
    metrics = measured(moment_of_inertia, task(modified=True))
    assert metrics["equivariance_error"] < 1e-14
    assert metrics["test_mse"] > 0.1
    # Orthogonal matrices keep the length of the error that it makes at the unmoved input.
    assert metrics["test_mse_transformed"] == pytest.approx(metrics["test_mse"])


def test_equivariance_error_is_the_published_ratio():
    problem, x = task(), torch.zeros(2, 20, dtype=torch.float64)
    # The third axis turned over: the matrix with one at (1, 3) comes out with minus one there.
    g = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)).expand(2, 3, 3)
    constant = torch.zeros(9, dtype=torch.float64)
    constant[2] = 1.0
    error = equivariance_error(Function(lambda x: constant.expand(len(x), 9)), problem, x, g)
    rms = math.sqrt(1 / 9)
    assert error == pytest.approx(2 * rms / (2 * rms + 2 / 9))


def test_each_split_has_its_own_error():
    problem = task()
    model = Function(moment_of_inertia)
    problem.data.y_validation.add_(2.0)
    problem.data.y_test.add_(3.0)
    problem.data.y_train.add_(1.0)
    assert problem.validation_error(model) == pytest.approx(4.0)
    assert problem.test(model) == pytest.approx(9.0)
    loss, output = problem.loss(model, torch.arange(5), None)
    assert loss.item() == pytest.approx(1.0)
    assert output.shape == (5, 9)
    assert problem.samples == 30


def test_augmentation_moves_inputs_and_targets_together_and_afresh():
    problem, seen = task(), []
    model = Function(moment_of_inertia)
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    drawn = generator()
    losses = [problem.loss(model, torch.arange(8), drawn)[0].item() for _ in range(2)]
    assert max(losses) < 1e-24, "the moved target is the truth at the moved input"
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[0], problem.data.x_train[:8])


def test_augmentation_may_be_by_another_group():
    problem, seen = task(), []
    problem.augmentation = (5 * Scalar + 5 * Vector)(O2eR3()), T(2)(O2eR3())
    model = Function(moment_of_inertia)
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    problem.loss(model, torch.arange(8), generator())
    z = [7, 10, 13, 16, 19]
    torch.testing.assert_close(seen[0][:, z].abs(), problem.data.x_train[:8, z].abs())
    assert not torch.allclose(seen[0], problem.data.x_train[:8])


def test_other_elements_for_another_seed():
    first, again, other = (RegressionTask(**{**vars(task()), "seed": s}) for s in (0, 0, 1))
    model = Function(lambda x: x[:, :9] ** 2)
    errors = [one.measure(model)["test_mse_transformed"] for one in (first, again, other)]
    assert errors[0] == errors[1] != errors[2]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(SofteqValueError, match=r"rep_in and rep_out: expected sizes \(20, 9\) as in the data"):
        RegressionTask(task().data, Vector(O(3)), REP_OUT, moment_of_inertia)


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_weight_defect_is_measured_per_layer(constraint):
    hidden = (4 * Scalar + 4 * Vector)(O(3))
    model = nn.Sequential(
        SoftLinear(REP_IN, hidden, constraint=constraint), SoftLinear(hidden, REP_OUT, constraint=constraint)
    ).double()
    metrics = defects(model)
    assert list(metrics["weight_defect"]) == ["0", "1"]
    values = list(metrics["weight_defect"].values())
    assert metrics["weight_defect_mean"] == pytest.approx(sum(values) / 2)
    # A soft layer starts near its constraint, not on it; a hard one is on it to rounding.
    assert all(v < 1e-12 if constraint == "hard" else 1e-6 < v < 0.1 for v in values)


def test_a_plain_network_has_no_weight_defect():
    model = MLP(20, 9, channels=8, layers=1).double()
    assert defects(model) == {}
    assert not [k for k in task().measure(model) if k.startswith("weight_defect")]


def test_the_model_is_measured_in_evaluation_mode():
    class Modal(Function):
        def forward(self, x):
            return super().forward(x) + (1.0 if self.training else 0.0)

    model = Modal(moment_of_inertia).train()
    assert task().measure(model)["test_mse"] < 1e-25


def test_act_moves_the_last_axis_of_each_row_by_its_own_element():
    g = O(3).sample(4, generator=generator())
    value = torch.randn(4, 5, 3, generator=generator(), dtype=torch.float64)
    out = act(Vector(O(3)), g, value)
    torch.testing.assert_close(out[2, 3], g[2] @ value[2, 3])


def test_the_errors_of_answers_that_take_no_input():
    problem = task()
    metrics = measured(moment_of_inertia, problem)
    y, mean = problem.data.y_test, problem.data.y_train.mean(0)
    assert metrics["error_of_zero"] == pytest.approx(float(y.square().mean()))
    assert metrics["error_of_mean"] == pytest.approx(float((y - mean).square().mean()))
    assert metrics["error_of_mean"] < metrics["error_of_zero"]


def test_rules_are_told_of_validation_rows_and_of_the_assumed_action():
    problem = task()
    move_in, move_out = problem.action(generator())
    x, y = problem.data.x_test, problem.data.y_test
    torch.testing.assert_close(moment_of_inertia(move_in(x)), move_out(y), atol=1e-10, rtol=1e-10)
    assert not torch.allclose(move_in(x), x)
    model = Function(moment_of_inertia)
    assert problem.held_out_loss(model, generator()).item() < 1e-25
    problem.data.y_train[:], problem.data.y_test[:] = math.nan, math.nan  # validation rows and no others
    model.shift.data += 1.0
    loss = problem.held_out_loss(model, generator())
    loss.backward()
    assert (loss.item(), model.shift.grad.item()) == (pytest.approx(1.0), pytest.approx(2.0))


@pytest.mark.parametrize(("rule", "steps"), [("validation", 6), ("remul", 6), ("halving", 80)])
def test_the_rules_that_need_them_train_through_the_loop(rule, steps):
    model = SoftLinear(REP_IN, REP_OUT).double()
    training = {"steps": steps, "batch_size": 15, "validate_every": 3}
    config = {"rule": rule, "augment": None, "seed": 0, "training": training, "trials": [{"lr": 1e-3, "prior": None}]}
    metrics = run_trials(task(), lambda: model, config)
    assert (metrics["steps"], metrics["diverged_at_step"]) == (steps, None)
    assert math.isfinite(metrics["test_mse"])
    if rule == "halving":
        with pytest.raises(SofteqValueError, match="a known number of steps, which a plateau has not"):
            run_trials(task(), lambda: model, {**config, "training": {**training, "schedule": "plateau"}})
