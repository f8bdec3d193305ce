"""What a comparison needs of a data set: a loss of some samples, a validation error, and what is measured at the end.

A task holds its data, so that nothing else knows of splits. Networks see training samples through `Task.loss` alone and
are chosen by `Task.validation_error` alone; test samples serve `Task.test` and `Task.measure`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.experiments.engine.experiment import Metrics

Move = Callable[[Tensor], Tensor]


class Task(ABC):
    """One data set and what is asked of a network on it.

    Attributes:
        likelihood: of the loss, as `softeq.strength.rule` takes it.
        headline: the key in the metrics of what `test` gives, such as ``test_mse`` or ``test_accuracy``.
        keys: of what `measure` gives; NaN where a training diverged.
    """

    likelihood: ClassVar[str] = "gaussian"
    headline: str
    keys: tuple[str, ...]

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many training samples there are."""

    @abstractmethod
    def loss(self, model: nn.Module, rows: Tensor, motion: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The mean loss of some training samples, 0-d, and the output that it is of.

        Args:
            model: the network, in training mode.
            rows: ``(b,)`` indices on the CPU.
            motion: moves the samples anew, by the configuration's augmentation; None to take them as they are.
        """

    @abstractmethod
    def validation_error(self, model: nn.Module) -> float:
        """The error on validation samples, the lower the better, the model left in the mode that it was in."""

    def held_out_loss(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """The loss of some validation samples drawn by ``generator``, 0-d, with its graph: for rules that use it.

        Raises:
            SofteqValueError: the task has none.
        """
        raise SofteqValueError(f"rule: {type(self).__name__} gives no loss of validation samples, which it needs")

    def action(self, generator: torch.Generator) -> tuple[Move, Move]:
        """How one random element of the assumed group moves a batch of inputs, and of outputs.

        Raises:
            SofteqValueError: the task declares none.
        """
        raise SofteqValueError(f"rule: {type(self).__name__} declares no action on inputs and outputs, which it needs")

    @abstractmethod
    def test(self, model: nn.Module) -> float:
        """The number named by ``headline``, on test samples."""

    @abstractmethod
    def measure(self, model: nn.Module) -> Metrics:
        """Everything that the record says of a trained network, in evaluation mode; ``keys`` at least."""


def some_rows(x: Tensor, y: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most so many rows of inputs ``(N, ...)``, drawn without replacement, and their targets ``(N, ...)``."""
    rows = torch.randperm(len(x), generator=generator)[:most].to(x.device)
    return x[rows], y[rows]


def evaluated(model: nn.Module, x: Tensor, rows: int = 500) -> Tensor:
    """The outputs of ``(N, ...)`` inputs without gradients, so many at once, in evaluation mode and back."""
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in x.split(rows)])
    model.train(training)
    return outputs
