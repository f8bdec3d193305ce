"""``md-field`` and its like: soft against hard and none on molecules, while a field breaks their symmetry.

``md-field``: ethanol at 500 K in a uniform electric field, which breaks SO(3) to the rotations about it, from none to
strong. A hard model that is not told of the field cannot see its direction; ``hard+cause`` is told, and is the honest
rival of soft layers. ``md-ethanol`` and ``md-aspirin`` are free of fields and larger; ``rmd17`` is the published set.
The number in a variant's name is that of its training frames.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from softeq.errors import SofteqValueError
from softeq.experiments.data.walks import Sampling
from softeq.experiments.engine.experiment import Column, Experiment
from softeq.experiments.molecules.frame_task import build_model, task_of
from softeq.experiments.training.arms import Variant
from softeq.experiments.training.comparison import Comparison, Domain, Lists, Size
from softeq.experiments.training.pace import until_plateau

TRAINING_FRAMES = (50, 200, 950)
FIELDS = (0.0, 0.005, 0.01, 0.015, 0.02)
"""Atomic units, 51.4 V/Angstrom each."""

SAMPLING = Sampling()
LISTS = Lists((1e-2, 2e-2, 4e-2), residual=(1.0, 100.0, 1e4), equivariant=(1e-4, 1e-2, 1.0), plain=(1e-2, 1.0, 100.0))
"""Precisions are for all training frames together."""

_NARROW, _WIDE = {"channels": 16, "lmax": 1, "layers": 2}, {"channels": 32, "lmax": 2, "layers": 3}
_COMMON = {"batch_size": 10, "warmup": 0.05, "clip": 10.0}
# By the seconds that trainings at 200 frames of ethanol took on a quiet machine: 14.7, 18.4, 16.5, 12.8 ms a step of
# hard, soft, soft-grid, none. Beside other work soft's is 1.9: the default rule's draws suffer most from that.
_COSTS = {"hard": 1.1, "hard+cause": 1.1, "soft": 1.45, "soft-grid": 1.2, "none": 1.0}
_COSTS |= {"none-augmented": 1.1, "none-augmented-true": 1.1}


def _size(
    seeds: int,
    equal: int,
    *,
    network: Mapping[str, Any] = _NARROW,
    fields: Sequence[float] = FIELDS,
    rows: tuple[int, int] = (100, 200),
    measured: int = 20,
) -> Size:
    """A preset: frames for validation and testing; the steps of a comparison at equal steps, twelve times as many at
    most; the test frames whose Lie derivative is taken."""
    training = until_plateau(12 * equal, equal, equal // 10)
    data = {"fields": list(fields), "validation": rows[0], "test": rows[1], "share": 1.0, "sampling": asdict(SAMPLING)}
    return Size(seeds, network, data, {**_COMMON, **training}, measured=measured, costs=_COSTS)


_SMOKE_DATA = {"fields": [0.0, 0.02], "validation": 4, "test": 4, "share": 0.02}
_SMOKE_DATA |= {"sampling": asdict(Sampling(walks=8, frames=5, burn=50, thin=10))}
SIZES: Mapping[str, Size] = {
    "smoke": Size(
        1, _NARROW | {"channels": 4}, _SMOKE_DATA, {**_COMMON, "steps": 10, "validate_every": 5}, "one", measured=2
    ),
    "short": _size(3, 400, fields=(0.0, 0.02)),
    "default": _size(5, 800),
    "paper": _size(5, 20_000, network=_WIDE, rows=(300, 500), measured=200),
}


def network_of(size: Size, variant: Variant) -> dict[str, Any]:
    """The network of an arm; it takes the field as an input where it is told of the cause."""
    return {**size.network, "cutoff": 4.5, "constraint": variant.arm.constraint, "field": variant.arm.cause}


def points_of(name: str, size: Size, variant: Variant) -> list[dict[str, Any]]:
    """The points over which a run goes: fields, or molecules of the published set, with the frames of each split.

    Raises:
        SofteqValueError: a variant without a number of training frames.
    """
    if variant.samples not in TRAINING_FRAMES:
        raise SofteqValueError(f"variant: expected one with {TRAINING_FRAMES} frames, got {variant.samples}")
    data = size.data
    rows = {"train": max(2, round(variant.samples * data["share"]))}
    sizes = {"sizes": {**rows, "validation": data["validation"], "test": data["test"]}}
    if name == "rmd17":
        return [{"name": m, "source": "rmd17", "molecule": m, **sizes} for m in ("ethanol", "aspirin")]
    molecule = "aspirin" if name == "md-aspirin" else "ethanol"
    fields = data["fields"] if name == "md-field" else (0.0,)
    common = {"source": "trajectory", "molecule": molecule, "sampling": data["sampling"], **sizes}
    # Over a field all directions must occur; without one it tells more to train on those of the walks, and turn.
    directions = "uniform" if name == "md-field" else "walks"
    return [{"name": point_name(f), "field_au": f, "directions": directions, **common} for f in fields]


def point_name(field: float) -> str:
    """Of a point in records: the field in atomic units."""
    return f"{field:g}"


def _field_columns() -> tuple[Column, ...]:
    first, last = point_name(FIELDS[0]), point_name(FIELDS[-1])
    return (
        *(Column(f"force_mae_mev_per_a@{point_name(f)}", f"forces, {f:g} au") for f in FIELDS),
        Column(f"turned_force_mae_mev_per_a@{first}", f"rotated, {first} au"),
        Column(f"turned_force_mae_mev_per_a@{last}", f"rotated, {last} au"),
        Column(f"equivariance_error@{last}", f"equivariance error, {last} au", ".2g"),
        Column(f"weight_defect_mean@{first}", f"weight defect, {first} au", ".2g"),
        Column(f"weight_defect_mean@{last}", f"weight defect, {last} au", ".2g"),
        Column(f"seconds_per_step@{last}", "s / step", ".2g"),
    )


def _columns(names: Mapping[str, str]) -> tuple[Column, ...]:
    keys = {
        "force_mae_mev_per_a": "forces",
        "energy_mae_mev": "energy",
        "turned_force_mae_mev_per_a": "forces, rotated",
        "equivariance_error": "equivariance error",
        "weight_defect_mean": "weight defect",
        "force_mae_mev_per_a_equal_steps": "forces, equal steps",
        "steps": "steps",
        "training_seconds": "training, s",
        "seconds_per_step": "s / step",
    }
    return tuple(
        Column(f"{key}@{name}", f"{header}{text}", ",.0f" if key == "steps" else ".3g")
        for name, text in names.items()
        for key, header in keys.items()
    )


def _plot(records: list[dict[str, Any]], path: Any) -> None:
    from softeq.experiments.molecules.plots import plot_fields

    plot_fields(records, path)


_NOTES = (
    "Mean absolute errors on test frames of other walks: forces in meV/Angstrom, energies in meV.",
    "Rotated: each test frame rotated at random, its labels those of the rotated molecule in the field as it was.",
    "Variants: arm and training frames.",
)


def _comparison(name: str, summary: str, arms: Sequence[str], columns: tuple[Column, ...]) -> Comparison:
    return Comparison(
        name=name,
        summary=summary,
        arms=tuple(arms),
        samples=TRAINING_FRAMES,
        domain=Domain(task_of, build_model, network_of, functools.partial(points_of, name)),
        sizes=SIZES,
        lists=LISTS,
        columns=columns,
        notes=_NOTES,
        plot=_plot if name == "md-field" else None,
    )


_EXACT = ("hard", "soft", "soft-grid", "none", "none-augmented")
COMPARISONS: dict[str, Comparison] = {
    "md-field": _comparison(
        "md-field",
        "a potential for ethanol in a field (GFN2-xTB, 500 K): soft against hard, none, and hard told of the field",
        ("hard+cause", *_EXACT, "none-augmented-true"),
        _field_columns(),
    ),
    "md-ethanol": _comparison(
        "md-ethanol", "the same without a field, where SO(3) holds exactly", _EXACT, _columns({"0": ""})
    ),
    "md-aspirin": _comparison("md-aspirin", "the same for aspirin, 21 atoms", _EXACT, _columns({"0": ""})),
    "rmd17": _comparison(
        "rmd17",
        "ethanol and aspirin of the published rMD17, where its files are",
        _EXACT,
        _columns({"ethanol": ", ethanol", "aspirin": ", aspirin"}),
    ),
}
EXPERIMENTS: dict[str, Experiment] = {name: c.experiment() for name, c in COMPARISONS.items()}
