"""``evidence-digits``: the log evidence of networks by Laplace's approximation, over the dial of quarter turns.

The same question as ``evidence``, of networks with one hidden layer on 8 x 8 digits: ``evidence`` is of all training
images, ``conditional`` that of their second half given the first: the difference to the evidence of a network that was
trained on the first half alone. Priors are fixed, the same in training and in the approximation (`phenomena.laplace`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from softeq.experiments.data.images import LabelledImages
from softeq.experiments.data.quarters import BROKEN, ROTATED, UPRIGHT, load_quarters, quarter_points
from softeq.experiments.engine.bookkeeping import counter, rounded, seeded
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.phenomena.benign import prior_variances
from softeq.experiments.phenomena.curvature import plain
from softeq.experiments.phenomena.group_line import GROUP
from softeq.experiments.phenomena.laplace import laplace
from softeq.experiments.phenomena.panels import Panel, panels
from softeq.experiments.phenomena.quarters import QuarterTask, fitted, quarter_network
from softeq.experiments.phenomena.uncertainty import PRIORS, SIDE

ARMS = ("hard", "soft", "none")
POINTS = (UPRIGHT, ROTATED, BROKEN)
SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "seeds": 1,
        "points": (ROTATED,),
        "sizes": (40, 10, 60),
        "network": {"width": 2},
        "training": {"steps": 20, "batch_size": 40, "lr": 2e-2, "validate_every": 20},
    },
    "default": {
        "seeds": 5,
        "points": POINTS,
        "sizes": (200, 20, 500),
        "network": {"width": 4},
        "training": {"steps": 250, "batch_size": 100, "lr": 2e-2, "validate_every": 250},
    },
}


def configure(preset: str, variant: str, seed: int) -> Config:
    """See `Experiment`."""
    size = SIZES[preset]
    return {
        "arm": variant,
        "points": [asdict(point) for point in size["points"]],
        "data": {"source": "digits", "sizes": list(size["sizes"])},
        "network": {"side": SIDE, "constraint": variant, **size["network"]},
        "training": dict(size["training"]),
        "prior": dict(PRIORS[variant]),
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """At every point: ``evidence`` and ``conditional`` in nats, ``test_error``, ``test_nll`` in nats per image."""
    step = counter(progress, 2 * len(config["points"]) * config["training"]["steps"])
    metrics: Metrics = {}
    for point in quarter_points(config["points"]):
        data = load_quarters("digits", tuple(config["data"]["sizes"]), point, config["seed"])
        half = len(data.x_train) // 2
        first = replace(data, x_train=data.x_train[:half], y_train=data.y_train[:half])
        whole, found = _evidence(config, data, step)
        before, _ = _evidence(config, first, step)
        found |= {"evidence": whole, "conditional": whole - before}
        metrics |= {f"{key}@{point.name}": rounded(value) for key, value in found.items()}
    return metrics


def _evidence(config: Config, data: LabelledImages, step: Any) -> tuple[float, dict[str, float]]:
    task, model = QuarterTask(data), seeded(config, lambda: quarter_network(**config["network"]))
    fitted(model, task, config["training"], config["seed"], prior=config["prior"], on_step=step)
    variances = prior_variances(config["arm"], config["prior"])
    around = laplace(plain(model), data.x_train, data.y_train, *variances)
    measured = task.measure(model)
    shown = {"test_error": 1 - measured["test_accuracy"], "test_nll": measured["test_nll"]}
    return float(around.log_marginal_likelihood()), shown


_NAMES = tuple(point.name for point in POINTS)
_SHOWN = (
    ("evidence", "log evidence", ".0f"),
    ("conditional", "conditional", ".0f"),
    ("test_error", "test error", ".3f"),
    ("test_nll", "test NLL", ".3f"),
)
EXPERIMENTS: dict[str, Experiment] = {
    "evidence-digits": Experiment(
        name="evidence-digits",
        summary="log evidence of hard, soft and free networks by Laplace's approximation, over quarter turns",
        variants=ARMS,
        presets={name: size["seeds"] for name, size in SIZES.items()},
        configure=configure,
        run=run,
        columns=(
            Column("evidence@rotated", "log evidence, rotated", ".0f"),
            *(
                Column(f"{key}@{p}", f"{label}, {p}", spec)
                for key, label, spec in _SHOWN
                for p in _NAMES
                if (key, p) != ("evidence", "rotated")
            ),
        ),
        notes=("Evidence in nats for 200 images, conditional for the second hundred given the first; NLL per image.",),
        plot=panels(
            [
                Panel(f"{label}, nats", tuple(f"{key}@{p}" for p in _NAMES), _NAMES)
                for key, label, _ in (*_SHOWN[:2], _SHOWN[3])
            ]
        ),
        group=GROUP,
    )
}
