"""Choose every arm's learning rate and precision on validation data of seeds that no table uses.

    python -m experiments.training.tune modified-inertia --preset default

Each trial at each tuning seed is a run of its own, recorded in ``<out>/tuning-<experiment>.jsonl``; the same command
resumes. Every learning rate is tried with every precision at the first seed, and the better third of them at all. Of
those the trial with the least mean validation error wins; where it stands at an edge of a list, the list is extended
there, until the winner is interior or the error is flat: no worse than within the spread of the seeds. What won is
written to ``chosen.json``, with the list and how it ended. No test sample is looked at.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record, registry
from softeq.experiments.engine.experiment import Config, Experiment
from softeq.experiments.engine.runner import run_experiment
from softeq.experiments.training.arms import parse
from softeq.experiments.training.chosen import CHOSEN, write_chosen
from softeq.experiments.training.comparison import Comparison
from softeq.experiments.training.trials import Trial, crossed

FIRST_SEED, SEEDS = 1000, 3
"""Tuning seeds count from the first; tables count from 0."""
SOURCE = "softeq.experiments.training.tuning_source"
"""Where worker processes find tuning experiments by name."""
ROUNDS = 6
"""The most times that lists are extended."""
FINALISTS = 3
"""One in so many trials is run at every tuning seed, the best at the first, and no fewer than so many."""
Axes = dict[str, tuple[float, ...]]
Errors = Mapping[str, list[float]]
"""By trial's label, the validation errors of the tuning seeds; of the first alone where it was no finalist."""


def label(arm: str, trial: Trial) -> str:
    """A trial's name in records: the arm and its values, so that a longer list keeps the trials of a shorter one."""
    values = {"lr": trial["lr"], **(trial["prior"] or {})}
    return f"{arm}#{json.dumps(values, sort_keys=True)}"


def parsed(text: str) -> tuple[str, Trial]:
    """The inverse of `label`.

    Raises:
        SofteqValueError: it is none.
    """
    arm, mark, values = text.partition("#")
    if not mark:
        raise SofteqValueError(f"trial: expected a label such as 'hard#{{\"lr\": 0.001}}', got {text!r}")
    found = json.loads(values)
    return arm, {"lr": found.pop("lr"), "prior": found or None}


def tuning_experiment(comparison: Comparison, arm: str, trials: Sequence[Trial]) -> Experiment:
    """The trials of an arm as an experiment, so that the runner records and resumes them."""

    def configure(preset: str, variant: str, seed: int) -> Config:
        name, trial = parsed(variant)
        if comparison.samples:  # one choice for all numbers of training samples, made in the middle
            name = f"{name}-{comparison.samples[len(comparison.samples) // 2]}"
        return {**comparison.configure(preset, name, FIRST_SEED + seed, trials=(trial,)), "tuning": True}

    return Experiment(
        name=f"tuning-{comparison.name}",
        summary=f"trials on validation data for {comparison.name}",
        variants=tuple(label(arm, trial) for trial in trials),
        presets=dict.fromkeys(comparison.sizes, SEEDS),
        configure=configure,
        run=comparison.run,
        columns=(),
        grown=comparison.grown,
    )


def errors_of(records: Sequence[record.Record], preset: str) -> dict[str, list[float]]:
    """The validation error of every trial and tuning seed; the mean over its points where a run has several."""
    found: dict[str, dict[int, float]] = {}
    for r in records:
        if r["preset"] != preset:
            continue
        points = r["metrics"].get("points")
        values = [p["validation_error"] for p in points.values()] if points else [r["metrics"]["validation_error"]]
        found.setdefault(r["variant"], {})[r["seed"]] = math.fsum(values) / len(values)
    return {name: [by_seed[s] for s in sorted(by_seed)] for name, by_seed in found.items()}


def finalists(arm: str, axes: Axes, errors: Errors) -> list[str]:
    """The labels of the trials to be run at every seed: the better third at the first one, see `FINALISTS`."""
    names = [label(arm, trial) for trial in crossed(**axes)]
    finite = sorted((errors[name][0], name) for name in names if math.isfinite(errors[name][0]))
    return [name for _, name in finite[: max(FINALISTS, math.ceil(len(names) / FINALISTS))]]


def winner(arm: str, axes: Axes, errors: Errors) -> Trial:
    """The trial of these lists with the least mean validation error; one that diverged at a seed is never chosen.

    Raises:
        SofteqError: all that were run at every seed diverged at one.
    """
    means = {}
    for trial in crossed(**axes):
        mine = errors[label(arm, trial)]
        if len(mine) == SEEDS and math.isfinite(mean := statistics.fmean(mine)):
            means[label(arm, trial)] = mean
    if not means:
        raise SofteqError(f"{arm}: all trials diverged; begin with lower learning rates")
    return parsed(min(means, key=lambda name: means[name]))[1]


def extended(arm: str, axes: Axes, errors: Errors) -> Axes:
    """The lists with a further value at each edge where the best trial stands and the error still falls towards it.

    It still falls where the best trial is better than its neighbour on that axis by more than the standard error of
    their paired difference over the tuning seeds, or where the neighbour was no finalist.
    """
    best = winner(arm, axes, errors)
    values = {"lr": best["lr"], **(best["prior"] or {})}
    longer = dict(axes)
    for name, listed in axes.items():
        place = listed.index(values[name])
        if len(listed) < 2 or 0 < place < len(listed) - 1:
            continue
        beside = listed[1] if place == 0 else listed[-2]
        if not _better(errors[_label_with(arm, values, {})], errors[_label_with(arm, values, {name: beside})]):
            continue
        further = listed[place] * listed[place] / beside
        longer[name] = (further, *listed) if place == 0 else (*listed, further)
    return longer


def _label_with(arm: str, values: Mapping[str, float], changes: Mapping[str, float]) -> str:
    changed = {**values, **changes}
    lr = changed.pop("lr")
    return label(arm, {"lr": lr, "prior": changed or None})


def _better(best: Sequence[float], other: Sequence[float]) -> bool:
    if len(other) < len(best):
        return True
    differences = [b - a for a, b in zip(best, other, strict=True)]
    if not all(map(math.isfinite, differences)):
        return True
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return statistics.fmean(differences) > spread


def ending(arm: str, axes: Axes, errors: Errors) -> str:
    """How the lists ended, in words: where the winner is interior, and where it stands at an edge."""
    best = winner(arm, axes, errors)
    values = {"lr": best["lr"], **(best["prior"] or {})}
    at_edge = [name for name, listed in axes.items() if len(listed) > 1 and values[name] in (listed[0], listed[-1])]
    still = [name for name in at_edge if extended(arm, axes, errors)[name] != axes[name]]
    flat = [name for name in at_edge if name not in still]
    parts = [f"flat towards the edge of {', '.join(flat)}"] * bool(flat)
    parts += [f"still falling at the edge of {', '.join(still)} when the rounds were over"] * bool(still)
    return "; ".join(parts) or "interior"


def tune_arm(comparison: Comparison, preset: str, arm: str, out: Path, **how: Any) -> dict[str, Any]:
    """Run an arm's trials, extend its lists while that helps, and say what won.

    Args:
        comparison, preset, arm, out: see `tune`.
        how: ``jobs``, ``device`` and ``compiled`` of `run_experiment`.

    Returns:
        ``lr``, ``prior``, ``validation_error`` (mean of the tuning seeds), ``lists`` and ``ending``.
    """
    axes: Axes = dict(comparison.lists.axes(parse(arm).arm))
    path = record.record_path(out, f"tuning-{comparison.name}")
    for left in reversed(range(ROUNDS)):
        experiment = tuning_experiment(comparison, arm, crossed(**axes))
        run_experiment(experiment, preset, out=out, sources=(SOURCE,), seeds=1, **how)
        if last := finalists(arm, axes, errors_of(record.read(path), preset)):
            run_experiment(experiment, preset, out=out, sources=(SOURCE,), variants=last, **how)
        errors = errors_of(record.read(path), preset)
        longer = extended(arm, axes, errors)
        if longer == axes or not left:
            break
        axes = longer
    best = winner(arm, axes, errors)
    return {
        **best,
        "validation_error": float(f"{statistics.fmean(errors[label(arm, best)]):.5g}"),
        "lists": {name: list(values) for name, values in axes.items()},
        "ending": ending(arm, axes, errors),
        "seeds": [FIRST_SEED + seed for seed in range(SEEDS)],
    }


def tune(
    name: str,
    preset: str,
    *,
    out: str | Path,
    chosen: Path = CHOSEN,
    arms: Sequence[str] | None = None,
    jobs: int = 1,
    device: str | None = None,
    compiled: bool = False,
) -> dict[str, dict[str, Any]]:
    """Run the trials that ``out`` does not hold, choose, and write each arm's choice to the file ``chosen`` at once.

    Args:
        name: of a comparison, e.g. ``inertia``.
        preset: the size to tune at; the choice counts for that preset alone.
        out: the folder of the trials' records.
        chosen: the file to write.
        arms: some of the comparison's; by default those that choose and have no settings of another.
        jobs: worker processes.
        device, compiled: see `experiments.engine.runner.plan`.

    Raises:
        SofteqError: see `experiments.engine.runner.run_experiment` and `winner`.
        SofteqValueError: an unknown comparison, preset or arm.
    """
    comparison = registry.comparison(name)
    if preset not in comparison.sizes:
        raise registry.unknown("preset", preset, comparison.sizes)
    mine = [arm for arm in comparison.all_arms if arm not in comparison.fixed and "@" not in arm]
    for arm in arms or ():
        if arm not in mine:
            raise registry.unknown("arm that chooses", arm, mine)
    found = {}
    for arm in arms or [arm for arm in mine if not parse(arm).arm.settings_of]:
        found[arm] = tune_arm(comparison, preset, arm, Path(out), jobs=jobs, device=device, compiled=compiled)
        write_chosen(chosen, name, preset, {arm: found[arm]})
        print(f"{name}, {arm}: {json.dumps(found[arm])}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.training.tune",
        description="Choose learning rates and precisions on validation data.",
        epilog="example: python -m experiments.training.tune modified-inertia --preset default --workers 2",
    )
    parser.add_argument("experiment")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--arms", nargs="+", help="all that choose for themselves if absent")
    parser.add_argument("--out", default="results", help="folder of the trials' records")
    parser.add_argument("--chosen", type=Path, default=CHOSEN, help="file of the choices")
    parser.add_argument("--workers", "--jobs", dest="jobs", type=int, default=1, help="worker processes")
    parser.add_argument("--device", help="cpu or cuda; the preset's own if absent")
    parser.add_argument("--compile", action="store_true", help="compile the training steps")
    a = parser.parse_args(arguments)
    try:
        how: Any = {"jobs": a.jobs, "device": a.device, "compiled": a.compile}
        tune(a.experiment, a.preset, out=a.out, chosen=a.chosen, arms=a.arms, **how)
    except SofteqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
