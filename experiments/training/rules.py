"""From an arm's rule to what the loop steps with: what a rule must be told of the task stands here, and only here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from softeq import Prior, strength
from softeq.experiments.training.loop import PriorRule
from softeq.experiments.training.published import PublishedPenalty
from softeq.experiments.training.task import Task
from softeq.prior import soft_layers

Told = Callable[[nn.Module, Task, int, int], Mapping[str, Any]]
"""From the network, the task, the cap on steps and the seed to a rule's options."""


def _held_out(model: nn.Module, task: Task, steps: int, seed: int) -> Mapping[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"held": lambda: task.held_out_loss(model, generator)}


def _action(model: nn.Module, task: Task, steps: int, seed: int) -> Mapping[str, Any]:
    return {"action": task.action, "seed": seed}


TOLD: dict[str, Told] = {
    "annealed": lambda model, task, steps, seed: {"steps": steps},
    "halving": lambda model, task, steps, seed: {"held": lambda: task.validation_error(model), "steps": steps},
    "validation": _held_out,
    "remul": _action,
}
"""What a rule must be told beside the samples and the likelihood; a rule that is not here needs no more."""


def rule_of(
    model: nn.Module, task: Task, name: str, prior: Mapping[str, float] | None, *, steps: int = 1, seed: int = 0
) -> PriorRule | None:
    """The rule that a trial's network is trained under; None without one.

    A network without soft layers has the residual precision on all of its parameters, as plain weight decay.

    Args:
        model: the network.
        task: gives the samples and the likelihood.
        name: of `softeq.strength.RULES`, or ``"published"``, see `PublishedPenalty`.
        prior: of the trial.
        steps: the most that there may be; ``annealed`` spreads its schedule over them.
        seed: of what the rule draws.
    """
    if name == "published":
        return PublishedPenalty(model, samples=task.samples, **(prior or {}))
    if name != "fixed":
        told = TOLD[name](model, task, steps, seed) if name in TOLD else {}
        return strength.rule(name, model, samples=task.samples, likelihood=task.likelihood, **told)
    if prior is None:
        return None
    soft = any(True for _ in soft_layers(model))
    elsewhere = 0.0 if soft else prior.get("residual", 0.0)
    if not soft and not elsewhere:
        return None
    return strength.rule(
        "fixed",
        model,
        samples=task.samples,
        likelihood=task.likelihood,
        prior=Prior(equivariant=prior.get("equivariant", 0.0), residual=prior.get("residual", 0.0)),
        elsewhere=elsewhere,
    )
