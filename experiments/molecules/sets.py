"""``qm9-like``: energies and dipoles of many small molecules, where the symmetry is exact: hard, soft, none.

In the hard network the energy is invariant and the dipole turns with the molecule. ``qm9`` is the published set, whose
files have the dipole's size and not its direction: there the size of the slope is trained. The number in a variant's
name is that of its training molecules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softeq.experiments.engine.experiment import Column, Experiment
from softeq.experiments.molecules.field import LISTS
from softeq.experiments.molecules.set_task import HEADLINES, build_model, task_of
from softeq.experiments.training.arms import Variant
from softeq.experiments.training.comparison import Comparison, Domain, Size
from softeq.experiments.training.pace import until_plateau

ARMS = ("hard", "soft", "soft-grid", "none", "none-augmented")
TRAINING_MOLECULES: Mapping[str, tuple[int, ...]] = {"qm9-like": (100, 250), "qm9": (250, 1000)}

_NARROW = {"channels": 16, "lmax": 1, "layers": 2}
_WIDE = {"channels": 32, "lmax": 2, "layers": 3}
_COMMON = {"batch_size": 16, "warmup": 0.05, "clip": 10.0}


# By the seconds of a step in turns on a quiet machine, 1,000 molecules of QM9: 26.0, 29.0, 30.0, 32.0, 34.4 ms of hard,
# none, none-augmented, soft-grid, soft.
_COSTS = {"hard": 1.0, "none": 1.1, "none-augmented": 1.15, "soft-grid": 1.25, "soft": 1.3}


def _size(name: str, seeds: int, limit: int | None, rows: tuple[int, int, int], network: Any, equal: int) -> Size:
    """A preset: a limit of the molecules that are read; rows for training (at most), validation and testing; the steps
    of a comparison at equal steps, eight times as many at most."""
    training = until_plateau(8 * equal, equal, max(1, equal // 10))
    data = {"source": name, "limit": limit, "rows": list(rows)}
    return Size(seeds, network, data, {**_COMMON, **training}, costs=_COSTS)


def _smoke(name: str) -> Size:
    data = {"source": name, "limit": 24, "rows": [12, 4, 8]}
    return Size(1, _NARROW | {"channels": 4}, data, {**_COMMON, "steps": 8, "validate_every": 4}, trials="one")


SIZES: Mapping[str, Mapping[str, Size]] = {
    "qm9-like": {
        "smoke": _smoke("qm9-like"),
        "short": _size("qm9-like", 3, None, (250, 60, 100), _NARROW, 300),
        "default": _size("qm9-like", 5, None, (250, 60, 100), _NARROW, 1500),
        "paper": _size("qm9-like", 5, None, (250, 60, 100), _WIDE, 20_000),
    },
    "qm9": {
        "smoke": _smoke("qm9"),
        "short": _size("qm9", 3, 5000, (1000, 200, 400), _NARROW, 400),
        "default": _size("qm9", 5, 10_000, (1000, 300, 1000), _NARROW, 600),
        "paper": _size("qm9", 5, None, (1000, 1000, 10_000), _WIDE, 50_000),
    },
}


def network_of(size: Size, variant: Variant) -> dict[str, Any]:
    """The network of an arm."""
    return {**size.network, "cutoff": 4.5, "constraint": variant.arm.constraint}


def options_of(size: Size, variant: Variant) -> dict[str, Any]:
    """The data of a variant: as many training molecules as its name says, no more than the preset has."""
    most, validation, test = size.data["rows"]
    data = {"source": size.data["source"], "limit": size.data["limit"]}
    return {"data": {**data, "sizes": [min(variant.samples or most, most), validation, test]}}


def _comparison(name: str, summary: str, dipole: str) -> Comparison:
    headers = (
        "energy",
        "energy, rotated",
        "dipole",
        "dipole, rotated",
        "equivariance error",
        "of the dipole",
        "defect",
    )
    return Comparison(
        name=name,
        summary=summary,
        arms=ARMS,
        samples=TRAINING_MOLECULES[name],
        domain=Domain(task_of, build_model, network_of),
        sizes=SIZES[name],
        lists=LISTS,
        options=options_of,
        columns=(
            *(Column(key, header) for key, header in zip(HEADLINES, headers, strict=True)),
            Column("energy_mae_mev_equal_steps", "energy, equal steps"),
            Column("steps", "steps", ",.0f"),
            Column("training_seconds", "training, s"),
        ),
        notes=(
            f"Energies: mean absolute error, meV. Dipoles: mean {dipole}, e Angstrom. Rotated: at random.",
            "Variants: arm and training molecules.",
        ),
    )


COMPARISONS: dict[str, Comparison] = {
    "qm9-like": _comparison(
        "qm9-like", "energies and dipoles of small molecules (GFN2-xTB): hard, soft, none", "length of the error"
    ),
    "qm9": _comparison(
        "qm9",
        "energies and dipole sizes of the published QM9 (B3LYP): hard, soft, none",
        "absolute error of the size",
    ),
}
EXPERIMENTS: dict[str, Experiment] = {name: c.experiment() for name, c in COMPARISONS.items()}
