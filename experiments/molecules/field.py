"""``md-field`` and its like: soft against hard and none on molecules, while a field breaks their symmetry.

``md-field``: ethanol at 500 K in a uniform electric field, which breaks SO(3) to the rotations about it, from none to
strong. A hard model that is not told of the field cannot see its direction; ``hard+field`` is told, and is the honest
rival of softness. ``md-ethanol`` and ``md-aspirin`` are free of fields and larger; ``rmd17`` is the published set.
The number in a variant's name is that of its training frames.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from softeq.errors import SofteqValueError
from softeq.experiments.data.walks import Sampling
from softeq.experiments.engine.experiment import Column, Config, Experiment
from softeq.experiments.molecules import run as molecule_run

ARMS: Mapping[str, dict[str, Any]] = {
    "hard": {"constraint": "hard"},
    "soft": {"constraint": "soft"},
    "none": {"constraint": "none"},
    "none-augmented": {"constraint": "none", "augment": True},
    "hard+field": {"constraint": "hard", "field": True},
}
"""The network's constraint, whether training frames are turned anew in every batch, whether the field is an input."""
TRAINING_FRAMES = (50, 200, 950)
FIELDS = (0.0, 0.005, 0.01, 0.015, 0.02)
"""Atomic units, 51.4 V/Angstrom each."""

SAMPLING = Sampling()
Trial = dict[str, Any]
PLAIN_TRIALS: tuple[Trial, ...] = tuple({"lr": lr, "prior": None} for lr in (5e-3, 1e-2, 2e-2))
SOFT_TRIALS: tuple[Trial, ...] = tuple(
    {"lr": lr, "prior": {"equivariant": 1e-4, "residual": residual}}
    for lr, residual in ((1e-2, 1.0), (1e-2, 100.0), (2e-2, 10.0))
)
"""As many as of the others. The precisions are for all training frames together."""


@dataclass(frozen=True)
class Size:
    """How large a preset is.

    Args:
        seeds: of each variant.
        fields: of ``md-field``, atomic units.
        share: of `TRAINING_FRAMES` that is used.
        validation, test: frames.
        steps: of every training.
        channels, lmax, layers: of the network.
        sampling: of the frames.
        measured: test frames whose Lie derivative is taken.
    """

    seeds: int
    fields: Sequence[float] = FIELDS
    share: float = 1.0
    validation: int = 100
    test: int = 200
    steps: int = 800
    channels: int = 16
    lmax: int = 1
    layers: int = 2
    sampling: Sampling = SAMPLING
    measured: int = 20


SIZES: Mapping[str, Size] = {
    "smoke": Size(
        1,
        fields=(0.0, 0.02),
        share=0.02,
        validation=4,
        test=4,
        steps=10,
        channels=4,
        sampling=Sampling(walks=8, frames=5, burn=50, thin=10),
        measured=2,
    ),
    "short": Size(3, fields=(0.0, 0.02), steps=400),
    "default": Size(3),
    "paper": Size(5, validation=300, test=500, steps=20_000, channels=32, lmax=2, layers=3, measured=200),
}


def variants(arms: Sequence[str]) -> tuple[str, ...]:
    """Every arm at every number of training frames."""
    return tuple(f"{arm}-{n}" for n, arm in itertools.product(TRAINING_FRAMES, arms))


def configure(name: str, preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run.

    Args:
        name: of the experiment.
        preset: a key of `SIZES`.
        variant: an arm of `ARMS` and a number of training frames, as ``hard-200``.
        seed: 0 or more.

    Raises:
        SofteqValueError: an unknown variant.
    """
    size, (arm, _, wanted) = SIZES[preset], variant.rpartition("-")
    if arm not in ARMS or not wanted.isdecimal() or int(wanted) not in TRAINING_FRAMES:
        raise SofteqValueError(f"variant: expected an arm and a number such as hard-200, got {variant!r}")
    own = ARMS[arm]
    trials = SOFT_TRIALS if own["constraint"] == "soft" else PLAIN_TRIALS
    return {
        "points": points(name, size),
        "sizes": {
            "train": max(2, round(int(wanted) * size.share)),
            "validation": size.validation,
            "test": size.test,
        },
        "network": {
            "channels": size.channels,
            "lmax": size.lmax,
            "layers": size.layers,
            "cutoff": 4.5,
            "constraint": own["constraint"],
            "field": own.get("field", False),
        },
        "augment": own.get("augment", False),
        "trials": list(trials),
        "training": {"steps": size.steps, "batch_size": 10, "clip": 10.0},
        "measured": size.measured,
        "seed": seed,
        "device": "cuda" if preset == "paper" and torch.cuda.is_available() else "cpu",
        "dtype": "float32",
    }


def points(name: str, size: Size) -> list[dict[str, Any]]:
    """The points over which a run goes: fields, or molecules of the published set."""
    if name == "rmd17":
        return [{"name": m, "source": "rmd17", "molecule": m} for m in ("ethanol", "aspirin")]
    molecule = "aspirin" if name == "md-aspirin" else "ethanol"
    fields = size.fields if name == "md-field" else (0.0,)
    common = {"source": "trajectory", "molecule": molecule, "sampling": asdict(size.sampling)}
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
        Column(f"turned_force_mae_mev_per_a@{first}", f"turned, {first} au"),
        Column(f"turned_force_mae_mev_per_a@{last}", f"turned, {last} au"),
        Column(f"equivariance_error@{last}", f"equivariance error, {last} au", ".2g"),
        Column(f"weight_defect_mean@{first}", f"weight defect, {first} au", ".2g"),
        Column(f"weight_defect_mean@{last}", f"weight defect, {last} au", ".2g"),
        Column(f"seconds_per_step@{last}", "s / step", ".2g"),
    )


def _columns(names: Mapping[str, str]) -> tuple[Column, ...]:
    keys = {
        "force_mae_mev_per_a": "forces",
        "energy_mae_mev": "energy",
        "turned_force_mae_mev_per_a": "forces, turned",
        "equivariance_error": "equivariance error",
        "weight_defect_mean": "weight defect",
        "seconds_per_step": "s / step",
    }
    return tuple(
        Column(f"{key}@{name}", f"{header}{text}", ".3g")
        for name, text in names.items()
        for key, header in keys.items()
    )


def _plot(records: list[dict[str, Any]], path: Any) -> None:
    from softeq.experiments.molecules.plots import plot_fields

    plot_fields(records, path)


_NOTES = (
    "Mean absolute errors on test frames of other walks: forces in meV/Angstrom, energies in meV.",
    "Turned: each test frame turned at random, its labels those of the turned molecule in the unturned field.",
    "Variants: constraint and training frames. Each chose among three trials on validation frames, at every point.",
)


def _experiment(name: str, summary: str, arms: Sequence[str], columns: tuple[Column, ...]) -> Experiment:
    return Experiment(
        name=name,
        summary=summary,
        variants=variants(arms),
        presets={preset: size.seeds for preset, size in SIZES.items()},
        configure=functools.partial(configure, name),
        run=molecule_run.run,
        columns=columns,
        notes=_NOTES,
        plot=_plot if name == "md-field" else None,
    )


_EXACT = ("hard", "soft", "none", "none-augmented")
EXPERIMENTS: dict[str, Experiment] = {
    "md-field": _experiment(
        "md-field",
        "a potential for ethanol in a field (GFN2-xTB, 500 K): soft against hard, none, and hard told of the field",
        tuple(ARMS),
        _field_columns(),
    ),
    "md-ethanol": _experiment(
        "md-ethanol", "the same without a field, where SO(3) holds exactly", _EXACT, _columns({"0": ""})
    ),
    "md-aspirin": _experiment("md-aspirin", "the same for aspirin, 21 atoms", _EXACT, _columns({"0": ""})),
    "rmd17": _experiment(
        "rmd17",
        "ethanol and aspirin of the published rMD17, where its files are",
        _EXACT,
        _columns({"ethanol": ", ethanol", "aspirin": ", aspirin"}),
    ),
}
