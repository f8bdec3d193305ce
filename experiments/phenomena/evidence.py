"""``evidence``: the exact log evidence of hard, soft, ladder and free linear maps, over the dial and the samples.

Second-rank tensors to second-rank tensors of O(3), 81 weights of which 3 are equivariant and more are so under O(2)
about the z axis. The truth is an equivariant map and, at ``e`` times its size, one that breaks the symmetry: along z
(``axis``), or anyhow (``free``). Every arm is the same Gaussian model with a prior variance for each of its subspaces;
variances and noise are those of the largest evidence. ``conditional`` is the log evidence of the second half of the
data given the first (Lotfi et al., ICML 2022) at the same variances; fitted to the first half alone, where 8 samples or
fewer have fewer outputs than there are weights, they take the noise for zero. ``excess`` is the mean squared error of
the posterior mean above the noise, per output.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softeq import T, equivariant_basis
from softeq.experiments.engine.bookkeeping import DATA, counter, generator_for, rounded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.gaussian import LinearModel, all_maps, complement
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.panels import Panel, panels
from softeq.groups import O, O2eR3

ARMS = ("hard", "hard-true", "soft", "soft-ladder", "none")
DIAL = ({"name": "0", "size": 0.0, "kind": "axis"},) + tuple(
    {"name": name, "size": size, "kind": kind}
    for name, size, kind in (
        (".1", 0.1, "axis"),
        (".3", 0.3, "axis"),
        ("1", 1.0, "axis"),
        ("1-free", 1.0, "free"),
    )
)
SAMPLES = (8, 16, 64)
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"seeds": 1, "points": [DIAL[0], DIAL[2]], "samples": [16]},
    "default": {"seeds": 10, "points": list(DIAL), "samples": list(SAMPLES)},
}
NOISE = 0.1


@functools.cache
def spaces() -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal bases of three orthogonal subspaces of the maps ``(9, 9)``: equivariant under O(3); under O(2) about
    z and not under O(3); the rest."""
    whole = all_maps(9, 9)
    hard, axis = (equivariant_basis(T(2)(G), T(2)(G)) for G in (O(3), O2eR3()))
    return hard, complement(hard, axis), complement(axis, whole)


def model_of(arm: str) -> LinearModel:
    """The model of an arm."""
    hard, axis, rest = spaces()
    parts = {
        "hard": [hard],
        "hard-true": [torch.cat([hard, axis])],
        "soft": [hard, torch.cat([axis, rest])],
        "soft-ladder": [hard, axis, rest],
        "none": [torch.cat([hard, axis, rest])],
    }
    return LinearModel(parts[arm])


def truth(point: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """A map ``(9, 9)``: its equivariant part has norm 3, so that outputs have variance 1; the rest ``size`` times
    that."""
    hard, axis, rest = spaces()
    breaking = axis if point["kind"] == "axis" else torch.cat([axis, rest])
    return _drawn(hard, generator) + point["size"] * _drawn(breaking, generator)


def _drawn(basis: Tensor, generator: torch.Generator) -> Tensor:
    coordinates = torch.randn(len(basis), generator=generator, dtype=torch.float64)
    return 3 * torch.einsum("r,roi->oi", coordinates / coordinates.norm(), basis)


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size = SIZES[preset]
    points = [dict(point) for point in size["points"]]
    return {"arm": variant, "points": points, "samples": size["samples"], "noise": NOISE, "seed": seed, "device": "cpu"}


def run(config: Config, progress: Progress) -> Metrics:
    """``evidence``, ``conditional`` (nats), ``excess`` and ``noise`` (standard deviation) ``@point-samples``."""
    model, step = model_of(config["arm"]), counter(progress, len(config["points"]) * len(config["samples"]))
    metrics: Metrics = {"parameters": len(model.basis)}
    for place, point in enumerate(config["points"]):
        for n in config["samples"]:
            step_metrics = _at(model, point, n, config, place)
            metrics |= {f"{key}@{point['name']}-{n}": rounded(value) for key, value in step_metrics.items()}
            step()
    return metrics


def _at(model: LinearModel, point: Mapping[str, Any], n: int, config: Config, place: int) -> dict[str, float]:
    generator = generator_for(config["seed"], DATA + 10 * place)
    weight = truth(point, generator)
    x = torch.randn(max(SAMPLES), 9, generator=generator, dtype=torch.float64)[:n]
    noise = torch.randn(max(SAMPLES), 9, generator=generator, dtype=torch.float64)[:n]
    y = x @ weight.T + config["noise"] * noise
    prior, evidence = model.fit(x, y)
    conditional = evidence - model.log_evidence(x[: n // 2], y[: n // 2], prior)
    error = model.posterior_mean(x, y, prior) - weight
    return {
        "evidence": evidence,
        "conditional": conditional,
        "excess": error.square().sum().item() / len(weight),
        "noise": (prior.log_noise / 2).exp().item(),
    }


_NAMES = tuple(str(point["name"]) for point in DIAL)
_AXIS = _NAMES[:4]


def _row(n: int) -> list[Panel]:
    shown = (("evidence", "log evidence, nats"), ("conditional", "conditional, nats"), ("excess", "excess error"))
    return [
        Panel(label, tuple(f"{key}@{p}-{n}" for p in _AXIS), _AXIS, "breaking e", f"N = {n}", logy=key == "excess")
        for key, label in shown
    ]


EXPERIMENTS: dict[str, Experiment] = {
    "evidence": Experiment(
        name="evidence",
        summary="exact log evidence of hard, soft, ladder and free linear maps while the symmetry is broken",
        variants=ARMS,
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            *(Column(f"evidence@{p}-16", f"log evidence, e = {p}", ".1f") for p in _AXIS),
            *(Column(f"conditional@{p}-16", f"conditional, e = {p}", ".1f") for p in _AXIS),
            *(Column(f"excess@{p}-16", f"excess error, e = {p}", ".3g") for p in _AXIS),
        ),
        notes=(
            "e: the size of the part of the true map that breaks O(3), along z, over that of the equivariant part.",
            "hard-true: hard to O(2) about z, which holds along this dial. Noise .1; N = 16 inputs of 9 outputs.",
        ),
        plot=panels(_row(16), _row(64)),
        group=GROUP,
    )
}
