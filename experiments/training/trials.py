"""Trials: the same network trained with other settings, the one choice among them, and what a record says of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from softeq.experiments.engine.bookkeeping import MOTION, ORDER, generator_for, rounded
from softeq.experiments.engine.experiment import Config, Metrics
from softeq.experiments.training.loop import AfterValidation, LoopSettings, Training, load_state, train
from softeq.experiments.training.rules import rule_of
from softeq.experiments.training.task import Task

Trial = dict[str, Any]
"""``lr``, and ``prior``: the precisions ``equivariant`` and ``residual`` in nats for the whole data set, or None."""


@dataclass(frozen=True)
class Trained:
    """A network after one trial, with its last parameters."""

    model: nn.Module
    trial: Trial
    training: Training

    @property
    def error(self) -> float:
        """The validation error after the last step; infinite where the training diverged."""
        return self.training.error if math.isfinite(self.training.error) else math.inf

    def to_record(self) -> Trial:
        """What a record keeps of it."""
        return {**self.trial, **self.training.to_record()}


def crossed(**axes: Sequence[float]) -> tuple[Trial, ...]:
    """Every learning rate with every prior: ``crossed(lr=(1e-3, 1e-2), residual=(1.0, 100.0))``.

    Args:
        axes: ``lr``, and of ``equivariant`` and ``residual`` those that there are; none of them for no prior.
    """
    found = []
    for values in itertools.product(*axes.values()):
        trial = dict(zip(axes, values, strict=True))
        lr = trial.pop("lr")
        found.append({"lr": lr, "prior": trial or None})
    return tuple(found)


def choose(trained: Sequence[Trained]) -> int:
    """The index of the least validation error after the last step; of equal ones the first, of diverged ones too."""
    return min(range(len(trained)), key=lambda k: trained[k].error)


def train_trial(
    task: Task,
    build: Callable[[], nn.Module],
    trial: Trial,
    config: Config,
    on_step: Callable[[], None] = lambda: None,
    after_validation: AfterValidation = lambda step, error: None,
) -> Trained:
    """Train a network from the configuration's start with the trial's learning rate and prior.

    Args:
        task: what it learns.
        build: makes the untrained network, the same each time.
        trial: see `Trial`.
        config: ``training`` (fields of `LoopSettings` without the rate), ``rule``, ``augment``, ``seed`` and
            ``compiled`` are read.
        on_step, after_validation: see `train`.
    """
    model, how = build(), dict(config["training"])
    if config.get("tuning"):
        how["equal_steps"] = None
    training = train(
        model,
        task,
        LoopSettings(**how, lr=trial["lr"]),
        generator_for(config["seed"], ORDER),
        rule=rule_of(model, task, config["rule"], trial["prior"], steps=how["steps"], seed=config["seed"]),
        motion=generator_for(config["seed"], MOTION) if config["augment"] else None,
        compiled=config.get("compiled", False),
        on_step=on_step,
        after_validation=after_validation,
    )
    return Trained(model, trial, training)


def run_trials(
    task: Task, build: Callable[[], nn.Module], config: Config, on_step: Callable[[], None] = lambda: None
) -> Metrics:
    """Train every trial alike, let validation data choose, measure the chosen one; NaN where all diverged.

    While a comparison is tuned (``config["tuning"]``) no test sample is looked at.

    Args:
        task, build, on_step: see `train_trial`.
        config: of the run: ``trials`` beside what `train_trial` reads.
    """
    trained = [train_trial(task, build, trial, config, on_step) for trial in config["trials"]]
    index = choose(trained)
    best = trained[index]
    metrics: Metrics = {
        "chosen": index,
        "trials": [one.to_record() for one in trained],
        "validation_error": best.training.error,
        "parameters": sum(p.numel() for p in best.model.parameters() if p.requires_grad),
        "seconds_per_step": rounded(best.training.seconds_per_step),
        "steps": best.training.steps,
        "stopped": best.training.stopped,
        "best_step": best.training.best_step,
        "diverged_at_step": best.training.diverged_at_step,
    }
    if config.get("tuning"):
        return metrics
    return metrics | measured(best, task, at_equal_steps=config["training"].get("equal_steps") is not None)


def measured(best: Trained, task: Task, *, at_equal_steps: bool) -> Metrics:
    """What is told of a trained network: `Task.measure`, the headline of the best validated step and at equal steps."""
    training, model = best.training, best.model
    equal = {f"{task.headline}_equal_steps": training.at_equal_steps} if at_equal_steps else {}
    best_name = f"{task.headline}_best_validation"
    # Wall seconds are this machine's; the steps beside them are not.
    compute = {"training_seconds": rounded(training.steps * training.seconds_per_step)}
    if training.diverged_at_step:
        return dict.fromkeys((*task.keys, best_name, *equal), math.nan) | compute
    model.eval()
    found = task.measure(model)
    last = {name: value.clone() for name, value in model.state_dict().items()}
    load_state(model, training.best_state)
    at_best = task.test(model)
    load_state(model, last)
    return found | {best_name: at_best} | equal | compute
