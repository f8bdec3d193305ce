"""What a network learns and how it is measured at one point of the dial of ``rotation`` and ``translation``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from softeq.experiments.data.dial import Dial, Dialled, Stage, dialled
from softeq.experiments.data.images import LabelledImages, load_images
from softeq.experiments.engine.bookkeeping import DATA, MEASURE, dtype_of, generator_for, rounded
from softeq.experiments.engine.experiment import Config, Metrics
from softeq.experiments.images.tasks import TRANSLATIONS, ImageTask, accuracy, measure_lee
from softeq.experiments.training.regression import defects

FLOWS: Mapping[str, tuple[str, ...]] = {"rotation": ("rotation",), "translation": TRANSLATIONS}
"""Along which flows a kind of motion is measured; the mean over them counts."""


class DialTask(ImageTask):
    """The images at a point of the dial.

    Args:
        moved: the images, transformed.
        kind: ``"rotation"`` or ``"translation"``.
        measurement: see `ImageTask`.
    """

    def __init__(self, moved: Dialled, kind: str, measurement: Mapping[str, Any]) -> None:
        super().__init__(moved.data, measurement, moved.augment, headline="accuracy")
        self.moved, self.kind = moved, kind
        self.keys = ("accuracy", "moved_accuracy", "defect", "lee", "lee_ratio")

    def measure(self, model: nn.Module) -> Metrics:
        """``accuracy``; ``moved_accuracy`` under the widest motion; ``defect``, the mean over layers of
        ``weight_defect``; ``lee`` and ``lee_ratio`` along the dial's own motion; ``best_invariant_accuracy``."""
        found = defects(model)
        return {
            "accuracy": self.test(model),
            "moved_accuracy": accuracy(model, self.moved.x_moved, self.moved.y_moved),
            "defect": rounded(found["weight_defect_mean"]),
            "weight_defect": {name: rounded(value) for name, value in found["weight_defect"].items()},
            "best_invariant_accuracy": self.moved.best_invariant_accuracy,
            **measure_lee(model, self.data.x_test, self.measurement, FLOWS[self.kind]),
        }


def task_of(config: Config, point: Mapping[str, Any]) -> DialTask:
    """The task at a point: ``name``, ``data``, ``sizes``, ``reach`` and ``breaking``; see `Dial`."""
    data, dial = config["data"], Dial(config["data"]["kind"], point["reach"], point["breaking"])
    images = _images(point["data"], tuple(point["sizes"]), config["seed"], dtype_of(config)).to(config["device"])
    stage = Stage(dial, data["side"], data["canvas"])
    moved = dialled(images, stage, data["widest"], generator_for(config["seed"], MEASURE))
    return DialTask(moved, data["kind"], config["measurement"])


@functools.lru_cache(maxsize=4)  # the variants of a seed have the same images, and digits take a second to read
def _images(name: str, sizes: tuple[int, int, int], seed: int, dtype: torch.dtype) -> LabelledImages:
    return load_images(name, sizes, generator_for(seed, DATA), dtype)
