"""The tuning of every comparison as experiments by name, for worker processes; see `training.tune`."""

from __future__ import annotations

from softeq.experiments.engine import registry
from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.training.tune import tuning_experiment

EXPERIMENTS: dict[str, Experiment] = {
    f"tuning-{name}": tuning_experiment(comparison, "", ()) for name, comparison in registry.comparisons().items()
}
