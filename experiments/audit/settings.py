"""What an audit is asked to do, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.audit.decibels import DRAWS
from softeq.experiments.audit.flows import NAMES
from softeq.experiments.engine import registry
from softeq.measure.controls import CONTROLS
from softeq.measure.loading.model import Preparation
from softeq.measure.motion.actions import Action, ImageMap, Invariant
from softeq.measure.motion.colour import COLOURS
from softeq.measure.motion.flows import FLOWS
from softeq.measure.motion.stencils import BOUNDARIES, STENCILS
from softeq.measure.results.result import NORMS

OUTPUTS = ("probabilities", "logits", "vector", "map", "tokens")
"""Class probabilities, logits and any other vector are taken as invariant; maps and tokens move with the image."""
DEVICES = ("auto", "cpu", "cuda")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
STENCIL_IMAGES = 4
"""The other stencils are tried on as many images: they show how far LEE depends on the stencil, no more."""
LAYERWISE_IMAGES = 8
"""Modules' shares are measured on as many images."""
MOST = 100_000
"""Images and pixels of margin at most: more is a slip of the finger."""
MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Settings:
    """The options of one audit; `check` says what is allowed.

    Attributes:
        images: "demo", "noise", a folder, an image, or a list of images.
        mean, std, size, crop: of the images' preparation, where the network does not say it; see `Preparation`.
        weights: "pretrained", "random", "packaged", a file, or None for what each model has.
        weights_key: of a file's parts the one to take; None: by the rule of `measure.loading.checkpoints`.
        image_size, num_classes: that a timm model is built for; None: its own, or as its weights have.
        flows: some of `experiments.audit.flows.NAMES`.
        norm: of the headline numbers; all norms are recorded.
        output: one of OUTPUTS.
        pick: of a network that returns several things the one to measure: a key, an attribute or an index; dotted to
            go deeper.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        dtype: of the model and the images.
        batch_size: images at once; None starts large and halves when the memory does not suffice.
        limit: images at most.
        control: one of `measure.controls.CONTROLS`, or "auto": "samples", and of a single image "phase"; of colours,
            which are on no grid, "noise".
        stencil, boundary, margin: see measure.flows.AffineFlow.
        layerwise: also split the error over the modules.
        seed: of random weights, noise images, the choice of images, the control and the bootstrap.
        stencil_images, layerwise_images: how many images these two parts are from.
    """

    images: str = "demo"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    crop: float | None = None
    weights: str | None = None
    weights_key: str | None = None
    image_size: int | None = None
    num_classes: int | None = None
    flows: tuple[str, ...] = tuple(FLOWS)
    norm: str = "mean_square"
    output: str = "probabilities"
    pick: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int | None = None
    limit: int = 100
    control: str = "auto"
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
            ("control", ("auto", *CONTROLS)),
            ("stencil", STENCILS),
            ("boundary", BOUNDARIES),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise registry.unknown(name, getattr(self, name), known)
        if not self.flows:
            raise SofteqValueError(f"flows: expected some of {', '.join(NAMES)}, got none")
        for flow in self.flows:
            if flow not in NAMES:
                raise registry.unknown("flow", flow, NAMES)
            if flow in COLOURS and self.control == "phase":
                raise SofteqValueError(
                    f"control: phase has no meaning for {flow}, which moves no place; use auto or noise"
                )
        for name, value, least, most in (
            ("batch-size", self.batch_size, 1, None),
            ("limit", self.limit, 1, MOST),
            ("margin", self.margin, 0, MOST),
            ("seed", self.seed, 0, MOST_SEED),
            ("image-size", self.image_size, 1, MOST),
            ("num-classes", self.num_classes, 0, MOST_SEED),
        ):
            if value is not None and value < least:
                raise SofteqValueError(f"{name}: expected {least} or more, got {value}")
            if value is not None and most is not None and value > most:
                raise SofteqValueError(f"{name}: expected at most {most:,}, got {value:.4g}")
        if self.weights not in (None, "pretrained", "random", "packaged") and len(models) > 1:
            raise SofteqValueError(
                f"weights: expected one model for the file {self.weights}, got {len(models)}: audit them one by one"
            )
        if self.weights_key is not None and self.weights in (None, "pretrained", "random", "packaged"):
            raise SofteqValueError("weights-key: expected --weights FILE beside it")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SofteqError("device: cuda was asked for and torch finds none; choose cpu or auto")

    @property
    def torch_device(self) -> torch.device:
        """Where to compute; a GPU with ``auto`` where there is one."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)

    @property
    def preparation(self) -> Preparation:
        """What the user says of the images' preparation."""
        return Preparation(self.mean, self.std, self.size, self.crop)

    @property
    def action(self) -> str | Action | None:
        """How the output moves, as `measure` takes it; None for tokens, whose grid only the network's output shows."""
        declared: dict[str, str | Action | None] = {"map": ImageMap(), "vector": Invariant(), "tokens": None}
        return declared.get(self.output, self.output)

    @property
    def moves(self) -> bool:
        """Whether the output is of places, which should move with the image."""
        return self.output in ("map", "tokens")

    def control_of(self, count: int, flow: str = "") -> str:
        """The control of so many images, of a flow if it is named."""
        if self.control == "auto" and flow in COLOURS:
            return "noise"
        if self.control != "auto":
            return self.control
        return "samples" if count > 1 else "phase"

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
            "control": self.control_of(count),
            "norm": self.norm,
            "output": self.output,
            "pick": self.pick,
            "dtype": self.dtype,
            "seed": self.seed,
            "stencil_images": min(self.stencil_images, count),
            "layerwise": min(self.layerwise_images, count) if self.layerwise else 0,
            **({"decibel_draws": DRAWS} if self.moves else {}),
        }
