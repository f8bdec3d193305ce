"""Training a potential: Adam with a warm-up and a cosine, the same for every experiment on molecules."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from softeq import Prior, prior_penalty
from softeq.experiments.engine.bookkeeping import generator_for
from softeq.experiments.engine.experiment import Config
from softeq.models.molecules import SoftPotential


def fit_potential(
    model: SoftPotential,
    loss_of: Callable[[SoftPotential, Tensor], Tensor],
    n: int,
    trial: Mapping[str, Any],
    config: Config,
    on_step: Callable[[], None],
) -> tuple[SoftPotential, list[float]]:
    """The model after its last step, and the seconds of each step; no seconds where the loss was not finite.

    Args:
        model: trained in place.
        loss_of: the loss on some rows of the training data, ``(b,)`` indices on the CPU.
        n: how many rows there are.
        trial: ``lr`` and ``prior``, the arguments of `Prior` or None.
        config: of the run: ``seed``, and ``training`` with ``steps``, ``batch_size`` and ``clip``.
        on_step: called after each step.
    """
    how, order = config["training"], generator_for(config["seed"], 2)
    prior = None if trial["prior"] is None else Prior(**trial["prior"])
    optimizer = torch.optim.Adam(model.parameters(), lr=trial["lr"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_rate, steps=how["steps"]))
    queue, size = torch.empty(0, dtype=torch.long), min(how["batch_size"], n)
    taken: list[float] = []
    model.train()
    for _ in range(how["steps"]):
        began = time.perf_counter()
        if len(queue) < size:
            queue = torch.randperm(n, generator=order)
        rows, queue = queue.split([size, len(queue) - size])
        loss = loss_of(model, rows)
        if prior is not None:
            loss = loss + prior_penalty(model, prior) / n
        if not math.isfinite(loss.item()):
            return model, []
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), how["clip"])
        optimizer.step()
        schedule.step()
        taken.append(time.perf_counter() - began)
        on_step()
    return model.eval(), taken


def _rate(step: int, steps: int) -> float:
    """Up in a line over the first 5% of the steps, then down to 0 in a cosine."""
    rise = max(1, steps // 20)
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / steps))
