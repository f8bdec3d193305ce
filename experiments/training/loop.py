"""The one training loop: every arm of every comparison goes through it, so that arms differ in what they say alone.

The loss is the data's; the prior acts through its rule (`softeq.strength`): its step after the optimizer's.
How long it lasts and at which rates: `training.pace`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.experiments.engine.bookkeeping import rounded
from softeq.experiments.training.pace import LoopSettings, Pace
from softeq.experiments.training.task import Task

_WARM_UP_STEPS = 5  # left out of the time per step


@dataclass
class Training:
    """What a training leaves behind; the model has the last step's parameters.

    Attributes:
        steps: done.
        stopped: ``"steps"`` at the last of a fixed number or at the cap, ``"plateau"``, ``"diverged"``.
        validations: step and error of each validation.
        losses: the mean of the data's loss between validations.
        best_step, best_error, best_state: of the least validation error; 0, NaN and empty where there is none.
        seconds_per_step: the median.
        diverged_at_step: the step, from 1, whose loss was not finite.
        at_equal_steps: the test number at `LoopSettings.equal_steps`, or at the end of a training that ended before.
    """

    steps: int = 0
    stopped: str = "steps"
    validations: list[tuple[int, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    best_step: int = 0
    best_error: float = math.nan
    best_state: Mapping[str, Tensor] = field(default_factory=dict)
    seconds_per_step: float = math.nan
    diverged_at_step: int | None = None
    at_equal_steps: float = math.nan

    @property
    def error(self) -> float:
        """The validation error after the last step; NaN where the training diverged."""
        return math.nan if self.diverged_at_step or not self.validations else self.validations[-1][1]

    def to_record(self) -> dict[str, Any]:
        """What a record keeps of it."""
        return {
            "steps": self.steps,
            "stopped": self.stopped,
            "validation_error": rounded(self.error),
            "validation_errors": [[step, rounded(error)] for step, error in self.validations],
            "train_losses": [rounded(loss) for loss in self.losses],
            "best_step": self.best_step,
            "seconds_per_step": rounded(self.seconds_per_step),
            "diverged_at_step": self.diverged_at_step,
        }


class PriorRule(Protocol):
    """What the loop needs of a rule of `softeq.strength`."""

    def perturbed(self) -> AbstractContextManager[None]:
        """Around the forward pass."""

    def backward(self, loss: Tensor, output: Tensor) -> None:
        """In place of ``loss.backward()``."""

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """After the optimizer's."""


AfterValidation = Callable[[int, float], None]
"""Called as ``after_validation(step, error)``; may use the model, which comes back in training mode."""


def train(
    model: nn.Module,
    task: Task,
    settings: LoopSettings,
    order: torch.Generator,
    *,
    rule: PriorRule | None = None,
    motion: torch.Generator | None = None,
    compiled: bool = False,
    on_step: Callable[[], None] = lambda: None,
    after_validation: AfterValidation = lambda step, error: None,
) -> Training:
    """Train ``model`` in place; stops at a loss that is not finite.

    Args:
        model: on the task's device.
        task: what it learns.
        settings: how.
        order: draws the order of the samples.
        rule: of the prior; None for a network without one.
        motion: draws how samples are moved; None where they are not.
        compiled: whether ``torch.compile`` makes the forward and backward pass of a step; validation stays eager.
        on_step: called after each step.
        after_validation: see `AfterValidation`; its time is not counted.

    Raises:
        SofteqValueError: a rule that trains several priors in turns, under a schedule whose end is not known.
    """
    _check_schedule(settings, rule)
    optimizer, stepped = _optimizer(model, settings), compiled_whole(model) if compiled else model
    pace, training = Pace(settings), Training()
    batches, losses, durations = _batches(task.samples, settings.batch_size, order), [], []
    model.train()
    while training.steps < pace.total:
        began = time.perf_counter()
        loss = _step(stepped, task, next(batches), optimizer, pace.rate(training.steps), settings, rule, motion)
        training.steps += 1
        if not math.isfinite(loss):
            training.diverged_at_step, training.stopped = training.steps, "diverged"
            break
        durations.append(time.perf_counter() - began)
        losses.append(loss)
        on_step()
        last = training.steps == pace.total
        if training.steps == settings.equal_steps or (last and training.steps < (settings.equal_steps or 0)):
            training.at_equal_steps = task.test(model)
        if training.steps % settings.validate_every == 0 or last:
            training.losses.append(math.fsum(losses) / len(losses))
            losses.clear()
            error = _validate(model, task, training)
            after_validation(training.steps, error)
            model.train()
            pace.look(training.steps, error)
    training.stopped = "plateau" if pace.plateau and not training.diverged_at_step else training.stopped
    counted = durations[_WARM_UP_STEPS:] or durations
    training.seconds_per_step = median(counted) if counted else math.nan
    return training


def _check_schedule(settings: LoopSettings, rule: PriorRule | None) -> None:
    if settings.schedule == "plateau" and hasattr(rule, "alone"):
        raise SofteqValueError(
            "rule: halving trains several priors in turns over a known number of steps, which a plateau has not;"
            " expected schedule 'cosine' or 'constant'"
        )


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put parameters and buffers that `Training` kept back into the model."""
    own = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def compiled_whole(model: nn.Module) -> nn.Module:
    """The model with a compiled call; what does not compile whole is an error and never runs eagerly unsaid.

    Sets two of the compiler's options for the rest of the process.
    """
    # A process that works through a table meets every arm's network, each of which compiles the same code anew.
    torch._dynamo.config.recompile_limit = 64
    # Rules that probe read a graph twice, also where an arm without one has compiled the same code before.
    torch._functorch.config.donated_buffer = False
    return cast(nn.Module, torch.compile(model, fullgraph=True))


def _optimizer(model: nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.Adam(parameters, lr=settings.lr)


def _batches(samples: int, size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Rows without end: every pass over the samples in an order of its own."""
    while True:
        yield from torch.randperm(samples, generator=order).split(size)


def _step(
    model: nn.Module,
    task: Task,
    rows: Tensor,
    optimizer: torch.optim.Optimizer,
    lr: float,
    settings: LoopSettings,
    rule: PriorRule | None,
    motion: torch.Generator | None,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    if rule is None:
        loss, output = task.loss(model, rows, motion)
    else:
        with rule.perturbed():
            loss, output = task.loss(model, rows, motion)
    value = loss.item()
    if not math.isfinite(value):
        return value
    if rule is None:
        loss.backward()
    else:
        rule.backward(loss, output)
    if settings.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    if rule is not None:
        rule.step(optimizer)
    return value


def _validate(model: nn.Module, task: Task, training: Training) -> float:
    error = task.validation_error(model)
    training.validations.append((training.steps, error))
    if math.isfinite(error) and not error >= training.best_error:
        training.best_error, training.best_step = error, training.steps
        training.best_state = copy.deepcopy(model.state_dict())
    return error
