"""Ethanol in a uniform field, from `softeq.experiments`: energies and forces, the assumed SO(3) broken by the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.strength_problems import Problem
from softeq.experiments.molecules.frame_task import FrameTask
from softeq.groups import SO


@dataclass(frozen=True)
class Molecules(Problem):
    """A problem whose loss needs more of the model than a call: forces are derivatives of its energy.

    Attributes:
        training, validation: the frames, each as a task that has its training frames there.
    """

    training: FrameTask = field(kw_only=True)
    validation: FrameTask = field(kw_only=True)

    def fit(self, model: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Problem.fit``."""
        return self.training.loss(model, rows, None)

    def held_batch(self, model: nn.Module, rows: Tensor) -> Tensor:
        """See ``Problem.held_batch``."""
        return self.validation.loss(model, rows, None)[0]

    def held_loss(self, model: nn.Module) -> float:
        """See ``Problem.held_loss``; it takes derivatives of the model's output, also where gradients are off."""
        with torch.enable_grad():
            return self.held_batch(model, torch.arange(len(self.held[0]))).item()


def molecules(frames: int, field_au: float, seed: int) -> Molecules:
    """``md-field`` at this field in atomic units, its smallest network; the error is of forces in meV/Angstrom."""
    from dataclasses import replace

    from softeq.experiments.molecules.field import SIZES, points_of
    from softeq.experiments.molecules.frames import prepared
    from softeq.experiments.training.arms import parse
    from softeq.models.molecules import SoftPotential

    size = SIZES["short"]
    variant = parse(f"soft-{frames}")
    (point,) = [p for p in points_of("md-field", size, variant) if p["field_au"] == field_au]
    data = prepared(point, {"seed": seed, "dtype": "float32", "device": "cpu"})
    training = FrameTask(data, 0)
    validation = FrameTask(replace(data, train=data.validation), 0)
    species = sorted(set(data.numbers.tolist()))
    network = {**size.network, "cutoff": 4.5, "field": False}

    def build(constraint: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SoftPotential(species, **network, constraint=constraint, scale=data.force_size)

    def turn(generator: torch.Generator) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        (g,) = SO(3).sample(1, generator=generator)
        return lambda x: x @ g.to(x).T, lambda y: y

    return Molecules(
        build=build, x=data.train.x, y=data.train.force, held=(data.validation.x, data.validation.force),
        loss=mse_loss, error=training.test, likelihood="gaussian", action=turn,
        steps=800, batch=10, lr=2e-2, clip=10.0, equivariant=1e-2,
        grid=(1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7), decays=(1e-2, 1.0, 100.0),
        training=training, validation=validation,
        unfit=("remul",),  # it watches calls on tensors, and a potential is called on a batch of molecules
    )  # fmt: skip
