"""What an audit is asked to do, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import registry
from softeq.measure.motion.flows import FLOWS
from softeq.measure.motion.stencils import BOUNDARIES, STENCILS
from softeq.measure.results.result import NORMS

OUTPUTS = ("probabilities", "logits")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
STENCIL_IMAGES = 4
"""The other stencils are tried on as many images: they show how far LEE depends on the stencil, no more."""
LAYERWISE_IMAGES = 8
"""Modules' shares are measured on as many images."""


@dataclass(frozen=True)
class Settings:
    """The options of one audit; `check` says what is allowed.

    Attributes:
        images: "demo", "noise", or a folder.
        weights: "pretrained", "random", "packaged", a file, or None for what each model has.
        flows: names of FLOWS.
        norm: of the headline numbers; all norms are recorded.
        output: "probabilities" or "logits".
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        dtype: of the model and the images.
        batch_size: images at once; None starts large and halves when the memory does not suffice.
        limit: images at most.
        stencil, boundary, margin: see measure.flows.AffineFlow.
        layerwise: also split the error over the modules.
        seed: of random weights, noise images, the choice of images, the control and the bootstrap.
        stencil_images, layerwise_images: how many images these two parts are from.
    """

    images: str = "demo"
    weights: str | None = None
    flows: tuple[str, ...] = tuple(FLOWS)
    norm: str = "mean_square"
    output: str = "probabilities"
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int | None = None
    limit: int = 100
    stencil: str = "bspline"
    boundary: str = "mirror"
    margin: int = 0
    layerwise: bool = False
    seed: int = 0
    stencil_images: int = STENCIL_IMAGES
    layerwise_images: int = LAYERWISE_IMAGES

    def check(self, models: Sequence[str]) -> None:
        """Find the user's mistakes that need no model to be found.

        Raises:
            SofteqValueError: naming the option.
            SofteqError: CUDA was asked for and there is none.
        """
        choices = (
            ("norm", NORMS),
            ("output", OUTPUTS),
            ("device", DEVICES),
            ("dtype", tuple(DTYPES)),
            ("stencil", STENCILS),
            ("boundary", BOUNDARIES),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise registry.unknown(name, getattr(self, name), known)
        if not self.flows:
            raise SofteqValueError(f"flows: expected some of {', '.join(FLOWS)}, got none")
        for flow in self.flows:
            if flow not in FLOWS:
                raise registry.unknown("flow", flow, FLOWS)
        least = (("batch-size", self.batch_size, 1), ("limit", self.limit, 1), ("margin", self.margin, 0))
        for name, value, minimum in (*least, ("seed", self.seed, 0)):
            if value is not None and value < minimum:
                raise SofteqValueError(f"{name}: expected {minimum} or more, got {value}")
        if self.weights not in (None, "pretrained", "random", "packaged") and len(models) > 1:
            raise SofteqValueError(
                f"weights: expected one model for the file {self.weights}, got {len(models)}: audit them one by one"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SofteqError("device: cuda was asked for and torch finds none; choose cpu or auto")

    @property
    def torch_device(self) -> torch.device:
        """Where to compute; a GPU with ``auto`` where there is one."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)

    def shared_config(self, count: int, source_hash: str) -> dict[str, Any]:
        """The part of a record's configuration that does not depend on the model; ``count`` images were read."""
        return {
            "images": self.images,
            "source_hash": source_hash,
            "count": count,
            "limit": self.limit,
            "stencil": self.stencil,
            "boundary": self.boundary,
            "margin": self.margin,
            "norm": self.norm,
            "output": self.output,
            "dtype": self.dtype,
            "seed": self.seed,
            "stencil_images": min(self.stencil_images, count),
            "layerwise": min(self.layerwise_images, count) if self.layerwise else 0,
        }
