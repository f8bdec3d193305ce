"""One run of ``rotation`` or ``translation``: every point of the dial for one variant, size and seed.

At a point the variant's trials are trained alike: the same data, start, order and number of steps. The one with the
highest validation accuracy counts, and all are kept in the record.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from softeq import Prior, prior_penalty, weight_defect
from softeq.errors import SofteqValueError
from softeq.experiments.data.dial import Dial, Dialled, Stage, dialled
from softeq.experiments.data.images import LabelledImages, load_images
from softeq.experiments.engine.bookkeeping import counter, generator_for, rounded
from softeq.experiments.engine.experiment import Config, Metrics, Progress
from softeq.experiments.images.classification import Training, TrainSettings, accuracy, train
from softeq.measure.errors import NotMeasurable
from softeq.measure.lee import local_equivariance_error
from softeq.measure.results.statistics import quantile
from softeq.models import build

FLOWS: Mapping[str, tuple[str, ...]] = {
    "rotation": ("rotation",),
    "translation": ("translation_x", "translation_y"),
}
"""Along which flows a kind of motion is measured; the mean over them counts."""


def run(config: Config, progress: Progress) -> Metrics:
    """Train and measure at every point. A training that diverged is never chosen; if all did, the numbers are NaN."""
    points = config["points"]
    steps = sum(_steps(config, name) for name in (point["data"] for point in points)) * len(config["trials"])
    on_step = counter(progress, steps)
    metrics: Metrics = {"points": {}}
    for point in points:
        name = point["data"]
        images = _images(name, tuple(config["sizes"][name]), config["seed"], _dtype(config))
        found = run_point(images, point, config, on_step)
        metrics["points"][point["name"]] = found
        for key in ("accuracy", "moved_accuracy", "defect", "lee", "lee_ratio"):
            if key in found:
                metrics[f"{key}@{point['name']}"] = found[key]
    metrics["parameters"] = next(iter(metrics["points"].values()))["parameters"]
    return metrics


def run_point(
    images: LabelledImages, point: Mapping[str, Any], config: Config, on_step: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Everything about one point: ``accuracy``, ``moved_accuracy``, ``defect``, ``lee``, the trials.

    Args:
        images: its images.
        point: ``name``, ``data``, ``reach`` and ``breaking``; see `Dial`.
        config: of the run.
        on_step: called after each step of a training.
    """
    began = time.perf_counter()
    device = torch.device(config["device"])
    dial = Dial(config["kind"], point["reach"], point["breaking"])
    stage = Stage(dial, config["side"], config["canvas"])
    moved = dialled(images.to(device), stage, config["widest"], generator_for(config["seed"], 2))
    trained = [_train(moved, trial, config, on_step) for trial in config["trials"]]
    reached = [-1.0 if t.training.diverged_at_step else t.training.validation_accuracy[-1] for t in trained]
    best = reached.index(max(reached))
    found = {
        **_measured(trained[best], moved, config),
        "best_invariant_accuracy": moved.best_invariant_accuracy,
        "chosen": best,
        "trials": [t.to_record() for t in trained],
        "parameters": sum(p.numel() for p in trained[best].model.parameters()),
        "training_images": len(images.x_train),
    }
    return found | {"seconds": round(time.perf_counter() - began, 3)}


@dataclass(frozen=True)
class _Trained:
    """A network after one trial."""

    model: nn.Module
    trial: Mapping[str, Any]
    training: Training

    def to_record(self) -> dict[str, Any]:
        """What the record keeps of it."""
        return {**self.trial, **self.training.to_record()}


def _train(moved: Dialled, trial: Mapping[str, Any], config: Config, on_step: Callable[[], None]) -> _Trained:
    model = build_model(config)
    n = len(moved.data.x_train)
    settings = TrainSettings(**config["training"], lr=trial["lr"], weight_decay=trial["weight_decay"])
    prior = None if trial["prior"] is None else Prior(**trial["prior"])
    drawn = generator_for(config["seed"], 3)
    data = repeated(moved.data, config["rows_per_epoch"])
    training = train(
        model,
        data,
        settings,
        generator_for(config["seed"], 4),
        on_step=on_step,
        penalty=None if prior is None else lambda: prior_penalty(model, prior) / n,
        images=(lambda rows: moved.augment(rows % n, drawn)) if config["augment"] else None,
    )
    return _Trained(model, trial, training)


def repeated(data: LabelledImages, rows: int) -> LabelledImages:
    """The data with the training split repeated while it fits into ``rows``, so that epochs are of like length."""
    times = max(1, rows // len(data.x_train))
    return replace(data, x_train=data.x_train.repeat(times, 1, 1, 1), y_train=data.y_train.repeat(times))


def build_model(config: Config) -> nn.Module:
    """The untrained network of a configuration: the same parameters each time, torch's own generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = build(**config["network"])
    return model.to(device=config["device"], dtype=_dtype(config))


def _measured(chosen: _Trained, moved: Dialled, config: Config) -> dict[str, Any]:
    if chosen.training.diverged_at_step:
        return dict.fromkeys(("accuracy", "moved_accuracy", "defect", "lee", "lee_ratio"), math.nan)
    model, data = chosen.model, moved.data
    defects = {name: rounded(value) for name, value in weight_defect(model).items()}
    return {
        "accuracy": accuracy(model, data.x_test, data.y_test),
        "moved_accuracy": accuracy(model, moved.x_moved, moved.y_moved),
        "defect": rounded(math.fsum(defects.values()) / len(defects)),
        "weight_defect": defects,
        **measure_lee(model, data.x_test, config),
    }


def measure_lee(model: nn.Module, images: Tensor, config: Config) -> dict[str, Any]:
    """``lee``: mean over images of ||Lf||^2 / ||f||^2 of the logits; ``lee_ratio``: median of it over that of noise.

    Lf is the Lie derivative along the kind's flows, per squared radian or pixel. What cannot be measured is absent and
    the reason stands in ``not_measurable``.
    """
    how = config["measurement"]
    options = {name: how[name] for name in ("stencil", "boundary", "seed", "batch_size")}
    try:
        result = local_equivariance_error(
            model, images[: how["images"]], FLOWS[config["kind"]], output="logits", norm="relative", **options
        )
    except NotMeasurable as error:
        return {"not_measurable": str(error)}
    ratios = [quantile(column, 0.5) for column in result.ratio_to_control().T]
    return {
        "lee": rounded(float(result.per_sample().nanmean())),
        "lee_ratio": rounded(math.fsum(ratios) / len(ratios)),
    }


@functools.lru_cache(maxsize=4)  # the variants of a seed have the same images, and digits take a second to read
def _images(name: str, sizes: tuple[int, int, int], seed: int, dtype: torch.dtype) -> LabelledImages:
    return load_images(name, sizes, generator_for(seed, 1), dtype)


def _steps(config: Config, name: str) -> int:
    n, training = config["sizes"][name][0], config["training"]
    rows = n * max(1, config["rows_per_epoch"] // n)
    return training["epochs"] * math.ceil(rows / training["batch_size"])


def _dtype(config: Config) -> torch.dtype:
    found = getattr(torch, config["dtype"], None)
    if not isinstance(found, torch.dtype):
        raise SofteqValueError(f"dtype: expected the name of one of torch's types, got {config['dtype']!r}")
    return found
