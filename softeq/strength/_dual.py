"""Rules by a multiplier per pathway (constrained optimisation), and by the gradient of held-out data in its scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.strength._learned import LOWEST, Learned, Pathway
from softeq.strength._probes import average_over_ranks

_TINY = 1e-30


class Dual(Learned):
    """Equivariance as a constraint with a multiplier per pathway, ascended while the network descends (ACE, 2025).

    The size u of a pathway is the root mean square of its weights, in units of a dense layer's start. Plain: u = 0 is
    asked for, and the multiplier grows by ``rate u`` per update, until the network is hard. Elastic (``elastic > 0``):
    u may be ``multiplier / elastic``, which is what slack costs, and the multiplier is
    ``max(0, m + rate (u - m / elastic))``. The price ``m u`` acts as the precision ``m / (||w|| ...)`` that has its
    gradient. Options: ``rate``, ``elastic``.
    """

    name = "dual"
    needs_curvature: ClassVar[bool] = False

    def __init__(
        self, model: nn.Module, *, samples: int, rate: float = 0.01, elastic: float = 0.0, **options: Any
    ) -> None:
        if not 0 < rate < math.inf:
            raise SofteqValueError(f"rate: expected a finite number above 0, got {rate}")
        if not 0 <= elastic < math.inf:
            raise SofteqValueError(f"elastic: expected a finite number, 0 for the plain constraint, got {elastic}")
        self.rate, self.elastic = rate, elastic
        self.multipliers: dict[tuple[str, str], float] = {}
        super().__init__(model, samples=samples, **options)

    def _next(self, path: Pathway, square: float) -> float:
        key = path.layer, path.pathway
        size = math.sqrt(square * path.unit / path.rank)
        multiplier = self.multipliers.get(key, 0.0)
        slack = multiplier / self.elastic if self.elastic else 0.0
        multiplier = self.multipliers[key] = max(0.0, multiplier + self.rate * (size - slack))
        # m u has the gradient m unit w / (rank u), in units of the loss; a precision p has p loss_unit / samples w.
        price = multiplier * path.unit / (path.rank * max(size, 1e-12)) * self.samples / self._unit()
        return max(price, 1.01 * LOWEST * path.unit)

    def _state(self) -> dict[str, Any]:
        multipliers = [self.multipliers.get((path.layer, path.pathway), 0.0) for path in self.paths]
        return {**super()._state(), "multipliers": multipliers}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        for path, value in zip(self.paths, state["multipliers"], strict=True):
            self.multipliers[path.layer, path.pathway] = float(value)


class Validation(Learned):
    """Precisions by held-out data within one run: each pathway's scale is where held-out loss is stationary in it.

    Every ``every`` steps the loss on a batch of held-out data is differentiated in the learned weights: its derivative
    in the logarithm of a pathway's scale is ``<gradient, w - m>``. Where it is positive a smaller pathway would do
    better, so its precision grows: ``log precision += step * mean / rms`` of that derivative, both moving averages.
    It is the hypergradient of Luketina et al. (2016) with the weights' answer to the precision taken along the weights
    themselves. It costs one pass in ``every``, and the held-out data. Options: ``held``, ``step``, ``start``.

    Args:
        model, samples, options: see `Learned`; ``samples`` are those that are trained on.
        held: returns the loss of ``model`` on a batch of held-out data, drawn anew at each call.
        step: the largest change of a precision's logarithm per update, at first; it falls with the root of the updates.
    """

    name = "validation"
    needs_curvature: ClassVar[bool] = False
    KEEP = 0.9
    SETTLING = 30

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int,
        held: Callable[[], Tensor],
        step: float = 0.3,
        every: int = 10,
        **options: Any,
    ) -> None:
        if not callable(held):
            raise SofteqTypeError(f"held: expected a function that returns a held-out loss, got {type(held).__name__}")
        if not 0 < step <= 1:
            raise SofteqValueError(f"step: expected above 0 and at most 1, got {step}")
        self.held, self.change = held, step
        self._slopes: dict[tuple[str, str], tuple[float, float]] = {}
        self._now: dict[tuple[str, str], float] = {}
        super().__init__(model, samples=samples, every=every, **options)

    def _after_backward(self, scaler: Any) -> None:
        super()._after_backward(scaler)
        if not self._fresh:
            return
        charges = [charge for path in self.paths for charge in path.charges if charge.parameter.requires_grad]
        loss = self.held()
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            raise SofteqTypeError("held: expected it to return a 0-d loss with its graph")
        gradients = torch.autograd.grad(loss, [charge.parameter for charge in charges], allow_unused=True)
        means = self._prior_means()
        slopes: dict[tuple[str, str], Tensor] = {}
        for charge, gradient in zip(charges, gradients, strict=True):
            if gradient is None:
                continue
            mean = means.get(id(charge.parameter))
            away = charge.part(charge.parameter.detach() if mean is None else charge.parameter.detach() - mean)
            key = charge.layer, charge.pathway
            slopes[key] = slopes.get(key, torch.zeros(1, device=away.device)) + (gradient * away).sum().float()
        average_over_ranks(list(slopes.values()))
        self._now = {key: float(value) for key, value in slopes.items()}

    def _next(self, path: Pathway, square: float) -> float:
        key = path.layer, path.pathway
        slope = self._now.get(key, 0.0)
        mean, mean_square = self._slopes.get(key, (0.0, 0.0))
        mean = self.KEEP * mean + (1 - self.KEEP) * slope
        mean_square = self.KEEP * mean_square + (1 - self.KEEP) * slope**2
        self._slopes[key] = mean, mean_square
        change = self.change / math.sqrt(1 + self.steps / (self.every * self.SETTLING))
        return path.precision * math.exp(change * mean / max(math.sqrt(mean_square), _TINY))

    def _state(self) -> dict[str, Any]:
        slopes = [list(self._slopes.get((path.layer, path.pathway), (0.0, 0.0))) for path in self.paths]
        return {**super()._state(), "slopes": slopes}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        for path, (mean, square) in zip(self.paths, state["slopes"], strict=True):
            self._slopes[path.layer, path.pathway] = float(mean), float(square)
