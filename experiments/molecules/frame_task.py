"""Energies and forces of one molecule's frames: the task of ``md-field`` and its like at one point.

Frames are split by blocks: those of one walk are on one side. Forces are what a network is chosen by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.experiments.engine.bookkeeping import rounded, seeded
from softeq.experiments.engine.experiment import Config, Metrics
from softeq.experiments.molecules.frames import Point, Split, prepared, rotations
from softeq.experiments.training.arms import TRUE
from softeq.experiments.training.regression import defects
from softeq.experiments.training.task import Task
from softeq.groups import SO, SO2eR3
from softeq.measure.errors import NotMeasurable
from softeq.measure.lee import local_equivariance_error
from softeq.measure.motion.actions import Invariant
from softeq.measure.motion.spaces import point_flows
from softeq.models.molecule_batches import MoleculeBatch, molecule_batch
from softeq.models.molecules import SoftPotential

_ROWS = 100  # frames at once where nothing is trained
HEADLINES = (
    "force_mae_mev_per_a",
    "energy_mae_mev",
    "turned_force_mae_mev_per_a",
    "turned_energy_mae_mev",
    "equivariance_error",
    "lee_ratio",
    "weight_defect_mean",
)


@dataclass
class FrameTask(Task):
    """One molecule's frames.

    Args:
        data: the frames.
        measured: test frames whose Lie derivative is taken.
        augment: by which rotations training frames are rotated: all of them (``"assumed"``) or those about z
            (``"true"``); None where there is no augmentation.
    """

    data: Point
    measured: int
    augment: str | None = None
    headline: str = "force_mae_mev_per_a"
    keys: tuple[str, ...] = HEADLINES

    @property
    def samples(self) -> int:
        """Training frames."""
        return len(self.data.train.x)

    def loss(self, model: Any, rows: Tensor, motion: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Mean square error of the forces, and of the energy per atom and squared Angstrom, in units of the forces'.

        The output beside it, ``(b, 3 n + 1)``: the loss is the mean over frames of its squared distance from the
        target, which is what a rule of the prior's strength takes a Gaussian's loss for. Forces are in units of their
        size times ``sqrt(3 n)``, the energy in that of their size times Angstrom times ``sqrt(n)``.
        """
        data, frames = self.data, self.data.train.rows(rows.to(self.data.train.x.device))
        if motion is not None:
            group = SO2eR3() if self.augment == TRUE else SO(3)
            g = group.sample(len(rows), generator=motion).to(frames.x)
            frames = Split(_turn(g, frames.x), frames.energy, _turn(g, frames.force))
        energy, forces = model.energy_and_forces(batch_of(frames.x, data, model), create_graph=True)
        output, target = (self._scaled(*pair) for pair in ((energy, forces), (frames.energy, frames.force)))
        return (output - target).square().sum(1).mean(), output

    def _scaled(self, energy: Tensor, forces: Tensor) -> Tensor:
        """Energies ``(b,)`` and forces of b frames as outputs, see `loss`."""
        unit, atoms = self.data.force_size, len(self.data.numbers)
        of_forces = forces.reshape(len(energy), -1) / (unit * (3 * atoms) ** 0.5)
        return torch.cat([of_forces, energy[:, None] / (unit * atoms**0.5)], 1)

    def validation_error(self, model: Any) -> float:
        """The mean absolute error of the forces in meV/Angstrom."""
        return _errors(model, self.data.validation, self.data)["force"]

    def test(self, model: Any) -> float:
        """``force_mae_mev_per_a``."""
        return rounded(_errors(model, self.data.test, self.data)["force"])

    def measure(self, model: Any) -> Metrics:
        """See `HEADLINES`; ``force_rms_mev_per_a``; ``weight_defect`` per layer."""
        data = self.data
        found, moved = _errors(model, data.test, data), _errors(model, data.turned, data)
        return {
            "force_mae_mev_per_a": rounded(found["force"]),
            "energy_mae_mev": rounded(found["energy"]),
            "turned_force_mae_mev_per_a": rounded(moved["force"]),
            "turned_energy_mae_mev": rounded(moved["energy"]),
            "equivariance_error": rounded(_equivariance_error(model, data)),
            "force_rms_mev_per_a": rounded(1e3 * data.force_size),
            **defects(model),
            **_lee(model, data, self.measured),
        }


def task_of(config: Config, point: Mapping[str, Any]) -> FrameTask:
    """The frames of a point, see `prepared`."""
    return FrameTask(prepared(point, config), config["measured"], config["augment"])


def build_model(config: Config, task: FrameTask) -> SoftPotential:
    """The untrained potential of a configuration, in units of the training forces."""
    species = sorted(set(task.data.numbers.tolist()))
    return seeded(config, lambda: SoftPotential(species, **config["network"], scale=task.data.force_size))


def batch_of(x: Tensor, data: Point, model: SoftPotential) -> MoleculeBatch:
    """Frames ``(B, n, 3)`` for this model, with the field if it takes one."""
    return molecule_batch(data.numbers, list(x), cutoff=model.cutoff, field=data.field if model.field else None)


def _turn(g: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("bij,bnj->bni", g, vectors)


def predicted(model: SoftPotential, x: Tensor, data: Point) -> tuple[Tensor, Tensor]:
    """Energies ``(N,)`` and forces ``(N, n, 3)``."""
    parts = [model.energy_and_forces(batch_of(part, data, model), create_graph=False) for part in x.split(_ROWS)]
    return torch.cat([e for e, _ in parts]), torch.cat([f for _, f in parts]).view(x.shape)


def _errors(model: SoftPotential, frames: Split, data: Point) -> dict[str, float]:
    """Mean absolute errors in meV and meV/Angstrom."""
    energy, forces = predicted(model, frames.x, data)
    return {
        "energy": 1e3 * float((energy - frames.energy).abs().mean()),
        "force": 1e3 * float((forces - frames.force).abs().mean()),
    }


def _equivariance_error(model: SoftPotential, data: Point) -> float:
    """``rms(F(g x) - g F(x)) / rms(F)``, each test frame rotated by an element of its own; the field is not rotated."""
    g = rotations(len(data.test.x), 11).to(data.test.x)
    forces = predicted(model, data.test.x, data)[1]
    moved = predicted(model, _turn(g, data.test.x), data)[1]
    return float((moved - _turn(g, forces)).norm() / forces.norm())


def _lee(model: SoftPotential, data: Point, measured: int) -> dict[str, Any]:
    """The energy's Lie derivative under rotations over that under noise, the median over frames, mean over axes."""
    flows = [flow for flow in point_flows(3) if flow.name.startswith("rotation")]

    def energies(x: Tensor) -> Tensor:
        return model(batch_of(x, data, model))[:, None]

    try:
        x = data.test.x[:measured]
        result = local_equivariance_error(energies, x, flows, output=Invariant(), stencil=None)
    except NotMeasurable as error:
        return {"not_measurable": str(error)}
    return {"lee_ratio": rounded(float(result.ratio_to_control().nanmedian(0).values.mean()))}
