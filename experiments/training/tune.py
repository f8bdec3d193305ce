"""Choose each variant's hyperparameters on validation data, by the same number of runs for every variant.

    python -m experiments.tune modified-inertia --preset paper --jobs 2

Each trial is a run of its own, recorded in ``<out>/tuning-<experiment>.jsonl``; the same command resumes. The trial
with the lowest validation MSE after the last epoch wins and is written to ``chosen.json``, which every preset of the
experiment reads. Seeds are `SEED` and up, so that no table uses the data that it was tuned on.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.engine.experiment import Config, Experiment
from softeq.experiments.engine.runner import Event, run_experiment
from softeq.experiments.physics.comparisons import CHOSEN, CHOSEN_FIELDS, PROBLEM, Problem, configure, run
from softeq.experiments.training.fit import SHRINKAGES

SEED = 1000
"""The first tuning seed; tables count from 0."""
ARMS = ("hard", "soft", "none", "none-matched", "none-augmented")
"""The variants that are tuned; ``soft-published`` is not."""

_SCHEDULES = ("constant", "cosine")
Trial = dict[str, Any]


def _grid(**axes: Sequence[Any]) -> tuple[Trial, ...]:
    fixed: Trial = {"shrinkage": "penalty", "equivariant_decay": 0.0, "residual_decay": 0.0}
    return tuple(fixed | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


_PLAIN = _grid(schedule=_SCHEDULES, residual_decay=(1e-5, 1e-4, 1e-3))
_SOFT_DECAYS = {
    "inertia": (1.0, 10.0, 100.0),
    "modified-inertia": (1.0, 10.0, 100.0),
    # The group is wrong: what helps is a residual pathway that costs little.
    "misspecified-inertia": (1e-5, 1e-3, 1e-1),
    "spring-pendulum": (0.1, 1.0, 10.0),
    "windy-pendulum": (1e-2, 0.1, 1.0),
}
# On the pendulums, whose errors are a thousand times smaller, the six trials had their best at the smallest decay: four
# more below it, for every variant alike. Of the soft network (equivariant decay 1e-7) the residual decays:
_FURTHER_SOFT_DECAYS = {"spring-pendulum": (1.0, 10.0), "windy-pendulum": (1e-2, 0.1)}
_FURTHER_DECAYS = (1e-6, 1e-7)


def grid(problem: Problem, variant: str, shrinkage: str = "penalty") -> tuple[Trial, ...]:
    """The trials of a variant: values of `physics.CHOSEN_FIELDS`, as many for every variant of a problem.

    Six each, and ten on the pendulums.

    Args:
        problem: one of the problems of `experiments.physics.comparisons`.
        variant: one of `ARMS`.
        shrinkage: of the soft network's residual pathway, ``"penalty"`` or ``"proximal"``.
    """
    further = _FURTHER_DECAYS if problem.kind == "pendulum" else ()
    if variant == "hard":
        trials = _grid(schedule=_SCHEDULES, equivariant_decay=(1e-5, 1e-4, 1e-3))
        trials += _grid(schedule=_SCHEDULES, equivariant_decay=further)
    elif variant == "soft":
        decays, more = _SOFT_DECAYS[problem.name], _FURTHER_SOFT_DECAYS.get(problem.name, ())
        soft = functools.partial(_grid, schedule=_SCHEDULES, shrinkage=(shrinkage,))
        trials = soft(equivariant_decay=(1e-5,), residual_decay=decays)
        trials += soft(equivariant_decay=(1e-7,), residual_decay=more)
    else:
        trials = _PLAIN + _grid(schedule=_SCHEDULES, residual_decay=further)
    return tuple({"lr": problem.lr, **trial} for trial in trials)


def labels(problem: Problem, variant: str, shrinkage: str = "penalty") -> dict[str, Trial]:
    """The trials of a variant by the name that their records carry, e.g. ``hard#0`` and ``soft-proximal#5``."""
    stem = f"{variant}-{shrinkage}" if variant == "soft" else variant
    return {f"{stem}#{i}": trial for i, trial in enumerate(grid(problem, variant, shrinkage))}


def tuning_experiment(problem: Problem) -> Experiment:
    """All trials of a problem as one experiment, so that the runner records and resumes them."""
    trials: dict[str, tuple[str, Trial]] = {}
    for variant in ARMS:
        for shrinkage in SHRINKAGES if variant == "soft" else ("penalty",):
            trials |= {label: (variant, trial) for label, trial in labels(problem, variant, shrinkage).items()}
    return Experiment(
        name=f"tuning-{problem.name}",
        summary=f"trials on validation data for {problem.name}",
        variants=tuple(trials),
        presets=dict.fromkeys(problem.sizes, 1),
        configure=functools.partial(_configure, problem, trials),
        run=run,
        columns=(),
    )


def _configure(problem: Problem, trials: Mapping[str, tuple[str, Trial]], preset: str, label: str, seed: int) -> Config:
    variant, trial = trials[label]
    return configure(problem, preset, variant, SEED + seed, overrides=trial)


EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in map(tuning_experiment, PROBLEM.values())}
"""For the runner's worker processes; not among the experiments of the command line."""


def choose(problem: Problem, preset: str, records: Sequence[record.Record], shrinkage: str) -> dict[str, Trial]:
    """The best trial of each variant with all of its trials recorded, by the validation MSE after the last epoch.

    Returns:
        by variant, the fields `physics.CHOSEN_FIELDS` and ``source``, where they come from.

    Raises:
        SofteqError: every trial of a variant diverged.
    """
    errors = {r["variant"]: r["metrics"]["validation_mse"] for r in records if r["preset"] == preset}
    chosen: dict[str, Trial] = {}
    for variant in ARMS:
        trials = labels(problem, variant, shrinkage)
        if not trials.keys() <= errors.keys():
            continue
        finite = {label: errors[label] for label in trials if math.isfinite(errors[label])}
        if not finite:
            raise SofteqError(f"{problem.name}, {variant}: all {len(trials)} trials diverged; change the grid")
        best = min(finite, key=lambda label: finite[label])
        source = f"{best}: validation MSE {finite[best]:.4g}, best of {len(trials)}, preset {preset}, seed {SEED}"
        chosen[variant] = {name: trials[best][name] for name in CHOSEN_FIELDS} | {"source": source}
    return chosen


def write_chosen(path: Path, problem: Problem, chosen: Mapping[str, Trial]) -> None:
    """Put a problem's choices into the file, keep every other entry, replace the file in one move."""
    everything = json.loads(path.read_text()) if path.exists() else {}
    everything.setdefault(problem.name, {}).update(chosen)
    trial = path.with_suffix(".tmp")
    trial.write_text(json.dumps(everything, indent=2) + "\n")
    trial.replace(path)


def tune(
    name: str,
    preset: str,
    *,
    out: str | Path,
    chosen: Path = CHOSEN,
    variants: Sequence[str] = ARMS,
    shrinkage: str = "penalty",
    jobs: int = 1,
) -> dict[str, Trial]:
    """Run the trials that ``out`` does not hold, choose, and write the choices to the file ``chosen``.

    Args:
        name: of a problem, e.g. ``inertia``.
        preset: the size to tune at.
        out: the folder of the trials' records.
        chosen: the file to write.
        variants: some of `ARMS`.
        shrinkage: see `grid`.
        jobs: worker processes.

    Raises:
        SofteqError: see `experiments.engine.runner.run_experiment` and `choose`.
    """
    problem = PROBLEM[name]
    experiment = EXPERIMENTS[f"tuning-{name}"]
    wanted = [label for variant in variants for label in labels(problem, variant, shrinkage)]
    run_experiment(
        experiment,
        preset,
        out=out,
        variants=wanted,
        jobs=jobs,
        on_event=_print,
        sources=("softeq.experiments.training.tune",),
    )
    records = record.read(record.record_path(out, experiment.name))
    best = {v: t for v, t in choose(problem, preset, records, shrinkage).items() if v in variants}
    write_chosen(chosen, problem, best)
    return best


def _print(event: Event) -> None:
    if event.kind == "done":
        error = event.metrics["validation_mse"]
        print(f"{event.variant}: validation MSE {error} in {event.seconds:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tune",
        description="Choose hyperparameters on validation data.",
        epilog="example: python -m experiments.tune modified-inertia --preset paper --jobs 2",
    )
    parser.add_argument("experiment", choices=tuple(PROBLEM))
    parser.add_argument("--preset", default="paper", choices=("smoke", "default", "paper"))
    parser.add_argument("--variants", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--shrinkage", default="penalty", choices=SHRINKAGES, help="of the soft network")
    parser.add_argument("--out", default="results", help="folder of the trials' records")
    parser.add_argument("--chosen", type=Path, default=CHOSEN, help="file of the choices")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    a = parser.parse_args(arguments)
    try:
        best = tune(
            a.experiment,
            a.preset,
            out=a.out,
            chosen=a.chosen,
            variants=a.variants,
            shrinkage=a.shrinkage,
            jobs=a.jobs,
        )
    except SofteqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for variant, trial in best.items():
        print(f"{a.experiment}, {variant}: {trial['source']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
