"""Pathways whose precision is learned: their dense size, their agreement over processes, the checks of options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from softeq.errors import SofteqValueError
from softeq.pathways import RESIDUAL_START
from softeq.strength._charges import Charge
from softeq.strength._curvature import CURVATURES, Curvature
from softeq.strength._probes import average_over_ranks

WINDOW = (3.0, 100.0)
"""Where ``start`` may lie."""


@dataclass
class Pathway:
    """A pathway whose precision is learned: its parameters, its dimension, and what is known of it.

    Attributes:
        precision: 1 / variance of its weights.
        unit: the precision of a dense layer's start, which bounds are multiples of.
        effective: the effective number of parameters at the last update.
    """

    layer: str
    pathway: str
    charges: list[Charge]
    unit: float
    precision: float
    curvatures: list[Curvature] = field(default_factory=list)
    effective: float = 0.0

    @property
    def rank(self) -> int:
        """The priced dimensions."""
        return sum(charge.rank for charge in self.charges)

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.layer or 'the model'}, pathway {self.pathway!r}"

    def inverse_trace(self, noise: float, precision: float) -> float:
        """``tr (J'J / noise + precision)^-1``."""
        return sum(c.inverse_trace(noise, precision) for c in self.curvatures)


def agree_over_ranks(paths: Sequence[Pathway]) -> None:
    """Makes what is learned the same on every process: the means of precisions' logarithms and of effective numbers."""
    device = paths[0].charges[0].parameter.device
    values = [[math.log(path.precision) for path in paths], [path.effective for path in paths]]
    means = torch.tensor(values, dtype=torch.float64, device=device)
    average_over_ranks([means])
    logs, numbers = means.tolist()
    for path, log, old, number in zip(paths, logs, values[0], numbers, strict=True):
        path.effective = number
        if log != old:  # a single process keeps its precision to the last digit
            path.precision = math.exp(log)


def dense_square(charge: Charge) -> float:
    """The mean square of these weights where a dense layer starts.

    What the pathway's module says (``start_squares``: a layer of images or positions, whose residual may be a product
    of factors, and may start at zero); else read off a residual that is still at its own start, `RESIDUAL_START` of
    that size; else from the fan-in.
    """
    if (said := _said(charge)) is not None:
        return said
    value = charge.parameter.detach()
    size = float(value.float().square().mean().sqrt())
    alone = charge.owner is not None and len(charge.owner.pathways) == 1
    for factor in (1.0,) if alone else (RESIDUAL_START,):
        if 1e-3 < size / factor < 2:
            return (size / factor) ** 2
    fan_in = value.numel() / value.shape[0] if value.ndim > 1 else value.numel()
    return 1 / (3 * max(fan_in, 1.0))


def _said(charge: Charge) -> float | None:
    if charge.owner is None or charge.pathway not in charge.owner.pathways:
        return None
    for module in charge.owner.pathways[charge.pathway].modules():
        squares: dict[str, float] = getattr(module, "start_squares", {})
        for name, square in squares.items():
            if getattr(module, name) is charge.parameter:
                return square
    return None


def check_options(start: float, learn: str, curvature: str, every: int, seed: int) -> None:
    """Raises where an option of a learned rule is out of its range."""
    if not WINDOW[0] <= start <= WINDOW[1]:
        raise SofteqValueError(
            f"start: expected {WINDOW[0]:g} to {WINDOW[1]:g} times the precision of a dense layer's start, got "
            f"{start}: a looser one overfits before the rule can tighten it, a tighter one stays hard to the end"
        )
    if learn not in ("residual", "all"):
        raise SofteqValueError(f"learn: expected 'residual' or 'all', got {learn!r}")
    if curvature not in CURVATURES:
        raise SofteqValueError(f"curvature: expected one of {', '.join(CURVATURES)}, got {curvature!r}")
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise SofteqValueError(f"every: expected a number of steps of at least 1, got {every!r}")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SofteqValueError(f"seed: expected a whole number, got {seed!r}")
