"""Training a classifier: cross-entropy by AdamW with a warm-up and a cosine, and the choice of its learning rate.

Every model of a comparison is trained by this one function and has its learning rate chosen among the same candidates
by the same number of epochs on validation data, so that what differs between the models is the models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from softeq.errors import SofteqValueError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine.bookkeeping import rounded

_BATCH = 500  # rows at once where no gradient is taken

AfterEpoch = Callable[[int, float], None]
"""Called as ``after_epoch(epoch, validation_accuracy)``; epochs count from 1."""


@dataclass(frozen=True)
class TrainSettings:
    """How a classifier is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images per step; the last step of an epoch may have fewer.
        lr: AdamW's learning rate at its highest.
        weight_decay: AdamW's, decoupled, on every parameter.
        warmup: share of all steps over which the rate rises from 0 in a line; from there it falls to 0 in a cosine.
        clip: the gradient's largest Euclidean norm.

    Raises:
        SofteqValueError: for a value outside its range.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise SofteqValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise SofteqValueError(f"{name}: expected a finite number above 0, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise SofteqValueError(f"weight_decay: expected a finite number of at least 0, got {self.weight_decay}")
        if not 0 <= self.warmup < 1:
            raise SofteqValueError(f"warmup: expected a share of the steps, 0 <= warmup < 1, got {self.warmup}")


@dataclass
class Training:
    """What a training leaves behind: one entry per finished epoch, and the step, from 1, whose loss was not finite."""

    train_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0
    diverged_at_step: int | None = None

    def to_record(self) -> dict[str, Any]:
        """What a record keeps of it."""
        return {
            "validation_accuracies": self.validation_accuracy,
            "train_losses": [rounded(loss) for loss in self.train_loss],
            "diverged_at_step": self.diverged_at_step,
            "seconds": round(self.seconds, 3),
        }


def train(
    model: nn.Module,
    data: LabelledImages,
    settings: TrainSettings,
    generator: torch.Generator,
    *,
    after_epoch: AfterEpoch | None = None,
    on_step: Callable[[], None] | None = None,
    penalty: Callable[[], Tensor] | None = None,
    images: Callable[[Tensor], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Training:
    """Train ``model`` in place and leave it with the last step's parameters; stops at a loss that is not finite.

    Args:
        model: ``(B, C, H, W)`` to logits ``(B, classes)``, on the data's device.
        data: what it learns from; validation images are only looked at.
        settings: how.
        generator: on the CPU; draws the order of the images.
        after_epoch: may use the model, which it gets back in training mode; its time is not counted.
        on_step: called after each step.
        penalty: 0-d, added to every loss, such as ``prior_penalty(model, prior) / n`` for n training images.
        images: the inputs of some rows of the training split, as for augmentation; its own images by default.
        optimizer: of the model's parameters, AdamW as the settings say by default; its rates are set at each step.
    """
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps_per_epoch = math.ceil(len(data.x_train) / settings.batch_size)
    total = settings.epochs * steps_per_epoch
    training, step = Training(), 0
    for epoch in range(1, settings.epochs + 1):
        began, losses = time.perf_counter(), []
        model.train()
        for rows in torch.randperm(len(data.x_train), generator=generator).split(settings.batch_size):
            rows = rows.to(data.x_train.device)
            loss = cross_entropy(model(data.x_train[rows] if images is None else images(rows)), data.y_train[rows])
            if penalty is not None:
                loss = loss + penalty()
            losses.append(loss.item())
            step += 1
            if not math.isfinite(losses[-1]):
                training.diverged_at_step = step
                return training
            _update(model, optimizer, loss, learning_rate(settings, step, total), settings.clip)
            if on_step is not None:
                on_step()
        training.train_loss.append(math.fsum(losses) / len(losses))
        training.validation_accuracy.append(accuracy(model, data.x_validation, data.y_validation))
        training.seconds += time.perf_counter() - began
        if after_epoch is not None:
            after_epoch(epoch, training.validation_accuracy[-1])
    return training


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, clip: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def learning_rate(settings: TrainSettings, step: int, total: int) -> float:
    """The rate of a step, counted from 1: a line from 0 up to ``lr``, then half a cosine down to 0 after the last."""
    rise = settings.warmup * total
    if step < rise:
        return settings.lr * step / rise
    return settings.lr * (1 + math.cos(math.pi * (step - rise) / (total - rise + 1))) / 2


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images ``(N, C, H, W)`` whose largest logit is their label, in [0, 1]; in evaluation mode.

    The model comes back in the mode that it was in. Logits that are not finite count as wrong.
    """
    training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
            logits = model(images)
            finite = logits.isfinite().all(dim=1)
            right += int(((logits.argmax(dim=1) == labels) & finite).sum())
    model.train(training)
    return right / len(x)


def choose_learning_rate(
    build: Callable[[], nn.Module],
    data: LabelledImages,
    settings: TrainSettings,
    candidates: Sequence[float],
    generator: Callable[[], torch.Generator],
    *,
    on_step: Callable[[], None] | None = None,
) -> tuple[float, list[dict[str, Any]]]:
    """The candidate with the highest validation accuracy after ``settings.epochs``; of equal ones the first.

    Every candidate starts from the same parameters and sees the images in the same order.

    Args:
        build: makes the network anew, the same each time.
        data: training and validation images are used, test images are not.
        settings: of a trial; its ``lr`` is replaced.
        candidates: learning rates, at least one.
        generator: makes the same stream each time, for the order of the images.
        on_step: called after each step.

    Returns:
        the rate, and the trials: ``lr``, ``validation_accuracy`` per epoch and ``diverged_at_step`` of each. A trial
        that diverged is never chosen unless all did; then the first candidate is returned.

    Raises:
        SofteqValueError: no candidates.
    """
    if not candidates:
        raise SofteqValueError("candidates: expected at least one learning rate, got none")
    trials, reached = [], []
    for lr in candidates:
        result = train(build(), data, replace(settings, lr=lr), generator(), on_step=on_step)
        diverged = result.diverged_at_step
        trials.append({"lr": lr, "validation_accuracy": result.validation_accuracy, "diverged_at_step": diverged})
        reached.append(-1.0 if diverged else result.validation_accuracy[-1])
    return candidates[reached.index(max(reached))], trials
