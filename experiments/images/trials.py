"""Trials of a classifier of images: train each alike, keep its best epoch, let validation data choose, then measure.

Shared by ``cifar10``, ``fashion-mnist`` and ``soften``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from softeq import weight_defect
from softeq.errors import SofteqValueError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine.bookkeeping import rounded
from softeq.experiments.engine.experiment import Config, Metrics
from softeq.experiments.images.classification import Training, accuracy
from softeq.experiments.images.run import measure_lee
from softeq.prior import soft_layers

Trial = dict[str, Any]


@dataclass
class BestEpoch:
    """Looks on at a training: the parameters of the epoch with the highest validation accuracy, and the time per step.

    Args:
        model: that is trained; the first of equally good epochs is kept.
        on_step: called after each step.
    """

    model: nn.Module
    on_step: Callable[[], None] = lambda: None
    best_accuracy: float = -1.0
    best_epoch: int = 0
    best_state: Mapping[str, Tensor] = field(default_factory=dict)
    _moments: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def step(self) -> None:
        """To be called after each step."""
        self._moments.append(time.perf_counter())
        self.on_step()

    def epoch(self, number: int, validation_accuracy: float) -> None:
        """To be called after each epoch."""
        if validation_accuracy > self.best_accuracy:
            self.best_accuracy, self.best_epoch = validation_accuracy, number
            self.best_state = copy.deepcopy(self.model.state_dict())

    @property
    def seconds_per_step(self) -> float:
        """The median, from one step's end to the next one's, the first from the start; NaN before the first."""
        taken = [after - before for before, after in zip(self._moments[:-1], self._moments[1:], strict=True)]
        return median(taken) if taken else math.nan


@dataclass(frozen=True)
class Trained:
    """A network after one trial, with its last parameters."""

    model: nn.Module
    trial: Trial
    training: Training
    watch: BestEpoch

    @property
    def reached(self) -> float:
        """The last epoch's validation accuracy; below 0 where the training diverged."""
        return -1.0 if self.training.diverged_at_step else self.training.validation_accuracy[-1]

    def to_record(self) -> Trial:
        """What a record keeps of it."""
        return {**self.trial, **self.training.to_record()}


def chosen(trained: Sequence[Trained]) -> int:
    """The index of the one with the highest validation accuracy after the last epoch; of equal ones the first."""
    return max(range(len(trained)), key=lambda k: trained[k].reached)


MEASURED = ("test_accuracy", "test_accuracy_best_validation", "weight_defect_mean", "lee", "lee_ratio")


def measure(trained: Sequence[Trained], data: LabelledImages, config: Config) -> Metrics:
    """What a record says of the chosen trial, with all trials beside it; NaN where all of them diverged.

    ``test_accuracy`` and ``shifted_accuracy_R`` (under shifts by up to R pixels) are of the last epoch,
    ``test_accuracy_best_validation`` of the best one; ``lee`` and ``lee_ratio`` see `image_run.measure_lee`;
    ``weight_defect`` per soft layer and its mean where there are soft layers.

    Args:
        trained: at least one.
        data: whose test split is used.
        config: of the run: ``measurement`` with ``shifts``, a list of R, beside what `measure_lee` needs.
    """
    index = chosen(trained)
    best, how = trained[index], config["measurement"]
    shifts = {f"shifted_accuracy_{reach}": reach for reach in how["shifts"]}
    metrics: Metrics = {
        "chosen": index,
        "trials": [one.to_record() for one in trained],
        "parameters": sum(p.numel() for p in best.model.parameters()),
        "seconds_per_step": rounded(best.watch.seconds_per_step),
        "best_epoch": best.watch.best_epoch,
        "diverged_at_step": best.training.diverged_at_step,
    }
    if best.training.diverged_at_step:
        return metrics | dict.fromkeys((*MEASURED, *shifts), math.nan)
    x, y = data.x_test, data.y_test
    generator = torch.Generator().manual_seed(how["seed"])  # the same shifts for every network
    moved = {key: shifted_at_random(x, reach, -data.mean / data.std, generator) for key, reach in shifts.items()}
    metrics |= {"test_accuracy": accuracy(best.model, x, y)}
    metrics |= {key: accuracy(best.model, images, y) for key, images in moved.items()}
    metrics |= defects(best.model) | measure_lee(best.model, x, {**config, "kind": "translation"})
    last = copy.deepcopy(best.model.state_dict())
    best.model.load_state_dict(best.watch.best_state)
    metrics["test_accuracy_best_validation"] = accuracy(best.model, x, y)
    best.model.load_state_dict(last)
    return metrics


def defects(model: nn.Module) -> Metrics:
    """``weight_defect`` per soft layer and ``weight_defect_mean``; empty for a network without soft layers."""
    if not any(True for _ in soft_layers(model)):
        return {}
    found = {name: rounded(float(value)) for name, value in weight_defect(model).items()}
    return {"weight_defect": found, "weight_defect_mean": rounded(math.fsum(found.values()) / len(found))}


def shifted(x: Tensor, shifts: Tensor, fill: float) -> Tensor:
    """Images ``(N, C, H, W)`` moved by ``(N, 2)`` whole pixels down and right; ``fill`` comes in from outside.

    Raises:
        SofteqValueError: shifts of another shape, or not whole.
    """
    if shifts.shape != (len(x), 2) or shifts.is_floating_point():
        raise SofteqValueError(
            f"shifts: expected whole numbers of shape ({len(x)}, 2), got {shifts.dtype} {tuple(shifts.shape)}"
        )
    if not len(x):
        return x
    n, _, height, width = x.shape
    reach = int(shifts.abs().max())
    padded = nn.functional.pad(x, (reach, reach, reach, reach), value=fill)
    start = reach - shifts.to(x.device)
    rows = (start[:, :1] + torch.arange(height, device=x.device))[:, :, None]
    columns = (start[:, 1:] + torch.arange(width, device=x.device))[:, None, :]
    # The indices stand on both sides of the colon: the axes that they make come first, the channels last.
    return padded[torch.arange(n, device=x.device)[:, None, None], :, rows, columns].movedim(-1, 1).contiguous()


def shifted_at_random(x: Tensor, reach: int, fill: float, generator: torch.Generator) -> Tensor:
    """Images moved by independent uniform shifts in [-reach, reach] pixels; the generator is on the CPU."""
    return shifted(x, torch.randint(-reach, reach + 1, (len(x), 2), generator=generator), fill)


def flip_and_crop(x: Tensor, reach: int, fill: float, generator: torch.Generator) -> Tensor:
    """The usual augmentation of CIFAR: each image mirrored left to right with probability 1/2, then shifted."""
    mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
    return shifted_at_random(torch.where(mirrored[:, None, None, None], x.flip(-1), x), reach, fill, generator)
