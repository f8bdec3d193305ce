"""Training: one function for every variant, so that all arms of a comparison differ in what they say and nothing else.

The loss is the mean squared error plus the negative log prior per training sample,
``MSE + prior_penalty(model, prior) / n_train``. Finzi, Benton, Wilson (NeurIPS 2021) write the same loss as
``MSE + residual_decay * sum ||w_residual||^2 + equivariant_decay * sum ||w_equivariant||^2``; `precision` converts.
Configurations speak of decays, so that they can be held against the published ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from softeq import Prior, prior_penalty
from softeq.errors import SofteqValueError
from softeq.experiments.engine.experiment import Progress
from softeq.experiments.training.task import Task, act
from softeq.prior import soft_layers

SCHEDULES = ("constant", "cosine")
SHRINKAGES = ("penalty", "proximal")
_WARM_UP_STEPS = 5
_PROGRESS_CALLS = 200


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained; the defaults are the paper's for the moment of inertia.

    Args:
        epochs: passes over the training data.
        batch_size: rows per step; the last batch of an epoch may be smaller.
        lr: Adam's learning rate at the first step.
        schedule: ``"constant"``, or ``"cosine"``: from ``lr`` to 0 along half a cosine over all steps.
        equivariant_decay: of the equivariant pathways' parameters, in units of the published weight decays (above).
        residual_decay: of the residual pathways' parameters; of every parameter where the network has no soft layer.
        shrinkage: ``"penalty"`` puts both decays into the loss, as published. ``"proximal"`` keeps the residual one
            out of it and instead, after each Adam step, divides the residual parameters by ``1 + 2 lr residual_decay``:
            Adam divides a gradient by its own size, so a large penalty moves every weight by ``lr`` whatever it
            weighs, and weights that should vanish jitter at that size. This shrinkage is decoupled from Adam's scale,
            as AdamW's is, so its decay is no longer the prior's precision in the loss's units.
        augment: move every batch by fresh random elements of the assumed group.
        validate_every: epochs between two validations; the last epoch is always validated.

    Raises:
        SofteqValueError: for a value outside its range.
    """

    epochs: int = 300
    batch_size: int = 500
    lr: float = 3e-3
    schedule: str = "constant"
    equivariant_decay: float = 0.0
    residual_decay: float = 0.0
    shrinkage: str = "penalty"
    augment: bool = False
    validate_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise SofteqValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("lr", "equivariant_decay", "residual_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SofteqValueError(f"{name}: expected a finite number of at least 0, got {getattr(self, name)}")
        for name, known in (("schedule", SCHEDULES), ("shrinkage", SHRINKAGES)):
            if getattr(self, name) not in known:
                raise SofteqValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")


@dataclass
class FitResult:
    """What a training leaves behind.

    ``last`` and ``best`` are copies of the parameters in the order of ``model.parameters()``; ``best`` is of the
    validated epoch with the lowest validation error. Both errors are NaN and ``best`` is empty where no validation
    gave a finite one. ``best_epoch`` counts from 1, and is 0 where there is none. ``diverged_at`` is the step, from 1,
    whose loss was not finite; training stops there and ``last`` holds the parameters that gave that loss.
    """

    last: list[Tensor] = field(default_factory=list)
    best: list[Tensor] = field(default_factory=list)
    best_epoch: int = 0
    validation_mse: float = math.nan
    validation_mse_best: float = math.nan
    seconds_per_step: float = math.nan
    diverged_at: int | None = None


def precision(decay: float, n_train: int) -> float:
    """The prior precision, in nats for the whole data set, that a published weight decay stands for: 2 n_train decay.

    ``decay * ||w||^2 == (1/2 * precision * ||w||^2) / n_train``.
    """
    return 2.0 * n_train * decay


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Weights that a prior drives to zero pass through denormal numbers, which cost a CPU four times the time."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@_denormals_flushed()
def fit(
    model: nn.Module, task: Task, settings: FitSettings, generator: torch.Generator, progress: Progress | None = None
) -> FitResult:
    """Train ``model`` in place by Adam and leave it with the last step's parameters.

    Args:
        model: ``(B, task.rep_in.size)`` to predictions of the targets' shape, on the data's device.
        task: the problem.
        settings: how.
        generator: on the CPU; draws the order of the rows and the group elements of the augmentation.
        progress: called with the steps done and the total, at most about 200 times.

    Raises:
        SofteqValueError: for proximal shrinkage of a model without residual pathway.
    """
    penalty = _penalty(model, task, settings)
    shrunk = _residual_parameters(model) if settings.shrinkage == "proximal" else []
    # One fused kernel; the update is Adam's as published.
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    steps_per_epoch = math.ceil(len(task.data.x_train) / settings.batch_size)
    total = settings.epochs * steps_per_epoch
    report = _reporter(progress, total)
    result, step = FitResult(), 0
    durations: list[float] = []
    model.train()
    for epoch in range(1, settings.epochs + 1):
        for rows in _batches(len(task.data.x_train), settings.batch_size, generator):
            began = time.perf_counter()
            lr = _learning_rate(settings, step, total)
            loss = _loss(model, task, rows, settings, generator) + penalty()
            step += 1
            if not math.isfinite(loss.item()):
                result.diverged_at = step
                return _finish(model, result, durations)
            _update(optimizer, loss, lr, shrunk, settings.residual_decay)
            durations.append(time.perf_counter() - began)
            report(step)
        if epoch % settings.validate_every == 0 or epoch == settings.epochs:
            _validate(model, task, epoch, result)
    return _finish(model, result, durations)


def mean_squared_error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The error over all rows and outputs, without gradients, the model in evaluation mode and back."""
    training = model.training
    model.eval()
    with torch.no_grad():
        error = mse_loss(model(x), y).item()
    model.train(training)
    return error


def load_parameters(model: nn.Module, values: list[Tensor]) -> None:
    """Put a copy that `FitResult` holds back into the model."""
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)


def is_soft(model: nn.Module) -> bool:
    """Whether the model has a soft layer, so that the prior over pathways applies."""
    return any(True for _ in soft_layers(model))


def _residual_parameters(model: nn.Module) -> list[nn.Parameter]:
    # A dictionary keeps the order and drops what two layers share.
    found = {
        parameter: None
        for _, layer in soft_layers(model)
        if "residual" in layer.pathways
        for parameter in layer.pathways["residual"].parameters()
    }
    if not found:
        raise SofteqValueError("shrinkage='proximal' needs a residual pathway and the model has none: use 'penalty'")
    return list(found)


def _penalty(model: nn.Module, task: Task, settings: FitSettings) -> Callable[[], Tensor]:
    """The negative log prior per training sample, as a function to call at every step."""
    n = len(task.data.x_train)
    residual = 0.0 if settings.shrinkage == "proximal" else precision(settings.residual_decay, n)
    if is_soft(model):
        prior = Prior(equivariant=precision(settings.equivariant_decay, n), residual=residual)
        return lambda: prior_penalty(model, prior) / n
    parameters = list(model.parameters())

    def plain() -> Tensor:
        # One dot product per parameter reads it once, as prior_penalty does: timings stay comparable.
        return (0.5 * residual / n) * torch.stack([torch.dot(p.flatten(), p.flatten()) for p in parameters]).sum()

    return plain


def _batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    yield from torch.randperm(n, generator=generator).split(batch_size)


def _loss(model: nn.Module, task: Task, rows: Tensor, settings: FitSettings, generator: torch.Generator) -> Tensor:
    rows = rows.to(task.data.x_train.device)
    x, y = task.data.x_train[rows], task.data.y_train[rows]
    if settings.augment:
        g = task.sample(len(x), generator)
        x, y = act(task.rep_in, g, x), act(task.rep_out, g, y)
    return mse_loss(model(x), y)


def _learning_rate(settings: FitSettings, step: int, total: int) -> float:
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (1 + math.cos(math.pi * step / total)) / 2


def _update(
    optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, shrunk: list[nn.Parameter], decay: float
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if shrunk:
        with torch.no_grad():
            for parameter in shrunk:
                parameter.div_(1 + 2 * lr * decay)


def _validate(model: nn.Module, task: Task, epoch: int, result: FitResult) -> None:
    error = mean_squared_error(model, task.data.x_validation, task.data.y_validation)
    result.validation_mse = error
    if math.isfinite(error) and not error >= result.validation_mse_best:
        result.validation_mse_best, result.best_epoch = error, epoch
        result.best = _copy(model)


def _finish(model: nn.Module, result: FitResult, durations: list[float]) -> FitResult:
    result.last = _copy(model)
    if result.diverged_at is not None:
        result.validation_mse = math.nan
    counted = durations[_WARM_UP_STEPS:] or durations
    result.seconds_per_step = median(counted) if counted else math.nan
    return result


def _copy(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def _reporter(progress: Progress | None, total: int) -> Callable[[int], None]:
    every = max(1, total // _PROGRESS_CALLS)

    def report(step: int) -> None:
        if progress is not None and (step % every == 0 or step == total):
            progress(step, total)

    return report
