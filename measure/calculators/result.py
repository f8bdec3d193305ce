"""What an audit of a calculator found, as numbers with their units in the names, and in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from softeq.measure.calculators.causes import Cause
from softeq.measure.calculators.symmetry import Deviations

Array = np.ndarray
KB = 8.617333262e-5  # eV/K
ANGLES = (0.0, 60.0, 120.0, 180.0)
"""Degrees, the edges of the classes of rotations."""


@dataclass(frozen=True)
class Levels:
    """What a deviation is held against.

    Attributes:
        energy: eV, of the whole structure.
        forces: eV/Angstrom.
        about: where the two are from, in words.
    """

    energy: float
    forces: float
    about: str

    @classmethod
    def of(
        cls, atoms: int, temperature: float, energy_error: float | None = None, force_error: float | None = None
    ) -> Levels:
        """The model's own test errors, eV per atom and eV/Angstrom, where given; else kT, and kT per Angstrom."""
        thermal = KB * temperature
        kt = f"kT at {temperature:g} K"
        said = [
            f"{kt} for energies" if energy_error is None else "the model's own test error for energies",
            f"{kt} per Å for forces" if force_error is None else "the model's own test error for forces",
        ]
        energy = thermal if energy_error is None else energy_error * atoms
        return cls(energy, thermal if force_error is None else force_error, " and ".join(said))


@dataclass(frozen=True)
class CalculatorResult:
    """See `audit.audit_calculator`.

    Attributes:
        formula: of the first structure.
        structures: how many.
        atoms: of the first.
        periodic: whether the first has images.
        precision: float32 or float64, as the forces betray.
        calls: of the calculator.
        scales: ``energy_ev`` of the first structure, ``force_rms_ev_per_a``, and what counts as zero,
            ``energy_noise_ev`` and ``force_noise_ev_per_a``.
        levels: see `Levels`.
        checks: per check its numbers.
        not_measurable: per check the reason.
        causes: see `causes.causes_of`.
    """

    formula: str
    structures: int
    atoms: int
    periodic: bool
    precision: str
    calls: int
    scales: Mapping[str, float]
    levels: Levels
    checks: Mapping[str, Mapping[str, Any]]
    not_measurable: Mapping[str, str]
    causes: Sequence[Cause]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def symmetry_numbers(
    found: Sequence[Deviations], numbers: Sequence[Array], symbols: Mapping[int, str], force_rms: float
) -> dict[str, Any]:
    """The numbers of one symmetry over structures: eV, eV/Angstrom, eV/Angstrom^3.

    Args:
        found: per structure.
        numbers: per structure its atomic numbers.
        symbols: of the elements.
        force_rms: the size of the forces, for ``force_relative``.
    """
    numbers_of: dict[str, Any] = {**_spread("energy", "ev", [d.energy for d in found], found)}
    lengths = [np.linalg.norm(d.forces, axis=-1) for d in found if d.forces is not None]
    if len(lengths) == len(found):
        numbers_of |= _spread("force", "ev_per_a", [own.mean(1) for own in lengths], found)
        numbers_of["force_max_ev_per_a"] = max(float(own.max()) for own in lengths)
        squares = [d.weights @ own**2 for d, own in zip(found, lengths, strict=True)]
        numbers_of["force_relative"] = float(np.sqrt(np.concatenate(squares).mean())) / max(force_rms, 1e-300)
        numbers_of["force_by_atom_ev_per_a"] = np.sqrt(squares[0]).tolist()
        everything = np.concatenate(squares), np.concatenate(list(numbers))
        numbers_of["force_by_element_ev_per_a"] = {
            symbols[int(kind)]: float(np.sqrt(everything[0][everything[1] == kind].mean()))
            for kind in np.unique(everything[1])
        }
    stresses = [np.abs(d.stress).max((1, 2)) for d in found if d.stress is not None]
    if len(stresses) == len(found):
        numbers_of |= _spread("stress", "ev_per_a3", stresses, found)
    if all(d.angles is not None for d in found):
        numbers_of["by_angle"] = _by_angle(found)
        spread = [d.weights @ d.energy**2 - (d.weights @ d.energy) ** 2 for d in found]
        numbers_of["energy_about_mean_ev"] = float(np.sqrt(max(0.0, np.mean(spread))))
    return numbers_of


def _spread(name: str, unit: str, values: Sequence[Array], found: Sequence[Deviations]) -> dict[str, float]:
    means = [float(d.weights @ np.abs(own)) for d, own in zip(found, values, strict=True)]
    return {
        f"{name}_mean_{unit}": float(np.mean(means)),
        f"{name}_max_{unit}": max(float(np.abs(v).max()) for v in values),
    }


def _by_angle(found: Sequence[Deviations]) -> list[dict[str, float]]:
    rows = []
    for low, high in itertools.pairwise(ANGLES):
        energies, forces = [], []
        for d in found:
            angles = np.zeros(0) if d.angles is None else d.angles
            inside = (angles >= low) & ((angles < high) | (high == ANGLES[-1]))
            energies.append(np.abs(d.energy[inside]))
            if d.forces is not None:
                forces.append(np.linalg.norm(d.forces[inside], axis=-1).ravel())
        energy = np.concatenate(energies)
        if len(energy):
            row = {"from_degrees": low, "to_degrees": high, "energy_mean_ev": float(energy.mean())}
            rows.append(row | ({"force_mean_ev_per_a": float(np.concatenate(forces).mean())} if forces else {}))
    return rows
