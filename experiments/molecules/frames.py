"""The frames behind ``md-field`` and its like, split for training, validation and testing by blocks, as tensors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softeq.errors import SofteqValueError, SofteqWarning
from softeq.experiments.data.molecules import Frames, load_rmd17, rmd17_file
from softeq.experiments.data.trajectories import Sampling, in_field, is_kept, trajectory, turned
from softeq.experiments.engine.bookkeeping import DATA, dtype_of, generator_for
from softeq.experiments.engine.experiment import Config
from softeq.groups import SO

SHARES = (0.5, 0.2)
"""Of the blocks for training and for validation; the rest is for testing."""


@dataclass(frozen=True)
class Split:
    """Frames as tensors: positions ``(N, n, 3)``, energies ``(N,)`` less the training mean, forces ``(N, n, 3)``."""

    x: Tensor
    energy: Tensor
    force: Tensor

    def rows(self, index: Tensor) -> Split:
        """Some frames."""
        return Split(self.x[index], self.energy[index], self.force[index])


@dataclass(frozen=True)
class Point:
    """Everything about one point of the dial."""

    train: Split
    validation: Split
    test: Split
    turned: Split
    numbers: Tensor
    field: Tensor
    force_size: float


def prepared(point: Mapping[str, Any], config: Config) -> Point:
    """The frames of a point, split by blocks; the training frames are drawn by the seed, the others are the same.

    Raises:
        SofteqValueError: more training frames than there are.
    """
    frames, moved = frames_of(point)
    blocks = np.unique(frames.block)
    first, second = (round(share * len(blocks)) for share in (SHARES[0], sum(SHARES)))
    parts = [np.isin(frames.block, part).nonzero()[0] for part in np.split(blocks, [first, second])]
    wanted = point["sizes"]
    if wanted["train"] > len(parts[0]):
        raise SofteqValueError(f"sizes: expected at most {len(parts[0])} training frames, got {wanted['train']}")
    order = torch.randperm(len(parts[0]), generator=generator_for(config["seed"], DATA)).numpy()
    rows = {
        "train": parts[0][order[: wanted["train"]]],
        "validation": _spread(parts[1], wanted["validation"]),
        "test": _spread(parts[2], wanted["test"]),
    }
    dtype, device = dtype_of(config), config["device"]
    mean = frames.energies[rows["train"]].mean()

    def split(source: Frames) -> Split:
        arrays = source.positions, source.energies - mean, source.forces
        return Split(*(torch.as_tensor(a, dtype=dtype, device=device) for a in arrays))

    return Point(
        train=split(frames.rows(rows["train"])),
        validation=split(frames.rows(rows["validation"])),
        test=split(frames.rows(rows["test"])),
        turned=split(moved if moved is not None else _rotated(frames.rows(rows["test"]))),
        numbers=torch.as_tensor(frames.numbers, device=device),
        field=torch.as_tensor(frames.field, dtype=dtype, device=device),
        force_size=float(np.sqrt(np.square(frames.forces[rows["train"]]).mean())),
    )


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """So many of them, evenly over the walks."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


@functools.lru_cache(maxsize=8)
def _trajectory(
    molecule: str, field: float, directions: str, sampling: tuple[tuple[str, Any], ...]
) -> tuple[Frames, Frames]:
    how = Sampling(**dict(sampling))
    uniform = directions == "uniform"
    if not is_kept(molecule, 0.0 if uniform else field, how):
        steps = how.walks * (how.burn + how.frames * how.thin)
        told = f"{molecule} has not walked yet: {steps} steps of its engine come first, in this process"
        message = f"{told}; `softeq data` makes them with all cores and a progress bar"
        warnings.warn(message, SofteqWarning, stacklevel=2)
    frames = (in_field if uniform else trajectory)(molecule, field, how)
    return frames, turned(frames, how, first_block=round(sum(SHARES) * how.walks))


def frames_of(point: Mapping[str, Any]) -> tuple[Frames, Frames | None]:
    """The frames of a point, and test frames rotated at random with the engine's labels in the field as it was.

    Args:
        point: ``source`` is ``"trajectory"``, with ``molecule``, ``field_au``, ``directions`` (``uniform``: see
            `in_field`; ``walks``: see `trajectory`) and ``sampling``; or ``"rmd17"``, with
            ``molecule``, whose labels turn with the molecule.
    """
    if point["source"] == "trajectory":
        return _trajectory(
            point["molecule"], point["field_au"], point["directions"], tuple(sorted(point["sampling"].items()))
        )
    if point["source"] == "rmd17":
        return _published(point["molecule"]), None
    raise SofteqValueError(f"source: expected 'trajectory' or 'rmd17', got {point['source']!r}")


@functools.lru_cache(maxsize=1)
def _published(molecule: str) -> Frames:
    return load_rmd17(rmd17_file(molecule))


def rotations(count: int, seed: int) -> Tensor:
    """``(count, 3, 3)`` float64, uniform over SO(3)."""
    return SO(3).sample(count, generator=torch.Generator().manual_seed(seed)).double()


def _rotated(frames: Frames) -> Frames:
    """The same molecules rotated at random, their forces with them: right where the energy is invariant."""
    g = rotations(len(frames), 7).numpy()
    positions, forces = (np.einsum("bij,bnj->bni", g, a) for a in (frames.positions, frames.forces))
    return Frames(frames.name, frames.numbers, positions, frames.energies, forces, frames.block, about=frames.about)
