"""One run of ``md-field`` and its like: energies and forces of one molecule's frames, for one variant, size and seed.

A run goes over its points, which are fields (or files of a published set). At a point every trial is trained alike: the
same frames, start, order and number of steps. The trial with the lowest error of the forces on validation frames
counts, and all are kept in the record. Frames are split by blocks: those of one walk are on one side.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softeq import weight_defect
from softeq.experiments.engine.bookkeeping import counter, generator_for, rounded
from softeq.experiments.engine.experiment import Config, Metrics, Progress
from softeq.experiments.molecules.frames import Point, Split, prepared, rotations
from softeq.experiments.molecules.training import fit_potential
from softeq.groups import SO
from softeq.measure.errors import NotMeasurable
from softeq.measure.lee import local_equivariance_error
from softeq.measure.motion.actions import Invariant
from softeq.measure.motion.spaces import point_flows
from softeq.models.molecule_batches import MoleculeBatch, molecule_batch
from softeq.models.molecules import SoftPotential

_ROWS = 100  # frames at once where nothing is trained


def run(config: Config, progress: Progress) -> Metrics:
    """Train and measure at every point. A training that diverged is never chosen; if all did, the numbers are NaN."""
    on_step = counter(progress, len(config["points"]) * len(config["trials"]) * config["training"]["steps"])
    metrics: Metrics = {"points": {}}
    for point in config["points"]:
        found = run_point(point, config, on_step)
        metrics["points"][point["name"]] = found
        metrics |= {f"{key}@{point['name']}": found[key] for key in HEADLINES if key in found}
    metrics["parameters"] = next(iter(metrics["points"].values()))["parameters"]
    return metrics


HEADLINES = (
    "force_mae_mev_per_a",
    "energy_mae_mev",
    "turned_force_mae_mev_per_a",
    "turned_energy_mae_mev",
    "equivariance_error",
    "lee_ratio",
    "weight_defect_mean",
    "seconds_per_step",
)


def run_point(point: Mapping[str, Any], config: Config, on_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Everything about one point, see `HEADLINES`; the trials too.

    Args:
        point: ``name``, ``source`` and what the source needs, see `frames_of`.
        config: of the run.
        on_step: called after each step of a training.
    """
    began = time.perf_counter()
    data = prepared(point, config)
    models = [_trained(data, trial, config, on_step) for trial in config["trials"]]
    errors = [_errors(model, data.validation, data)["force"] if steps else math.inf for model, steps in models]
    best = min(range(len(errors)), key=lambda k: errors[k])
    model, steps = models[best]
    told = [{**trial, "validation_force_mae": rounded(e)} for trial, e in zip(config["trials"], errors, strict=True)]
    found = {
        **_measured(model, data, config, diverged=not steps),
        "seconds_per_step": rounded(float(np.median(steps))) if steps else math.nan,
        "chosen": best,
        "trials": told,
        "parameters": sum(p.numel() for p in model.parameters()),
        "force_rms_mev_per_a": rounded(1e3 * data.force_size),
    }
    return found | {"seconds": round(time.perf_counter() - began, 3)}


def build_model(config: Config, data: Point) -> SoftPotential:
    """The untrained potential of a configuration: the same parameters each time, torch's own generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        species = sorted(set(data.numbers.tolist()))
        model = SoftPotential(species, **config["network"], scale=data.force_size)
    return model.to(device=config["device"], dtype=getattr(torch, config["dtype"]))


def batch_of(x: Tensor, data: Point, model: SoftPotential) -> MoleculeBatch:
    """Frames ``(B, n, 3)`` for this model, with the field if it takes one."""
    return molecule_batch(data.numbers, list(x), cutoff=model.cutoff, field=data.field if model.field else None)


def _trained(
    data: Point, trial: Mapping[str, Any], config: Config, on_step: Callable[[], None]
) -> tuple[SoftPotential, list[float]]:
    """See `fit_potential`."""
    turns = generator_for(config["seed"], 3)

    def loss(model: SoftPotential, rows: Tensor) -> Tensor:
        frames = data.train.rows(rows.to(data.train.x.device))
        if config["augment"]:
            g = SO(3).sample(len(rows), generator=turns).to(frames.x)
            frames = Split(_turn(g, frames.x), frames.energy, _turn(g, frames.force))
        return _loss(model, frames, data)

    return fit_potential(build_model(config, data), loss, len(data.train.x), trial, config, on_step)


def _turn(g: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("bij,bnj->bni", g, vectors)


def _loss(model: SoftPotential, frames: Split, data: Point) -> Tensor:
    """Mean square error of the forces, and of the energy per atom and squared Angstrom, in units of the forces'."""
    energy, forces = model.energy_and_forces(batch_of(frames.x, data, model), create_graph=True)
    of_forces = (forces - frames.force.flatten(0, 1)).square().mean()
    of_energy = (energy - frames.energy).square().mean() / len(data.numbers)
    return (of_forces + of_energy) / data.force_size**2


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


def _measured(model: SoftPotential, data: Point, config: Config, *, diverged: bool) -> dict[str, Any]:
    if diverged:
        return dict.fromkeys(HEADLINES, math.nan)
    found, moved = _errors(model, data.test, data), _errors(model, data.turned, data)
    defects = {name: rounded(value) for name, value in weight_defect(model).items()}
    return {
        "force_mae_mev_per_a": rounded(found["force"]),
        "energy_mae_mev": rounded(found["energy"]),
        "turned_force_mae_mev_per_a": rounded(moved["force"]),
        "turned_energy_mae_mev": rounded(moved["energy"]),
        "equivariance_error": rounded(_equivariance_error(model, data)),
        "weight_defect": defects,
        "weight_defect_mean": rounded(math.fsum(defects.values()) / len(defects)),
        **_lee(model, data, config),
    }


def _equivariance_error(model: SoftPotential, data: Point) -> float:
    """``rms(F(g x) - g F(x)) / rms(F)``, each test frame turned by an element of its own; the field is not turned."""
    g = rotations(len(data.test.x), 11).to(data.test.x)
    forces = predicted(model, data.test.x, data)[1]
    moved = predicted(model, _turn(g, data.test.x), data)[1]
    return float((moved - _turn(g, forces)).norm() / forces.norm())


def _lee(model: SoftPotential, data: Point, config: Config) -> dict[str, Any]:
    """The energy's Lie derivative under rotations over that under noise, the median over frames, mean over axes."""
    flows = [flow for flow in point_flows(3) if flow.name.startswith("rotation")]

    def energies(x: Tensor) -> Tensor:
        return model(batch_of(x, data, model))[:, None]

    try:
        x = data.test.x[: config["measured"]]
        result = local_equivariance_error(energies, x, flows, output=Invariant(), stencil=None)
    except NotMeasurable as error:
        return {"not_measurable": str(error)}
    return {"lee_ratio": rounded(float(result.ratio_to_control().nanmedian(0).values.mean()))}
