"""The metrics, on functions whose errors are known."""

import math

import pytest
import torch
from torch import nn

from softeq import SoftLinear
from softeq.experiments.data.inertia import inertia_data, modified_moment_of_inertia, moment_of_inertia
from softeq.experiments.training.evaluate import equivariance_error, evaluate
from softeq.experiments.training.fit import FitResult, FitSettings, fit
from softeq.experiments.training.task import Task, act
from softeq.groups import O
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
    return Task(data, REP_IN, REP_OUT, modified_moment_of_inertia if modified else moment_of_inertia)


def generator():
    return torch.Generator().manual_seed(0)


def held(model):
    values = [p.detach().clone() for p in model.parameters()]
    return FitResult(values, values, best_epoch=1, validation_mse=0.0, validation_mse_best=0.0, seconds_per_step=0.1)


def measured(function, problem):
    model = Function(function)
    return evaluate(model, problem, held(model), generator())


def test_the_truth_has_no_error_where_the_symmetry_holds():
    metrics = measured(moment_of_inertia, task())
    for name in ("train_mse", "test_mse", "test_mse_moved", "test_mse_transformed", "test_mse_best_validation"):
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


def test_best_validation_uses_the_best_parameters_and_the_model_keeps_the_last():
    problem, model = task(), Function(moment_of_inertia)
    result = held(model)
    result.best = [torch.tensor(2.0, dtype=torch.float64)]
    metrics = evaluate(model, problem, result, generator())
    assert metrics["test_mse"] < 1e-25
    assert metrics["test_mse_best_validation"] == pytest.approx(4.0)
    assert model.shift.item() == 0.0


def test_divergence_is_nan_and_no_exception():
    problem, model = task(), MLP(20, 9, channels=8, layers=1)
    problem = Task(problem.data.to(dtype=torch.float32), REP_IN, REP_OUT, moment_of_inertia)
    result = fit(model, problem, FitSettings(epochs=30, lr=1e30), generator())
    metrics = evaluate(model, problem, result, generator())
    for name in ("test_mse", "test_mse_moved", "test_mse_transformed", "equivariance_error", "validation_mse"):
        assert math.isnan(metrics[name])
    assert metrics["diverged_at_step"] == result.diverged_at
    assert metrics["parameters"] == 20 * 8 + 8 + 8 * 9 + 9


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_weight_defect_is_measured_per_layer(constraint):
    hidden = (4 * Scalar + 4 * Vector)(O(3))
    model = nn.Sequential(
        SoftLinear(REP_IN, hidden, constraint=constraint), SoftLinear(hidden, REP_OUT, constraint=constraint)
    ).double()
    metrics = evaluate(model, task(), held(model), generator())
    assert list(metrics["weight_defect"]) == ["0", "1"]
    values = list(metrics["weight_defect"].values())
    assert metrics["weight_defect_mean"] == pytest.approx(sum(values) / 2)
    # A soft layer starts near its constraint, not on it; a hard one is on it to rounding.
    assert all(v < 1e-12 if constraint == "hard" else 1e-6 < v < 0.1 for v in values)


def test_a_plain_network_has_no_weight_defect():
    model = MLP(20, 9, channels=8, layers=1).double()
    assert not [k for k in evaluate(model, task(), held(model), generator()) if k.startswith("weight_defect")]


def test_the_model_is_measured_in_evaluation_mode():
    class Modal(Function):
        def forward(self, x):
            return super().forward(x) + (1.0 if self.training else 0.0)

    model = Modal(moment_of_inertia).train()
    assert evaluate(model, task(), held(model), generator())["test_mse"] < 1e-25


def test_act_moves_the_last_axis_of_each_row_by_its_own_element():
    g = O(3).sample(4, generator=generator())
    value = torch.randn(4, 5, 3, generator=generator(), dtype=torch.float64)
    out = act(Vector(O(3)), g, value)
    torch.testing.assert_close(out[2, 3], g[2] @ value[2, 3])
