"""Networks under fixed priors, many at once: all seeds and all precisions of a problem as one batched network.

A grid of precisions is most of the benchmark's work, and each of its small networks costs calls rather than arithmetic.
Under ``torch.func.vmap`` a hundred of them cost as many calls as one. What is computed is the same as one by one: the
same starts, the same batches, Adam and the prior step entry by entry (a test holds it to `benchmarks.strength.train`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.strength_problems import Problem, rate
from softeq import Prior
from softeq.strength._charges import charges_of, precisions_of

_BETAS, _EPS = (0.9, 0.999), 1e-8


def train_stacked(problems: Mapping[int, Problem], arms: Sequence[str]) -> dict[tuple[int, str], dict[str, Any]]:
    """Trains arms of one kind (``soft@1``, ``soft@10``; ``none@...``; ``hard``) on the problem of each seed.

    Returns:
        Per (seed, arm) the record of its run; NaN where it diverged.
    """
    (kind,) = {arm.partition("@")[0] for arm in arms}
    first, began = next(iter(problems.values())), time.process_time()
    pairs = [(k, arm) for k in problems for arm in arms]
    stack = _Stack([problems[k].build(kind) for k, _ in pairs])
    pulls = stack.pulls([_prior(first, arm) for _, arm in pairs], len(first.x))
    optimizer = torch.optim.Adam(list(stack.parameters.values()), lr=first.lr, betas=_BETAS, eps=_EPS)
    which = torch.tensor([list(problems).index(k) for k, _ in pairs])
    orders = [given.batches(seed) for seed, given in problems.items()]
    x, y = (torch.stack([getattr(given, name) for given in problems.values()]) for name in ("x", "y"))
    for step in range(first.steps):
        rows = torch.stack([next(order) for order in orders])[which]
        lr = optimizer.param_groups[0]["lr"] = first.lr * rate(step, first.steps)
        optimizer.zero_grad()
        losses = vmap(first.loss)(stack(x[which[:, None], rows]), y[which[:, None], rows])
        losses.sum().backward()
        if first.clip is not None:
            stack.clip(first.clip)
        optimizer.step()
        _pull(optimizer, pulls, lr, step + 1)
    seconds = round((time.process_time() - began) / len(pairs), 2)
    return {
        (k, arm): {"error": _finite(problems[k].error, model), "held_loss": _finite(problems[k].held_loss, model)}
        | {"train_loss": losses[m].item(), "cpu_seconds": seconds, "precisions": {}, "stacked": len(pairs)}
        for m, (k, arm) in enumerate(pairs)
        for model in [stack.model(m)]
    }


class _Stack:
    """Several models of one architecture as one, their parameters stacked along a first axis."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.one = models[0]
        self.parameters, self.buffers = stack_module_state(list(models))

    def __call__(self, x: Tensor) -> Tensor:
        """``(M, B, ...)`` to ``(M, B, ...)``."""

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.one, (parameters, buffers), (x,))

        return vmap(call)(self.parameters, self.buffers, x)

    def pulls(self, priors: Sequence[Prior], samples: int) -> list[tuple[Tensor, Tensor]]:
        """Each priced parameter with the c of every model, ``(M, 1, ...)``."""
        charges = charges_of(self.one)
        found = []
        per_model = [precisions_of(charges, prior) for prior in priors]
        for index, charge in enumerate(charges):
            parameter = self.parameters[charge.name]
            c = torch.tensor([own[index][charge.pathway] / samples for own in per_model])
            found.append((parameter, c.view(-1, *[1] * (parameter.ndim - 1))))
        return found

    def clip(self, limit: float) -> None:
        """Each model's gradient to a norm of at most this."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (limit / (norms + 1e-6)).clamp(max=1)
        for g in gradients:
            g.mul_(factors.view(-1, *[1] * (g.ndim - 1)))

    def model(self, index: int) -> nn.Module:
        """One of them by itself."""
        own = copy.deepcopy(self.one)
        state = {name: value[index].detach() for name, value in (self.parameters | self.buffers).items()}
        own.load_state_dict({**own.state_dict(), **state})
        return own.eval()


def _prior(given: Problem, arm: str) -> Prior:
    _, _, value = arm.partition("@")
    return Prior(given.equivariant, float(value) if value else 1.0)


@torch.no_grad()
def _pull(optimizer: torch.optim.Adam, pulls: Sequence[tuple[Tensor, Tensor]], lr: float, steps: int) -> None:
    root = math.sqrt(1 - _BETAS[1] ** steps)
    for parameter, c in pulls:
        size = optimizer.state[parameter]["exp_avg_sq"].sqrt().add_(_EPS * root)
        parameter.mul_(size / (size + lr * root * c))


def _finite(measure: Callable[[nn.Module], float], model: nn.Module) -> float:
    value = measure(model)
    return value if math.isfinite(value) else math.nan
