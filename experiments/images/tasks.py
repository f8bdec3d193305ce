"""Classifying images: the task of every comparison on them, and what is measured of a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine.bookkeeping import rounded
from softeq.experiments.engine.experiment import Metrics
from softeq.experiments.images.shifts import shifted_at_random
from softeq.experiments.training.regression import defects
from softeq.experiments.training.task import Task, evaluated, some_rows
from softeq.measure.errors import NotMeasurable
from softeq.measure.lee import local_equivariance_error
from softeq.measure.results.statistics import quantile

TRANSLATIONS = ("translation_x", "translation_y")


@dataclass
class ImageTask(Task):
    """Images to classes, by the cross-entropy.

    Args:
        data: images and labels.
        measurement: ``images`` to take Lie derivatives of, ``shifts`` (a list of reaches in pixels), ``stencil``,
            ``boundary``, ``seed`` and ``batch_size``.
        motion: training images of some rows, transformed anew; None where there is no such augmentation.
    """

    likelihood: ClassVar[str] = "categorical"

    data: LabelledImages
    measurement: Mapping[str, Any]
    motion: Callable[[Tensor, torch.Generator], Tensor] | None = None
    headline: str = "test_accuracy"

    def __post_init__(self) -> None:
        shifts = [f"shifted_accuracy_{reach}" for reach in self.measurement.get("shifts", ())]
        self.keys = ("test_accuracy", *shifts, "weight_defect_mean", "lee", "lee_ratio")

    @property
    def samples(self) -> int:
        """Training images."""
        return len(self.data.x_train)

    def loss(self, model: nn.Module, rows: Tensor, motion: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The cross-entropy of some images."""
        rows = rows.to(self.data.x_train.device)
        moved = motion is not None and self.motion is not None
        output = model(self.motion(rows, motion) if moved else self.data.x_train[rows])  # type: ignore[misc, arg-type]
        return cross_entropy(output, self.data.y_train[rows]), output

    def validation_error(self, model: nn.Module) -> float:
        """The share of validation images that it gets wrong."""
        return 1 - accuracy(model, self.data.x_validation, self.data.y_validation)

    def held_out_loss(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """Of up to 256 validation images."""
        x, y = some_rows(self.data.x_validation, self.data.y_validation, 256, generator)
        return cross_entropy(model(x), y)

    def test(self, model: nn.Module) -> float:
        """``test_accuracy``."""
        return accuracy(model, self.data.x_test, self.data.y_test)

    def measure(self, model: nn.Module) -> Metrics:
        """``test_accuracy`` and ``shifted_accuracy_R`` (test images shifted by up to R pixels); weight defects where
        there are soft layers; ``lee`` and ``lee_ratio`` under translations, see `measure_lee`."""
        data, how = self.data, self.measurement
        generator = torch.Generator().manual_seed(how["seed"])  # the same shifts for every network
        metrics: Metrics = {"test_accuracy": self.test(model)}
        for reach in how.get("shifts", ()):
            moved = shifted_at_random(data.x_test, reach, -data.mean / data.std, generator)
            metrics[f"shifted_accuracy_{reach}"] = accuracy(model, moved, data.y_test)
        return metrics | defects(model) | measure_lee(model, data.x_test, how, TRANSLATIONS)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images ``(N, C, H, W)`` whose largest logit is their label, in [0, 1]; in evaluation mode.

    The model comes back in the mode that it was in. Logits that are not finite count as wrong.
    """
    logits = evaluated(model, x)
    right = (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)
    return int(right.sum()) / len(x)


def measure_lee(model: nn.Module, images: Tensor, how: Mapping[str, Any], flows: tuple[str, ...]) -> Metrics:
    """``lee``: mean over images of ||Lf||^2 / ||f||^2 of the logits; ``lee_ratio``: median of it over that of noise.

    Lf is the Lie derivative along the flows, whose mean counts. What cannot be measured is absent and the reason stands
    in ``not_measurable``.

    Args:
        model: in evaluation mode.
        images: the first ``how["images"]`` are taken.
        how: see `ImageTask`.
        flows: names of `softeq.measure.FLOWS`.
    """
    options = {name: how[name] for name in ("stencil", "boundary", "seed", "batch_size")}
    try:
        result = local_equivariance_error(
            model, images[: how["images"]], flows, output="logits", norm="relative", **options
        )
    except NotMeasurable as error:
        return {"not_measurable": str(error)}
    ratios = [quantile(column, 0.5) for column in result.ratio_to_control().T]
    return {
        "lee": rounded(float(result.per_sample().nanmean())),
        "lee_ratio": rounded(math.fsum(ratios) / len(ratios)),
    }
