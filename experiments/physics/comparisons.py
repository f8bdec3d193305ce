"""The first comparison: soft, hard and unconstrained networks on problems of physics.

Moment of inertia and double pendulum, as in Finzi, Benton, Wilson, "Residual Pathway Priors for Soft Equivariance
Constraints" (NeurIPS 2021). Every arm but ``soft-published`` has its decays and its schedule chosen on validation data
by the same number of runs (`training.tune`), kept in ``chosen.json``; ``soft-published`` is the published setting.
A seed draws the data, the initialisation, the order of the rows and the elements that move them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softeq.errors import SofteqValueError
from softeq.experiments.engine.bookkeeping import generator_for
from softeq.experiments.engine.experiment import Column, Config, Experiment, Metrics, Progress
from softeq.experiments.physics.problems import build_model, build_task, mlp_channels_matching_soft
from softeq.experiments.training.evaluate import evaluate
from softeq.experiments.training.fit import FitSettings, fit, precision

VARIANTS = ("hard", "soft", "soft-published", "none", "none-matched", "none-augmented")
SWEEP = tuple(f"soft@1e{power}" for power in range(-3, 4))
"""Variants of the figure: soft, with the residual decay that the name gives."""
CHOSEN = Path(__file__).with_name("chosen.json")
CHOSEN_FIELDS = ("lr", "schedule", "shrinkage", "equivariant_decay", "residual_decay")


@dataclass(frozen=True)
class Size:
    """How large a preset is: seeds, rows per split, network and training."""

    seeds: int
    rows: tuple[int, int, int]
    channels: int
    layers: int
    epochs: int
    validate_every: int
    systems: int = 5000


@dataclass(frozen=True)
class Problem:
    """One row of the list of experiments: the problem, the group that is assumed, and the published settings."""

    name: str
    summary: str
    kind: str
    group: str
    settings: Mapping[str, Any]
    sizes: Mapping[str, Size]
    published_decays: tuple[float, float]
    """Residual, equivariant."""
    lr: float = 3e-3
    published: Mapping[str, str] = field(default_factory=dict)
    published_source: str = "Finzi, Benton, Wilson (2021): medians of 10 trials read off the plots, +-10%, last epoch"


def _inertia_sizes(paper_epochs: int) -> dict[str, Size]:
    rows = (1000, 1000, 1000)
    return {
        # Narrower than 108 channels O(3) has no tensor of order 3, and the hard network cannot make r r^T.
        "smoke": Size(1, rows, 128, 3, 150, 5),
        "default": Size(3, rows, 128, 3, paper_epochs, 5),
        "paper": Size(10, rows, 384, 3, paper_epochs, 5),
    }


_PENDULUM_SIZES = {
    "smoke": Size(1, (100, 100, 100), 16, 2, 10, 5, systems=300),
    "default": Size(3, (500, 500, 500), 64, 3, 200, 5),
    "paper": Size(10, (500, 500, 500), 128, 3, 1000, 5),
}

PROBLEMS = (
    Problem(
        "inertia",
        "moment of inertia; O(3) assumed, and it holds",
        "inertia",
        "O(3)",
        {"modified": False},
        _inertia_sizes(300),
        (1e2, 1e-3),
        published={"none": "3.8 (median)", "hard": "0.159 (median)", "soft-published": "0.28 (median)"},
    ),
    Problem(
        "modified-inertia",
        "moment of inertia with a term along z; O(3) assumed, and it nearly holds",
        "inertia",
        "O(3)",
        {"modified": True},
        _inertia_sizes(500),
        (0.1, 1e-5),
        published={
            "none": "4.8 (median)",
            "hard": "1.06 (median)",
            "soft-published": "1.02 (median)",
            "soft": "0.28 (mean; best of the ablation, decays 100 and 1e-5)",
        },
    ),
    Problem(
        "misspecified-inertia",
        "moment of inertia; SL(3) assumed, where O(3) is true",
        "inertia",
        "SL(3)",
        {"modified": False},
        _inertia_sizes(300),
        (1e-5, 1e-5),
        published={"none": "3.7 (median)", "hard": "32.5 (median)", "soft-published": "4.0 (median)"},
    ),
    Problem(
        "spring-pendulum",
        "double spring pendulum, Hamiltonian networks; O(2) about z assumed, and it holds",
        "pendulum",
        "O2eR3",
        {"wind": [0.0, 0.0, 0.0]},
        _PENDULUM_SIZES,
        (1.0, 1e-4),
        published={"none": "2.2e-3 (median)", "hard": "9.6e-4 (median)", "soft-published": "9.9e-4 (median)"},
    ),
    Problem(
        "windy-pendulum",
        "double spring pendulum in wind, Hamiltonian networks; O(2) about z assumed, and it nearly holds",
        "pendulum",
        "O2eR3",
        {"wind": [0.08, 0.05, 0.0]},
        _PENDULUM_SIZES,
        (0.1, 1e-5),
        published={"none": "9.2e-4 (median)", "hard": "6.4e-4 (median)", "soft-published": "5.1e-4 (median)"},
    ),
)

_COLUMNS = (
    Column("test_mse", "test MSE"),
    Column("test_mse_best_validation", "test MSE, best validation epoch"),
    Column("test_mse_moved", "test MSE, inputs moved"),
    Column("equivariance_error", "equivariance error"),
    Column("weight_defect_mean", "weight defect, mean of layers"),
    Column("seconds_per_step", "s / step"),
    Column("parameters", "parameters", ",.0f"),
)
_NOTES = (
    "Test MSE: last epoch, fresh data per seed.",
    "Inputs moved: by random elements of the assumed group, against the true target there.",
    "Decays and schedule of every variant but soft-published: chosen on validation data of another seed, as many runs"
    " each.",
)


def configure(
    problem: Problem, preset: str, variant: str, seed: int, overrides: Mapping[str, Any] | None = None
) -> Config:
    """The complete configuration of one run.

    Args:
        problem: one of `PROBLEMS`.
        preset: a key of its sizes.
        variant: one of `VARIANTS`, or ``soft@DECAY``.
        seed: of everything random, 0 or more.
        overrides: of the fields in `CHOSEN_FIELDS`, instead of the chosen ones.

    Raises:
        SofteqValueError: nothing has been chosen for this variant, or the chosen fields are not what is expected.
    """
    size = problem.sizes[preset]
    arm, _, decay = variant.partition("@")
    picked = dict(hyperparameters(problem, arm) if overrides is None else overrides)
    if decay:
        picked["residual_decay"] = float(decay)
    settings = {
        "epochs": size.epochs,
        # The pendulum's epochs are full batches of 500, as published.
        "batch_size": 500,
        "validate_every": size.validate_every,
        "augment": arm == "none-augmented",
        **picked,
    }
    n_train = size.rows[0]
    return {
        "problem": _problem_config(problem, size),
        "network": _network_config(problem, size, arm),
        "fit": settings,
        "residual_precision": precision(settings["residual_decay"], n_train),
        "equivariant_precision": precision(settings["equivariant_decay"], n_train),
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }


def run(config: Config, progress: Progress) -> Metrics:
    """Draw, train, measure. A training that diverges gives NaN, not an exception; see `training.evaluate`."""
    settings = FitSettings(**config["fit"])
    task = build_task(config)
    model = build_model(config)
    # Streams of their own: what one draws must not move the other, or the data, which take the seed itself.
    result = fit(model, task, settings, generator_for(config["seed"], 1), progress)
    return evaluate(model, task, result, generator_for(config["seed"], 2)) | {"epochs": settings.epochs}


def hyperparameters(problem: Problem, variant: str) -> dict[str, Any]:
    """The fields `CHOSEN_FIELDS` of a variant: the published ones for ``soft-published``, else those in `CHOSEN`.

    Raises:
        SofteqValueError: for a variant without an entry, or an entry with missing fields.
    """
    if variant == "soft-published":
        residual, equivariant = problem.published_decays
        values = (problem.lr, "constant", "penalty", equivariant, residual)
        return dict(zip(CHOSEN_FIELDS, values, strict=True))
    entry = read_chosen(CHOSEN).get(problem.name, {}).get(variant)
    if entry is None or any(name not in entry for name in CHOSEN_FIELDS):
        raise SofteqValueError(
            f"{CHOSEN.name} has no complete entry for {problem.name}, variant {variant}:"
            f" choose one with python -m experiments.tune {problem.name}"
        )
    return {name: entry[name] for name in CHOSEN_FIELDS}


@functools.cache
def read_chosen(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What `experiments.training.tune` wrote: hyperparameters by problem and variant. Read once per process."""
    return json.loads(path.read_text())


def _problem_config(problem: Problem, size: Size) -> dict[str, Any]:
    config = {"kind": problem.kind, "group": problem.group, "sizes": list(size.rows), **problem.settings}
    if problem.kind == "pendulum":
        config |= {"systems": size.systems, "duration": 30.0, "rtol": 1e-4}
    return config


def _network_config(problem: Problem, size: Size, arm: str) -> dict[str, Any]:
    if arm in ("hard", "soft", "soft-published"):
        constraint = "hard" if arm == "hard" else "soft"
        published = arm == "soft-published"
        network = {"kind": "emlp", "constraint": constraint, "published": published}
        return network | {"channels": size.channels, "layers": size.layers}
    channels = size.channels
    if arm == "none-matched":
        channels = mlp_channels_matching_soft(problem.kind, problem.group, size.channels, size.layers)
    return {"kind": "mlp", "channels": channels, "layers": size.layers}


def _experiment(problem: Problem) -> Experiment:
    return Experiment(
        name=problem.name,
        summary=problem.summary,
        variants=VARIANTS,
        presets={name: size.seeds for name, size in problem.sizes.items()},
        configure=functools.partial(configure, problem),
        run=run,
        columns=_COLUMNS,
        published=problem.published,
        published_source=problem.published_source,
        notes=_NOTES,
    )


def _sweep(problem: Problem) -> Experiment:
    def plot(records: list[dict[str, Any]], path: Any) -> None:
        from softeq.experiments.show.plots import plot_precision

        plot_precision(records, path, title=problem.name)

    return Experiment(
        name=f"{problem.name}-precision",
        summary=f"{problem.name}: test error against the residual pathway's precision",
        variants=("hard", "none", *SWEEP),
        presets={"smoke": 1, "default": 3, "paper": 5},
        configure=functools.partial(configure, problem),
        run=run,
        columns=_COLUMNS,
        notes=("soft@X: residual decay X, everything else as the variant soft.", *_NOTES),
        plot=plot,
    )


PROBLEM: dict[str, Problem] = {problem.name: problem for problem in PROBLEMS}
EXPERIMENTS: dict[str, Experiment] = {name: _experiment(problem) for name, problem in PROBLEM.items()}
EXPERIMENTS["modified-inertia-precision"] = _sweep(PROBLEM["modified-inertia"])
