"""How a network is trained: the settings of the loop, the rate of every step, and when it ends.

Schedules. ``constant``; ``cosine``, after a linear warm-up from the rate down to 0 over all steps; and ``plateau``: the
rate stays until the validation error has stopped improving, then falls to 0 along half a cosine (a warm-up, stable,
decay schedule as Hägele et al., NeurIPS 2024, argue for), so that how long a network trains follows from the network.
The number of steps is a cap either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from softeq.errors import SofteqValueError

SCHEDULES = ("constant", "cosine", "plateau")
OPTIMIZERS = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class LoopSettings:
    """How a network is trained.

    Args:
        steps: of the optimizer; with ``plateau`` the most that there may be.
        batch_size: samples per step; the last batch of a pass over the data may have fewer.
        lr: the rate at its highest.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"``.
        momentum: of ``sgd``.
        weight_decay: of ``adamw``, decoupled, for networks that no rule holds.
        schedule: one of `SCHEDULES`.
        warmup: share of the steps over which the rate rises in a line.
        clip: the largest Euclidean norm of the gradient; None for no limit.
        validate_every: steps between two validations; the last step is always followed by one.
        patience: validations without improvement after which a plateau is reached.
        tolerance: the relative improvement that counts.
        cooldown: of ``plateau``, the length of the fall as a share of all steps.
        equal_steps: the step at which the test number is taken for a comparison at equal steps; None for none.

    Raises:
        SofteqValueError: for a value outside its range.
    """

    steps: int
    batch_size: int
    lr: float
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    clip: float | None = None
    validate_every: int = 100
    patience: int = 5
    tolerance: float = 0.01
    cooldown: float = 0.25
    equal_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise SofteqValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name, value in (("lr", self.lr), ("clip", 1.0 if self.clip is None else self.clip)):
            if not 0 < value < math.inf:
                raise SofteqValueError(f"{name}: expected a finite number above 0, got {value}")
        if not 0 <= self.weight_decay < math.inf:
            raise SofteqValueError(f"weight_decay: expected a finite number of at least 0, got {self.weight_decay}")
        for name in ("warmup", "cooldown", "momentum", "tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise SofteqValueError(f"{name}: expected a share, from 0 to below 1, got {getattr(self, name)}")
        for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise SofteqValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")


def until_plateau(steps: int, equal: int, every: int) -> dict[str, Any]:
    """The fields of `LoopSettings` of a training that ends on its plateau.

    Args:
        steps: the most that there may be.
        equal: those after which the test number is taken for a comparison at equal steps.
        every: those between two validations.
    """
    return {"steps": steps, "schedule": "plateau", "validate_every": every, "equal_steps": equal}


class Pace:
    """The rate of every step, and how many steps there are: ``total``, which a plateau lowers."""

    def __init__(self, settings: LoopSettings) -> None:
        self.settings, self.total = settings, settings.steps
        self.plateau = False
        # With a plateau the fall begins here at the latest.
        self.fall = round(settings.steps * (1 - settings.cooldown))
        self.best, self.waited = math.inf, 0

    def rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        s = self.settings
        rise = max(1.0, s.warmup * s.steps)
        warm = s.lr * min(1.0, (step + 1) / rise)
        if s.schedule == "cosine":
            return warm * (1 + math.cos(math.pi * step / self.total)) / 2
        if s.schedule == "plateau" and step >= self.fall:
            return warm * (1 + math.cos(math.pi * (step - self.fall) / (self.total - self.fall))) / 2
        return warm

    def look(self, step: int, error: float) -> None:
        """To be told of every validation: a plateau begins the fall."""
        s = self.settings
        if s.schedule != "plateau" or step >= self.fall:
            return
        if error < self.best * (1 - s.tolerance):
            self.best, self.waited = error, 0
            return
        self.waited += 1
        if self.waited >= s.patience:
            self.plateau = True
            self.fall = step
            self.total = min(s.steps, step + max(1, math.ceil(step * s.cooldown / (1 - s.cooldown))))
