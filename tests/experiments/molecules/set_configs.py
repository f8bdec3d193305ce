"""Configurations of ``qm9-like``, so small that tests can run them."""

from softeq.experiments.molecules import set_task
from softeq.experiments.molecules.sets import COMPARISONS
from softeq.experiments.training.trials import train_trial

COMPARISON = COMPARISONS["qm9-like"]


def config(variant, sizes=(12, 4, 8), steps=4, **changes):
    found = COMPARISON.configure("smoke", variant, 0)
    found["data"]["sizes"] = list(sizes)
    found["training"] |= {"steps": steps, "validate_every": max(1, steps // 2)}
    return found | changes


def run(own, progress=lambda *n: None):
    return COMPARISON.run(own, progress)


def trained(own):
    task = set_task.task_of(own, {"name": ""})
    return task, train_trial(task, lambda: set_task.build_model(own, task), own["trials"][0], own).model
