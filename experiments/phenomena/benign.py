"""``benign``: labels that are noise, fitted to the last one: what it costs, and which pathway holds the noise.

Digits of 8 x 8 pixels at random quarter turns; a share of the training labels is drawn anew at random. Each network
trains until it fits every label or its steps are used up. The weight defect, and the effective parameters of the
equivariant maps and of the rest (`phenomena.curvature`), say where the noise went.

Beside it Gaussian processes on the plane interpolate a function of period 90 degrees under noise: hard has the kernel
averaged over quarter turns, none the kernel itself, soft the first plus ``SHARE`` of the second. Their interpolants are
sums of an invariant part and of the rest, in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from softeq.experiments.data.quarters import ROTATED, QuarterPoint, load_quarters
from softeq.experiments.engine.bookkeeping import DATA, MEASURE, counter, generator_for, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.curvature import effective_parameters, plain
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.panels import Panel, panels
from softeq.experiments.phenomena.quarters import QuarterTask, fitted, free_parameters, quarter_network

ARMS = ("hard", "soft", "none")
NOISE = (0.0, 0.2, 0.4)
SIDE, SHARE = 8, 0.1
PRIOR = {"equivariant": 0.01, "residual": 0.1}
"""Weak, in nats for the whole data set, so that every label can be fitted; a residual weight is ten times as dear."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "seeds": 1,
        "noise": [0.4],
        "sizes": (60, 10, 100),
        "network": {"width": 4},
        "training": {"steps": 30, "batch_size": 60, "lr": 1e-2, "validate_every": 30},
        "process": {"samples": 20, "test": 40},
    },
    "default": {
        "seeds": 5,
        "noise": list(NOISE),
        "sizes": (200, 20, 597),
        "network": {"width": 16},
        "training": {"steps": 500, "batch_size": 100, "lr": 1e-2, "validate_every": 500},
        "process": {"samples": 80, "test": 300},
    },
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size = SIZES[preset]
    return {
        "arm": variant,
        "noise": size["noise"],
        "data": {"source": "digits", "sizes": list(size["sizes"]), "point": asdict(ROTATED)},
        "network": {"side": SIDE, "constraint": variant, **size["network"]},
        "training": dict(size["training"]),
        "prior": dict(PRIOR),
        "process": {**size["process"], "share": SHARE},
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """At every share of noise ``@q``: ``train_error``, ``test_error``, ``equivariance_error``, ``weight_defect_mean``,
    ``effective_equivariant``, ``effective_rest``; of the processes (noise of standard deviation q) ``gp_error``, the
    mean squared error of the interpolant against the noiseless function, ``gp_best``, at the noise's true variance, and
    ``gp_residual_share``, the rest's part of what the noise alone puts into the interpolant."""
    step = counter(progress, len(config["noise"]) * config["training"]["steps"])
    metrics: Metrics = {}
    for q in config["noise"]:
        found = {**_network(config, q, step), **process(config, q)}
        metrics |= {f"{key}@{q:g}": value for key, value in found.items()}
    return metrics


def noisy_labels(y: Tensor, share: float, classes: int, generator: torch.Generator) -> Tensor:
    """``y (n,)`` with exactly ``round(share n)`` labels drawn anew from all classes, so that a tenth of them stay."""
    rows = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    drawn = y.clone()
    drawn[rows] = torch.randint(0, classes, (len(rows),), generator=generator)
    return drawn


def _network(config: Config, q: float, step: Any) -> Metrics:
    data = load_quarters(
        "digits", tuple(config["data"]["sizes"]), QuarterPoint(**config["data"]["point"]), config["seed"]
    )
    labels = noisy_labels(data.y_train, q, data.classes, generator_for(config["seed"], MEASURE))
    task = QuarterTask(replace(data, y_train=labels))
    model = seeded(config, lambda: quarter_network(**config["network"]))
    fitted(model, task, config["training"], config["seed"], prior=config["prior"], on_step=step)
    found = task.measure(model)
    inside, outside = prior_variances(config["arm"], config["prior"])
    effective = effective_parameters(plain(model), task.data.x_train, inside, outside)
    return {
        "train_error": rounded(1 - found["train_accuracy"]),
        "test_error": rounded(1 - found["test_accuracy"]),
        "equivariance_error": found["equivariance_error"],
        "weight_defect_mean": rounded(found["weight_defect_mean"]),
        "effective_equivariant": rounded(effective[0]),
        "effective_rest": rounded(effective[1]),
        "parameters": free_parameters(model),
    }


def prior_variances(arm: str, prior: Mapping[str, float]) -> tuple[float, float]:
    """Of an equivariant coordinate of the merged weight and of another, from the precisions of the pathways."""
    equivariant, residual = 1 / prior["equivariant"], 1 / prior["residual"]
    return {"hard": (equivariant, 0.0), "soft": (equivariant + residual, residual), "none": (residual, residual)}[arm]


def truth(points: Tensor) -> Tensor:
    """A function on the plane, ``(n, 2)`` to ``(n,)``, that quarter turns leave alone."""
    angle, radius = torch.atan2(points[:, 1], points[:, 0]), points.norm(dim=1)
    return radius * torch.cos(4 * angle) + torch.cos(2 * radius)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """``exp(-|a - b|)``, ``(n, m)``: rough, so that noise is interpolated by spikes and not by waves."""
    return (-torch.cdist(a, b)).exp()


def invariant_kernel(a: Tensor, b: Tensor) -> Tensor:
    """`kernel` averaged over the quarter turns of one side: that of the invariant part of a function."""
    turned = [b, torch.stack([-b[:, 1], b[:, 0]], 1), -b, torch.stack([b[:, 1], -b[:, 0]], 1)]
    return torch.stack([kernel(a, one) for one in turned]).mean(0)


def process(config: Config, q: float) -> Metrics:
    """What `run` says of the Gaussian processes."""
    generator = generator_for(config["seed"], DATA)
    n, m = config["process"]["samples"], config["process"]["test"]
    points = 1.5 * torch.randn(n + m, 2, generator=generator, dtype=torch.float64)
    noise = q * torch.randn(n, generator=generator, dtype=torch.float64)
    x, new = points[:n], points[n:]
    inside, rest = _parts(config["arm"], config["process"]["share"], x, x)
    inside_new, rest_new = _parts(config["arm"], config["process"]["share"], new, x)
    gram, target = inside + rest, truth(new)
    eye = torch.eye(n, dtype=gram.dtype)

    def predicted(values: Tensor, variance: float) -> tuple[Tensor, Tensor]:
        weights = torch.linalg.solve(gram + variance * eye, values)
        return inside_new @ weights, rest_new @ weights

    jitter = 1e-8  # interpolation, as far as float64 solves it
    interpolant = sum(predicted(truth(x) + noise, jitter))
    best = sum(predicted(truth(x) + noise, max(q * q, jitter)))
    found = {"gp_error": (interpolant - target).square().mean(), "gp_best": (best - target).square().mean()}
    if q:
        parts = [part.square().mean() for part in predicted(noise, jitter)]
        found["gp_residual_share"] = parts[1] / (parts[0] + parts[1])
    return {key: rounded(float(value)) for key, value in found.items()}


def _parts(arm: str, share: float, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The kernels of a process's invariant part and of the rest, which is orthogonal to it."""
    whole, invariant = kernel(a, b), invariant_kernel(a, b)
    rest = whole - invariant
    if arm == "hard":
        return invariant, torch.zeros_like(rest)
    return ((1 + share) * invariant, share * rest) if arm == "soft" else (invariant, rest)


_NAMES = tuple(f"{q:g}" for q in NOISE)
_X = tuple(NOISE)


def _panel(key: str, label: str, names: tuple[str, ...] = _NAMES, **how: Any) -> Panel:
    x = tuple(float(name) for name in names)
    return Panel(label, tuple(f"{key}@{name}" for name in names), x, how.pop("xlabel", "share of random labels"), **how)


EXPERIMENTS: dict[str, Experiment] = {
    "benign": Experiment(
        name="benign",
        summary="random labels fitted to the last one: test error, and which pathway holds the noise",
        variants=ARMS,
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            Column("test_error@0.4", "test error, 40% random labels", ".3f"),
            *(Column(f"test_error@{q}", f"test error, q = {q}", ".3f") for q in _NAMES[:2]),
            Column("train_error@0.4", "training error, q = 0.4", ".3f"),
            *(Column(f"weight_defect_mean@{q}", f"weight defect, q = {q}", ".3f") for q in _NAMES),
            *(Column(f"effective_equivariant@{q}", f"effective, equivariant, q = {q}", ".0f") for q in _NAMES),
            *(Column(f"effective_rest@{q}", f"the rest, q = {q}", ".0f") for q in _NAMES),
            *(Column(f"gp_error@{q}", f"process: interpolant's error, noise {q}", ".3g") for q in _NAMES),
            *(Column(f"gp_best@{q}", f"at the noise's variance, noise {q}", ".3g") for q in _NAMES[1:]),
            Column("gp_residual_share@0.4", "process: share of the noise outside the symmetry", ".3f"),
        ),
        notes=(
            "q: the share of the 200 training labels that are drawn at random. Test labels are clean.",
            "Effective parameters: those that the data determine, by the Gauss-Newton curvature.",
        ),
        plot=panels(
            [
                _panel("test_error", "test error", title="networks"),
                _panel("weight_defect_mean", "weight defect"),
                _panel("effective_rest", "effective parameters, rest"),
            ],
            [
                _panel("gp_error", "error of the interpolant", xlabel="noise", logy=True, title="Gaussian processes"),
                _panel("gp_best", "error at the true noise", xlabel="noise", logy=True),
                _panel("gp_residual_share", "noise outside the symmetry", _NAMES[1:], xlabel="noise"),
            ],
        ),
        group=GROUP,
    )
}
