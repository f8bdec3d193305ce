"""The molecules behind ``qm9`` and ``qm9-like``, split for training, validation and testing, as tensors."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.experiments.data.qm9 import qm9
from softeq.experiments.data.small_molecules import ELEMENTS, Molecules, qm9_like
from softeq.experiments.engine.bookkeeping import DATA, dtype_of, generator_for
from softeq.experiments.engine.experiment import Config

SPECIES = tuple(ELEMENTS.values())


@dataclass(frozen=True)
class Part:
    """B molecules as tensors.

    Attributes:
        numbers: per molecule ``(n,)`` atomic numbers.
        places: per molecule ``(n, 3)``, Angstrom.
        energy: ``(B,)``, eV, less the elements' energies that fit best the molecules that are not for testing.
        dipole: ``(B, 3)``, e Angstrom; ``None`` where the set has none.
        dipole_size: ``(B,)``, e Angstrom, where the set has the dipole's size alone.
    """

    numbers: Sequence[Tensor]
    places: Sequence[Tensor]
    energy: Tensor
    dipole: Tensor | None
    dipole_size: Tensor | None = None

    def rows(self, index: Tensor) -> Part:
        """Some molecules."""
        chosen = index.tolist()
        numbers, places = [self.numbers[i] for i in chosen], [self.places[i] for i in chosen]
        dipole, size = (None if value is None else value[index] for value in (self.dipole, self.dipole_size))
        return Part(numbers, places, self.energy[index], dipole, size)

    def dipole_error(self, dipole: Tensor) -> Tensor | None:
        """``(B,)``: the length of the error of ``(B, 3)``, or of the error of its size; None where neither is known."""
        pair = self.dipole_pair(dipole)
        return None if pair is None else (pair[0] - pair[1]).norm(dim=-1)

    def dipole_pair(self, dipole: Tensor) -> tuple[Tensor, Tensor] | None:
        """What is known of dipoles beside the same of ``(B, 3)``: ``(B, 3)`` or sizes ``(B, 1)``; None for neither."""
        if self.dipole is not None:
            return dipole, self.dipole
        return None if self.dipole_size is None else (dipole.norm(dim=-1)[:, None], self.dipole_size[:, None])

    @property
    def dipole_rms(self) -> float:
        """Of a dipole's components, e Angstrom; NaN where the set has none."""
        if self.dipole is not None:
            return rms(self.dipole)
        return math.nan if self.dipole_size is None else rms(self.dipole_size) / math.sqrt(3)

    def turned(self, g: Tensor) -> Part:
        """Each molecule rotated by its own of ``g``, ``(B, 3, 3)``, and its dipole with it."""
        places = [place @ own.T for place, own in zip(self.places, g, strict=True)]
        dipole = None if self.dipole is None else torch.einsum("bij,bj->bi", g, self.dipole)
        return dataclasses.replace(self, places=places, dipole=dipole)


@functools.lru_cache(maxsize=2)
def _molecules(source: str, limit: int | None) -> Molecules:
    return qm9(limit) if source == "qm9" else qm9_like(limit=limit)


def prepared(config: Config) -> tuple[Part, Part, Part]:
    """Training, validation and test molecules; the last are the same for every seed.

    Raises:
        SofteqValueError: there are fewer molecules than wanted.
        MissingExtraError: the set is not there and the engine is not installed.
        SofteqError: the published set is not there.
    """
    found, sizes = _molecules(config["data"]["source"], config["data"]["limit"]), config["data"]["sizes"]
    if sum(sizes) > len(found):
        raise SofteqValueError(f"sizes: expected at most {len(found)} molecules together, got {sum(sizes)} ({sizes})")
    test, rest = torch.randperm(len(found), generator=generator_for(0, 5)).split([sizes[2], len(found) - sizes[2]])
    rest = rest[torch.randperm(len(rest), generator=generator_for(config["seed"], DATA))]
    train, validation = rest[: sizes[0]], rest[len(rest) - sizes[1] :]
    counts = np.array([[(numbers == kind).sum() for kind in SPECIES] for numbers in found.numbers], dtype=np.float64)
    # Of all that are not for testing: a hundred training molecules may lack an element that is rare, such as F.
    elements = np.linalg.lstsq(counts[rest.numpy()], found.energies[rest.numpy()], rcond=None)[0]
    like = {"dtype": dtype_of(config), "device": config["device"]}

    def part(rows: Tensor) -> Part:
        index = rows.tolist()
        energies = [found.energies[i] - counts[i] @ elements for i in index]
        dipoles, lengths = (None if v is None else v[index] for v in (found.dipoles, found.dipole_sizes))
        return Part(
            [torch.as_tensor(found.numbers[i], device=config["device"]) for i in index],
            [torch.as_tensor(found.positions[i], **like) for i in index],
            torch.as_tensor(np.array(energies), **like),
            None if dipoles is None else torch.as_tensor(dipoles, **like),
            None if lengths is None else torch.as_tensor(lengths, **like),
        )

    return part(train), part(validation), part(test)


def rms(value: Tensor) -> float:
    """Root of the mean square, at least 1e-3."""
    return max(float(value.square().mean().sqrt()), 1e-3)  # few molecules may be fitted by their elements alone
