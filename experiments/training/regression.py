"""A supervised problem with a symmetry that is assumed of it, and its true answer at new inputs.

Each test row is transformed by its own random element g of the group that the experiment ASSUMES. Two errors follow,
which agree where the assumption is true:

- ``test_mse_moved``: against the true target at the transformed input. Whoever uses the network meets this one.
- ``test_mse_transformed``: against the transformed target, rho_out(g) y, which is what the assumption predicts. Where
  the assumption is wrong a network is right to have a large one.

``equivariance_error`` compares the network with itself: RMS(a - b) / (RMS a + RMS b + mean |g - 1|) with
a = f(rho_in(g) x) and b = rho_out(g) f(x), as Finzi, Welling, Wilson (ICML 2021) define it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from softeq import weight_defect
from softeq.errors import SofteqValueError
from softeq.experiments.data.regression import Regression
from softeq.experiments.engine.bookkeeping import MEASURE, generator_for
from softeq.experiments.engine.experiment import Metrics
from softeq.experiments.training.task import Move, Task, evaluated, some_rows
from softeq.prior import soft_layers
from softeq.reps import Rep, check_same_group

_ERRORS = (
    "train_mse",
    "test_mse",
    "test_mse_moved",
    "test_mse_transformed",
    "equivariance_error",
    "error_of_zero",
    "error_of_mean",
)


@dataclass
class RegressionTask(Task):
    """Vectors to vectors under a group, by the mean squared error.

    Args:
        data: inputs ``(N, rep_in.size)`` and targets ``(N, ..., rep_out.size)``.
        rep_in: how inputs move under the assumed group.
        rep_out: how the last axis of targets moves. The assumption may be wrong: that is what experiments are about.
        truth: the true targets at inputs, ``(B, rep_in.size)`` to ``(B, ..., rep_out.size)``, free of noise.
        seed: of the elements that test rows are transformed by.
        augmentation: the representations of inputs and targets under the group that transforms training samples.

    Raises:
        SofteqValueError: representations of different groups, or of other sizes than the data.
    """

    data: Regression
    rep_in: Rep
    rep_out: Rep
    truth: Callable[[Tensor], Tensor]
    seed: int = 0
    augmentation: tuple[Rep, Rep] | None = None
    headline: str = "test_mse"
    keys: tuple[str, ...] = field(default=_ERRORS)

    def __post_init__(self) -> None:
        check_same_group(self.rep_in, self.rep_out)
        sizes = (self.data.x_train.shape[-1], self.data.y_train.shape[-1])
        if (self.rep_in.size, self.rep_out.size) != sizes:
            got = (self.rep_in.size, self.rep_out.size)
            raise SofteqValueError(f"rep_in and rep_out: expected sizes {sizes} as in the data, got {got}")

    @property
    def samples(self) -> int:
        """Rows for training."""
        return len(self.data.x_train)

    def loss(self, model: nn.Module, rows: Tensor, motion: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The mean squared error of some rows, each transformed by an element of its own where ``motion`` is given."""
        rows = rows.to(self.data.x_train.device)
        x, y = self.data.x_train[rows], self.data.y_train[rows]
        if motion is not None:
            rep_in, rep_out = self.augmentation or (self.rep_in, self.rep_out)
            g = sampled(rep_in, len(x), motion).to(x)
            x, y = act(rep_in, g, x), act(rep_out, g, y)
        output = model(x)
        return mse_loss(output, y), output

    def validation_error(self, model: nn.Module) -> float:
        """The mean squared error on validation rows."""
        return mean_squared_error(model, self.data.x_validation, self.data.y_validation)

    def held_out_loss(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """Of up to 500 validation rows."""
        x, y = some_rows(self.data.x_validation, self.data.y_validation, 500, generator)
        return mse_loss(model(x), y)

    def action(self, generator: torch.Generator) -> tuple[Move, Move]:
        """One element of the assumed group for the whole batch."""
        g = sampled(self.rep_in, 1, generator)

        def moved(rep: Rep) -> Move:
            return lambda value: act(rep, g.to(value).expand(len(value), -1, -1), value)

        return moved(self.rep_in), moved(self.rep_out)

    def test(self, model: nn.Module) -> float:
        """``test_mse``."""
        return mean_squared_error(model, self.data.x_test, self.data.y_test)

    def measure(self, model: nn.Module) -> Metrics:
        """See the module's text; ``weight_defect`` per layer and ``weight_defect_mean`` where there are soft layers."""
        data = self.data
        g = sampled(self.rep_in, len(data.x_test), generator_for(self.seed, MEASURE)).to(data.x_test)
        moved = act(self.rep_in, g, data.x_test)
        truth = self.truth(moved.double()).to(data.y_test)
        mean = data.y_train.mean(0)
        return {
            # What a network has that answers 0, and one that answers the mean of the training targets: a collapse.
            "error_of_zero": data.y_test.square().mean().item(),
            "error_of_mean": (data.y_test - mean).square().mean().item(),
            "train_mse": mean_squared_error(model, data.x_train, data.y_train),
            "test_mse": self.test(model),
            "test_mse_moved": mean_squared_error(model, moved, truth),
            "test_mse_transformed": mean_squared_error(model, moved, act(self.rep_out, g, data.y_test)),
            "equivariance_error": equivariance_error(model, self, data.x_test, g),
            **defects(model),
        }


def sampled(rep: Rep, n: int, generator: torch.Generator) -> Tensor:
    """``n`` random elements of a representation's group, ``(n, d, d)``."""
    return rep.bound_group.sample(n, generator=generator)


def act(rep: Rep, g: Tensor, value: Tensor) -> Tensor:
    """Move each row by its own element: ``(B, d, d)`` on ``(B, ..., size)``, along the last axis."""
    return torch.einsum("bij,b...j->b...i", rep.rho(g), value)


def mean_squared_error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The error over all rows and outputs, without gradients, the model in evaluation mode and back."""
    return mse_loss(evaluated(model, x, rows=len(x)), y).item()


def equivariance_error(model: nn.Module, task: RegressionTask, x: Tensor, g: Tensor) -> float:
    """See the module's text: inputs ``(B, size_in)``, elements ``(B, d, d)``; 0 for an equivariant model, at most 1."""
    a = evaluated(model, act(task.rep_in, g, x), rows=len(x))
    b = act(task.rep_out, g, evaluated(model, x, rows=len(x)))
    moved = (g - torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)).abs().mean()
    return (_rms(a - b) / (_rms(a) + _rms(b) + moved)).item()


def defects(model: nn.Module) -> Metrics:
    """``weight_defect`` per soft layer and ``weight_defect_mean``; empty for a network without soft layers."""
    if not any(True for _ in soft_layers(model)):
        return {}
    found = {name: float(value) for name, value in weight_defect(model).items()}
    return {"weight_defect": found, "weight_defect_mean": math.fsum(found.values()) / len(found)}


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt()
