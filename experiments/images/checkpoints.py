"""The equivariance of a network while it is trained: what is measured after which epoch, and what is kept of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from softeq.experiments.data.images import LabelledImages
from softeq.experiments.engine.bookkeeping import rounded
from softeq.experiments.engine.experiment import Config, Metrics
from softeq.experiments.images.tasks import accuracy
from softeq.experiments.training.loop import Training
from softeq.measure.errors import NotMeasurable
from softeq.measure.lee import local_equivariance_error
from softeq.measure.motion.flows import FLOWS
from softeq.measure.results.statistics import quantile

QUANTITIES = ("relative", "relative_median", "mean_square", "ratio_to_control")
"""What is kept of a measurement, per flow; see `summarise`."""


class Checkpoints:
    """Called after every epoch: measures at the epochs that are asked for, and at the first that reaches the target.

    When a training ends is not known before: `finish` measures the last epoch.

    Attributes:
        checkpoints: ``epoch``, ``validation_accuracy``, ``test_accuracy`` and ``lee`` (see `measure_model`) of each.
        matched_epoch: the first whose validation accuracy is the target or more; None so far.
        latest: the epoch of the latest call and its validation accuracy.
        seconds: spent here.
    """

    def __init__(self, model: nn.Module, data: LabelledImages, config: Config) -> None:
        self.model, self.data, self.how = model, data, config["measurement"]
        self.target: float = config["target_accuracy"]
        self.checkpoints: list[dict[str, Any]] = []
        self.matched_epoch: float | None = None
        self.latest: tuple[float, float] | None = None
        self.seconds = 0.0

    def __call__(self, epoch: float, validation_accuracy: float) -> None:
        """Measure if this epoch is one to measure; the last may be a part of one."""
        self.latest = (epoch, validation_accuracy)
        reached = self.matched_epoch is None and validation_accuracy >= self.target
        if reached:
            self.matched_epoch = epoch
        if reached or epoch in self.how["epochs"]:
            self._measure(epoch, validation_accuracy)

    def finish(self) -> None:
        """Measure the latest epoch, unless it has been: the training ended with it, and not because it diverged."""
        if self.latest is not None and self.at(self.latest[0]) is None:
            self._measure(*self.latest)

    def _measure(self, epoch: float, validation_accuracy: float) -> None:
        began = time.perf_counter()
        self.checkpoints.append(
            {
                "epoch": epoch,
                "validation_accuracy": validation_accuracy,
                "test_accuracy": accuracy(self.model, self.data.x_test, self.data.y_test),
                "lee": measure_model(self.model, self.data.x_test[: self.how["images"]], self.how),
            }
        )
        self.seconds += time.perf_counter() - began

    def at(self, epoch: float | None) -> dict[str, Any] | None:
        """The checkpoint of an epoch, None where there is none."""
        return next((c for c in self.checkpoints if c["epoch"] == epoch), None)


def measure_model(model: nn.Module, images: Tensor, how: Mapping[str, Any]) -> dict[str, Any]:
    """The local equivariance error of all nine flows: ``[stencil][output]`` to a `summarise`, all over one random draw.

    What cannot be measured (outputs that are not finite, or constant) stands there as ``{"not_measurable": reason}``.
    """
    found: dict[str, Any] = {}
    options = {name: how[name] for name in ("boundary", "margin", "seed", "batch_size")}
    for stencil in how["stencils"]:
        found[stencil] = {}
        for output in how["outputs"]:
            try:
                result = local_equivariance_error(model, images, output=output, stencil=stencil, **options)
            except NotMeasurable as error:
                found[stencil][output] = {"not_measurable": str(error)}
            else:
                found[stencil][output] = summarise(result.values, result.ratio_to_control())
    return found


def summarise(values: Mapping[str, Tensor], ratios: Tensor) -> dict[str, list[float]]:
    """Per flow, over the images that could be measured, to five digits.

    Args:
        values: ``relative`` (||Lf||^2 / ||f||^2) and ``mean_square`` (Gruver et al., Eq. 4), (B, n_flows) each.
        ratios: (B, n_flows), each image's error over that of white noise of the same size.

    Returns:
        ``relative`` and ``mean_square``: means; ``relative_median`` and ``ratio_to_control``: medians.
    """

    def medians(table: Tensor) -> list[float]:
        return [rounded(quantile(column, 0.5)) for column in table.T]

    means = {norm: [rounded(v) for v in values[norm].nanmean(0).tolist()] for norm in ("relative", "mean_square")}
    return {**means, "relative_median": medians(values["relative"]), "ratio_to_control": medians(ratios)}


def translation(
    checkpoint: Mapping[str, Any] | None, stencil: str, output: str = "logits", quantity: str = "relative"
) -> float:
    """The mean over both translations (per pixel squared; dimensionless for the ratio), NaN where there is none."""
    entry = {} if checkpoint is None else checkpoint["lee"].get(stencil, {}).get(output, {})
    if quantity not in entry:
        return math.nan
    pair = [entry[quantity][list(FLOWS).index(name)] for name in ("translation_x", "translation_y")]
    return math.fsum(pair) / 2


def headline(watch: Checkpoints, training: Training) -> Metrics:
    """The numbers of the table: of the last epoch, and of the epoch that reached the common accuracy, where one did.

    A training that diverged has none of its last epoch, nor at equal steps.
    """
    last = None if training.diverged_at_step else watch.checkpoints[-1]
    matched = watch.at(watch.matched_epoch)
    metrics: Metrics = {
        "test_accuracy": math.nan if last is None else last["test_accuracy"],
        "test_accuracy_equal_steps": math.nan if last is None else training.at_equal_steps,
    }
    for stencil in watch.how["stencils"]:
        metrics[f"translation_lee_{stencil}"] = translation(last, stencil)
        metrics[f"translation_ratio_{stencil}"] = translation(last, stencil, quantity="ratio_to_control")
        if matched is not None:
            metrics[f"matched_translation_lee_{stencil}"] = translation(matched, stencil)
    return metrics
