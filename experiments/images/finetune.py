"""``soften``: a pretrained network fine-tuned on few images as it is, as its soft twin, and with frozen features.

EfficientNet-Lite0 with the ImageNet weights that a package ships gets a new head for the ten classes of Fashion-MNIST.
``plain`` trains all its weights; ``soft-grid`` is `softeq.soften` of the same network, whose convolutions may leave the
translations at the price of a prior on the residual pathways alone, around the pretrained values; ``soft`` finds that
price by the library's rule; ``frozen`` trains the head. Every variant starts from the same outputs and sees the same
images in the same order. The images are enlarged, grey as three equal channels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from softeq import soften
from softeq.experiments.data.images import LabelledImages, default_dataset, load_images
from softeq.experiments.engine.bookkeeping import DATA, dtype_of, generator_for, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics
from softeq.experiments.images.tasks import TRANSLATIONS, ImageTask, measure_lee
from softeq.experiments.training.arms import Variant
from softeq.experiments.training.comparison import Comparison, Domain, Lists, Point, Size
from softeq.experiments.training.pace import until_plateau
from softeq.experiments.training.task import Task
from softeq.measure.loading.sources import load_model

NETWORK = "tf_efficientnet_lite0"
_BATCH = 100  # images at once where no gradient is taken


def _size(seeds: int, rows: list[int], pixels: int, training: dict[str, Any], measured: int, **options: Any) -> Size:
    common = {"batch_size": 32, "optimizer": "adamw", "weight_decay": 0.01, "warmup": 0.1, "clip": 1.0}
    return Size(seeds, {}, {"sizes": rows, "pixels": pixels}, {**common, **training}, measured=measured, **options)


# Measured in turns: .20, .45, .58 s a step of plain, soft-grid, soft. A step of frozen takes a millisecond, so that
# compute is no limit to it: it has plain's steps.
_COSTS = {"plain": 1.0, "frozen": 1.0, "soft-grid": 2.23, "soft": 2.85}
# Of soft: five looks are seven passes over the images.
_LOOKS = 20

SIZES = {
    "smoke": _size(1, [32, 20, 20], 32, {"steps": 2, "validate_every": 1}, 2, trials="one"),
    "default": _size(10, [480, 500, 2000], 56, until_plateau(960, 60, _LOOKS), 60, costs=_COSTS, whole_looks=True),
    "paper": _size(10, [2_000, 1_000, 10_000], 112, until_plateau(10_000, 1_260, 210), 100),
}
LISTS = Lists((1e-3, 3e-3, 1e-2), residual=(1.0, 100.0, 1e4))
"""AdamW's learning rate, and the precision of the prior on residual pathways, for the whole data set."""


class FinetuneTask(ImageTask):
    """Fine-tuning on few images; where features are frozen, the network's last layer is trained on what it is given.

    Args:
        data: the enlarged images.
        measurement: see `ImageTask`.
        before: the network before it is trained.
        frozen: whether the last layer alone is trained.
    """

    def __init__(self, data: LabelledImages, measurement: dict[str, Any], before: nn.Module, *, frozen: bool) -> None:
        super().__init__(data, measurement)
        self.before = measure_lee(before.eval(), data.x_test, measurement, TRANSLATIONS).get("lee", math.nan)
        self.features: dict[str, Tensor] = {}
        if frozen:
            self.features = {part: pooled(before, getattr(data, f"x_{part}")) for part in ("train", "validation")}

    def loss(self, model: Any, rows: Tensor, motion: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """See `ImageTask.loss`."""
        if not self.features:
            return super().loss(model, rows, motion)
        output = model.get_classifier()(self.features["train"][rows])
        return nn.functional.cross_entropy(output, self.data.y_train[rows]), output

    def validation_error(self, model: Any) -> float:
        """See `ImageTask.validation_error`."""
        if not self.features:
            return super().validation_error(model)
        with torch.no_grad():
            logits = model.get_classifier()(self.features["validation"])
        return 1 - float((logits.argmax(1) == self.data.y_validation).double().mean())

    def measure(self, model: nn.Module) -> Metrics:
        """See `ImageTask.measure`; ``lee_before`` with the untrained head."""
        return super().measure(model) | {"lee_before": self.before}


def task_of(config: Config, point: Point) -> FinetuneTask:
    """The images of a configuration, and what the network gives before it is trained.

    Raises:
        MissingExtraError: the data, timm or the package with the weights are not installed.
        SofteqError: the data's files or the weights are damaged.
    """
    data, frozen = enlarged(config).to(config["device"]), config["network"]["variant"] == "frozen"
    return FinetuneTask(data, config["measurement"], build(config), frozen=frozen)


def enlarged(config: Config) -> LabelledImages:
    """The images at the configuration's size, three equal channels, from -1 to 1 as the weights want.

    Raises:
        MissingExtraError, SofteqError: as `task_of`.
    """
    data, dtype = config["data"], dtype_of(config)
    loaded = load_images(data["name"], tuple(data["sizes"]), generator_for(config["seed"], DATA), torch.float64)
    size = (data["pixels"], data["pixels"])

    def image(x: Tensor) -> Tensor:
        large = interpolate(x * loaded.std + loaded.mean, size, mode="bicubic").clamp(0, 1)
        return ((large - 0.5) / 0.5).to(dtype).expand(-1, 3, -1, -1).contiguous()

    inputs = {f"x_{part}": image(getattr(loaded, f"x_{part}")) for part in ("train", "validation", "test")}
    splits: dict[str, Any] = {**inputs, "mean": 0.5, "std": 0.5}
    return replace(loaded, **splits)


def build(config: Config, task: Task | None = None) -> nn.Module:
    """The pretrained network with a new head, softened or frozen where the variant is; the same each time.

    Raises:
        MissingExtraError: timm or the package with the weights is not installed.
    """
    model: Any = seeded(config, lambda: _with_new_head(config))
    if config["network"]["variant"] == "frozen":
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)
    # Faster on a CPU, for its many convolutions of one channel each.
    return model.to(memory_format=torch.channels_last)


def _with_new_head(config: Config) -> nn.Module:
    network, pixels, dtype = config["network"], config["data"]["pixels"], dtype_of(config)
    model: Any = load_model(network["name"], weights="packaged", image_size=pixels, dtype=dtype).module
    model.reset_classifier(10)
    model = model.to(dtype)
    if network["variant"] == "soft":
        example = torch.zeros(2, 3, pixels, pixels, dtype=dtype)
        example[:, :, pixels // 4 : pixels // 2] = 1
        model = soften(model, example, residual=network["residual"], rank=network["rank"]).model
    return model


@torch.no_grad()
def pooled(model: Any, x: Tensor) -> Tensor:
    """What a timm network's last layer is given, ``(N, features)``."""
    parts = [model.forward_head(model.forward_features(part), pre_logits=True) for part in x.split(_BATCH)]
    return torch.cat(parts)


def network_of(size: Size, variant: Variant) -> dict[str, Any]:
    """The network of an arm: softened, as it is, or frozen."""
    name = variant.arm.name
    return {
        "name": NETWORK,
        "variant": "soft" if variant.arm.constraint == "soft" else name,
        "residual": "lowrank",
        "rank": 1,
    }


def options_of(size: Size, variant: Variant) -> dict[str, Any]:
    """The data set that is installed (`default_dataset`), and what is measured.

    Raises:
        MissingExtraError: no data set is installed.
    """
    measurement = {"images": size.measured, "shifts": [4, 8], "stencil": "bspline", "boundary": "mirror"}
    return {
        "data": {"name": default_dataset(), **size.data},
        "measurement": {**measurement, "seed": 0, "batch_size": 10},
    }


COMPARISONS: dict[str, Comparison] = {
    "soften": Comparison(
        name="soften",
        summary="a pretrained EfficientNet-Lite0 fine-tuned on few images: softened, plain, frozen",
        arms=("soft", "soft-grid", "plain", "frozen"),
        domain=Domain(task_of, build, network_of),
        sizes=SIZES,
        lists=LISTS,
        options=options_of,
        columns=(
            Column("test_accuracy", "test accuracy", ".3f"),
            Column("test_accuracy_best_validation", "best validation", ".3f"),
            Column("test_accuracy_equal_steps", "equal steps", ".3f"),
            Column("shifted_accuracy_4", "test shifted by up to 4", ".3f"),
            Column("shifted_accuracy_8", "by up to 8", ".3f"),
            Column("lee_before", "translation LEE before"),
            Column("lee", "after"),
            Column("lee_ratio", "over noise"),
            Column("weight_defect_mean", "weight defect, mean of layers"),
            Column("parameters", "parameters", ",.0f"),
            Column("steps", "steps", ",.0f"),
            Column("training_seconds", "training, s"),
            Column("seconds_per_step", "s / step"),
        ),
        notes=(
            "Shifted: each test image by whole pixels of the enlarged image, uniform in both directions.",
            "LEE: mean over images of ||Lf||^2 / ||f||^2 of the logits, per squared pixel, mean of both translations;"
            " before: with the untrained head.",
            "Over noise: the median over images of LEE over that of a random tangent of the same size.",
        ),
    )
}
EXPERIMENTS: dict[str, Experiment] = {name: c.experiment() for name, c in COMPARISONS.items()}
