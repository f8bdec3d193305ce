"""What is measured of a trained network: errors in and out of distribution, and how equivariant it is.

Each test row is moved by its own random element g of the group that the experiment ASSUMES. Two errors follow, which
agree where the assumption is true:

- ``test_mse_moved``: against the true target at the moved input. Whoever uses the network meets this one.
- ``test_mse_transformed``: against the moved target, rho_out(g) y, which is what the assumption predicts. Where the
  assumption is wrong a network is right to have a large one.

``equivariance_error`` compares the network with itself: RMS(a - b) / (RMS a + RMS b + mean |g - 1|) with
a = f(rho_in(g) x) and b = rho_out(g) f(x), as Finzi, Welling, Wilson (ICML 2021) define it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from softeq import weight_defect
from softeq.experiments.engine.experiment import Metrics
from softeq.experiments.training.fit import FitResult, is_soft, load_parameters, mean_squared_error
from softeq.experiments.training.task import Task, act


def evaluate(model: nn.Module, task: Task, result: FitResult, generator: torch.Generator) -> Metrics:
    """The metrics of a finished training, of its last parameters unless the name says otherwise.

    Keys: ``test_mse``, ``test_mse_moved``, ``test_mse_transformed``, ``train_mse``, ``validation_mse``,
    ``equivariance_error``; ``test_mse_best_validation``, ``validation_mse_best``, ``best_epoch``; ``parameters``,
    ``seconds_per_step`` (median, warm-up left out); ``diverged_at_step`` (``None`` where it did not); and for a network
    of soft layers ``weight_defect`` per layer and ``weight_defect_mean``. A diverged training has NaN for what it did
    not reach.

    Args:
        model: the model that was trained; left with its last parameters, in evaluation mode.
        task: the problem that it was trained on.
        result: what `fit` gave.
        generator: on the CPU; draws the group elements.
    """
    metrics: Metrics = {
        "validation_mse": result.validation_mse,
        "validation_mse_best": result.validation_mse_best,
        "best_epoch": result.best_epoch,
        "seconds_per_step": result.seconds_per_step,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "diverged_at_step": result.diverged_at,
        "test_mse_best_validation": _best_test_error(model, task, result),
    }
    load_parameters(model, result.last)
    model.eval()
    finite = result.diverged_at is None
    metrics |= _errors(model, task, generator) if finite else dict.fromkeys(_ERRORS, math.nan)
    if is_soft(model):
        metrics |= _defects(model) if finite else {"weight_defect": {}, "weight_defect_mean": math.nan}
    return metrics


_ERRORS = ("train_mse", "test_mse", "test_mse_moved", "test_mse_transformed", "equivariance_error")


def equivariance_error(model: nn.Module, task: Task, x: Tensor, g: Tensor) -> float:
    """See the module's text: inputs ``(B, size_in)``, elements ``(B, d, d)``; 0 for an equivariant model, at most 1."""
    with torch.no_grad():
        a = model(act(task.rep_in, g, x))
        b = act(task.rep_out, g, model(x))
    moved = (g - torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)).abs().mean()
    return (_rms(a - b) / (_rms(a) + _rms(b) + moved)).item()


def _errors(model: nn.Module, task: Task, generator: torch.Generator) -> Metrics:
    data = task.data
    g = task.sample(len(data.x_test), generator)
    moved = act(task.rep_in, g, data.x_test)
    truth = task.truth(moved.double()).to(data.y_test)
    return {
        "train_mse": mean_squared_error(model, data.x_train, data.y_train),
        "test_mse": mean_squared_error(model, data.x_test, data.y_test),
        "test_mse_moved": mean_squared_error(model, moved, truth),
        "test_mse_transformed": mean_squared_error(model, moved, act(task.rep_out, g, data.y_test)),
        "equivariance_error": equivariance_error(model, task, data.x_test, g),
    }


def _best_test_error(model: nn.Module, task: Task, result: FitResult) -> float:
    if not result.best:
        return math.nan
    load_parameters(model, result.best)
    return mean_squared_error(model, task.data.x_test, task.data.y_test)


def _defects(model: nn.Module) -> Metrics:
    defects = {name: float(value) for name, value in weight_defect(model).items()}
    return {"weight_defect": defects, "weight_defect_mean": sum(defects.values()) / len(defects)}


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt()
