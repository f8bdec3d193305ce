"""``qm9-like``: energies and dipoles of many small molecules, where the symmetry is exact: hard, soft, none.

One network gives both: its energy in a field, whose slope at no field is the dipole. In the hard one the energy is
invariant and the dipole turns with the molecule. ``qm9`` is the published set, whose files have the dipole's size and
not its direction: there the size of the slope is trained. The number in a variant's name is that of its training
molecules.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softeq import weight_defect
from softeq.errors import SofteqValueError
from softeq.experiments.engine.bookkeeping import counter, generator_for, rounded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.molecules.field import ARMS as ALL_ARMS
from softeq.experiments.molecules.field import PLAIN_TRIALS, SOFT_TRIALS
from softeq.experiments.molecules.frames import rotations
from softeq.experiments.molecules.parts import SPECIES, Part, prepared, rms
from softeq.experiments.molecules.training import fit_potential
from softeq.groups import SO
from softeq.models.molecule_batches import MoleculeBatch, molecule_batch
from softeq.models.molecules import SoftPotential

ARMS = ("hard", "soft", "none", "none-augmented")
TRAINING_MOLECULES: Mapping[str, tuple[int, ...]] = {"qm9-like": (100, 250), "qm9": (250, 1000)}
HEADLINES = (
    "energy_mae_mev",
    "turned_energy_mae_mev",
    "dipole_error_e_a",
    "turned_dipole_error_e_a",
    "equivariance_error",
    "dipole_equivariance_error",
    "weight_defect_mean",
)
_ROWS = 64  # molecules at once where nothing is trained
_NETWORK = {"channels": 16, "lmax": 1, "layers": 2}
_LARGE = {"channels": 32, "lmax": 2, "layers": 3}
# Sizes: of training (at most), validation and test. A limit is of the molecules that are read.
_SMOKE = {"seeds": 1, "limit": 24, "sizes": (12, 4, 8), "steps": 8, "network": _NETWORK | {"channels": 4}}
PRESETS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "qm9-like": {
        "smoke": _SMOKE,
        "short": {"seeds": 3, "limit": None, "sizes": (250, 60, 100), "steps": 300, "network": _NETWORK},
        "default": {"seeds": 3, "limit": None, "sizes": (250, 60, 100), "steps": 1500, "network": _NETWORK},
        "paper": {"seeds": 5, "limit": None, "sizes": (250, 60, 100), "steps": 20_000, "network": _LARGE},
    },
    "qm9": {
        "smoke": _SMOKE,
        "short": {"seeds": 3, "limit": 5000, "sizes": (1000, 200, 400), "steps": 400, "network": _NETWORK},
        "default": {"seeds": 5, "limit": 10_000, "sizes": (1000, 300, 1000), "steps": 2000, "network": _NETWORK},
        "paper": {"seeds": 5, "limit": None, "sizes": (1000, 1000, 10_000), "steps": 50_000, "network": _LARGE},
    },
}


def configure(name: str, preset: str, variant: str, seed: int) -> Config:
    """The complete configuration of one run.

    Args:
        name: ``qm9-like`` or ``qm9``.
        preset: a key of the experiment's `PRESETS`.
        variant: one of `ARMS` and a number of training molecules, as ``hard-250``.
        seed: 0 or more; draws the training and validation molecules, the start and the order.

    Raises:
        SofteqValueError: an unknown variant.
    """
    size, (arm, _, wanted) = PRESETS[name][preset], variant.rpartition("-")
    if arm not in ARMS or not wanted.isdecimal() or int(wanted) not in TRAINING_MOLECULES[name]:
        raise SofteqValueError(f"variant: expected an arm and a number such as hard-250, got {variant!r}")
    own, (most, validation, test) = ALL_ARMS[arm], size["sizes"]
    return {
        "data": {"source": name, "limit": size["limit"]},
        "sizes": [min(int(wanted), most), validation, test],
        "network": {**size["network"], "cutoff": 4.5, "constraint": own["constraint"]},
        "augment": own.get("augment", False),
        "trials": list(SOFT_TRIALS if own["constraint"] == "soft" else PLAIN_TRIALS),
        "training": {"steps": size["steps"], "batch_size": 16, "clip": 10.0},
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """Train every trial, measure the best one. A training that diverged is never chosen; if all did, there is NaN."""
    on_step = counter(progress, len(config["trials"]) * config["training"]["steps"])
    train, validation, test = prepared(config)
    models = [_trained(train, trial, config, on_step) for trial in config["trials"]]
    errors = [float(_loss(m, validation, train)) if taken else math.inf for m, taken in models]
    errors = [error if math.isfinite(error) else math.inf for error in errors]
    best = min(range(len(errors)), key=lambda k: errors[k])
    model, taken = models[best]
    return {
        **(_measured(model, test) if taken else dict.fromkeys(HEADLINES, math.nan)),
        "seconds_per_step": rounded(float(np.median(taken))) if taken else math.nan,
        "chosen": best,
        "trials": [{**t, "validation_loss": rounded(e)} for t, e in zip(config["trials"], errors, strict=True)],
        "parameters": sum(p.numel() for p in model.parameters()),
        "energy_rms_mev": rounded(1e3 * rms(train.energy)),
        "dipole_rms_e_a": rounded(train.dipole_rms),
    }


def build_model(config: Config, train: Part) -> SoftPotential:
    """The untrained network of a configuration: the same parameters each time, torch's own generator left alone."""
    atoms = sum(map(len, train.numbers)) / len(train.numbers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = SoftPotential(SPECIES, **config["network"], field=True, scale=rms(train.energy) * atoms**-0.5)
    return model.to(device=config["device"], dtype=getattr(torch, config["dtype"]))


def _batch(part: Part, model: SoftPotential) -> MoleculeBatch:
    return molecule_batch(part.numbers, part.places, cutoff=model.cutoff, field=(0.0, 0.0, 0.0))


def energy_and_dipole(model: SoftPotential, part: Part, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Energies ``(B,)`` in eV at no field, and dipoles ``(B, 3)`` in e Angstrom: minus the energy's slope in the field.

    Args:
        model: with ``field=True``.
        part: the molecules.
        create_graph: whether a loss of the dipoles can be differentiated.
    """
    batch = _batch(part, model)
    with torch.enable_grad():
        field = batch.positions.new_zeros(batch.size, 3).requires_grad_()
        energy = model(dataclasses.replace(batch, field=field))
        (slope,) = torch.autograd.grad(energy.sum(), field, create_graph=create_graph)
    return (energy if create_graph else energy.detach()), -slope


def _trained(
    train: Part, trial: Mapping[str, Any], config: Config, on_step: Callable[[], None]
) -> tuple[SoftPotential, list[float]]:
    """See `fit_potential`."""
    turns = generator_for(config["seed"], 3)

    def loss(model: SoftPotential, rows: Tensor) -> Tensor:
        part = train.rows(rows)
        if config["augment"]:
            part = part.turned(SO(3).sample(len(rows), generator=turns).to(part.energy))
        return _loss(model, part, train, create_graph=True)

    return fit_potential(build_model(config, train), loss, len(train.places), trial, config, on_step)


def _loss(model: SoftPotential, part: Part, train: Part, *, create_graph: bool = False) -> Tensor:
    """Mean square errors of energy and dipole, or its size, each in units of its size among the training molecules."""
    energy, dipole = energy_and_dipole(model, part, create_graph=create_graph)
    loss = ((energy - part.energy) / rms(train.energy)).square().mean()
    error = part.dipole_error(dipole)
    return loss if error is None else loss + (error / train.dipole_rms).square().mean() / 3


def _predicted(model: SoftPotential, part: Part) -> tuple[Tensor, Tensor]:
    found = [energy_and_dipole(model, part.rows(rows)) for rows in torch.arange(len(part.places)).split(_ROWS)]
    return torch.cat([energy for energy, _ in found]), torch.cat([dipole for _, dipole in found])


def _errors(energy: Tensor, dipole: Tensor, part: Part) -> tuple[float, float]:
    """Mean absolute error in meV, and mean error of the dipole or its size in e Angstrom."""
    error = part.dipole_error(dipole)
    of_dipole = math.nan if error is None else float(error.mean())
    return rounded(1e3 * float((energy - part.energy).abs().mean())), rounded(of_dipole)


def _measured(model: SoftPotential, test: Part) -> dict[str, Any]:
    g = rotations(len(test.places), 11).to(test.energy)
    turned = test.turned(g)
    (energy, dipole), (moved, moved_dipole) = _predicted(model, test), _predicted(model, turned)
    still, shifted = _errors(energy, dipole, test), _errors(moved, moved_dipole, turned)
    carried = torch.einsum("bij,bj->bi", g, dipole)
    defects = {name: rounded(value) for name, value in weight_defect(model).items()}
    of_dipole = float((moved_dipole - carried).norm() / carried.norm())
    found = (
        *(still[0], shifted[0], still[1], shifted[1]),
        rounded(float((moved - energy).norm() / energy.norm())),
        math.nan if math.isnan(still[1]) else rounded(of_dipole),
        rounded(math.fsum(defects.values()) / len(defects)),
    )
    return {**dict(zip(HEADLINES, found, strict=True)), "weight_defect": defects}


def _experiment(name: str, summary: str, dipole: str) -> Experiment:
    headers = ("energy", "energy, turned", "dipole", "dipole, turned", "equivariance error", "of the dipole", "defect")
    return Experiment(
        name=name,
        summary=summary,
        variants=tuple(f"{arm}-{n}" for n, arm in itertools.product(TRAINING_MOLECULES[name], ARMS)),
        presets={preset: size["seeds"] for preset, size in PRESETS[name].items()},
        configure=functools.partial(configure, name),
        run=run,
        columns=tuple(Column(key, header) for key, header in zip(HEADLINES, headers, strict=True)),
        notes=(
            f"Energies: mean absolute error, meV. Dipoles: mean {dipole}, e Angstrom. Turned: at random.",
            "Variants: constraint and training molecules. Each chose among as many trials on validation molecules.",
        ),
    )


EXPERIMENTS: dict[str, Experiment] = {
    "qm9-like": _experiment(
        "qm9-like", "energies and dipoles of small molecules (GFN2-xTB): hard, soft, none", "length of the error"
    ),
    "qm9": _experiment(
        "qm9",
        "energies and dipole sizes of the published QM9 (B3LYP): hard, soft, none",
        "absolute error of the size",
    ),
}
