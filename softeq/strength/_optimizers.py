"""The metric in which each of torch's optimizers moves a parameter, read from its state after the step.

Of a gradient g that stays as it is, the optimizer moves w by ``- rate g / D`` with ``D = sqrt(v) + offset`` (or 1). A
prior step in the same metric leaves the stationary points of loss and prior where they are, see `softeq.strength`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam

from softeq.errors import SofteqTypeError, SofteqValueError

Number = float | Tensor
"""A number, or a 0-d tensor where reading it would make a device wait."""


class Metric(NamedTuple):
    """How far a parameter goes: by ``rate g / (sqrt(square) + offset)``, or by ``rate g`` without a square.

    Attributes:
        rate: 0 where the optimizer did not move.
        square: Adam's second moment before its bias is corrected; the correction is in ``rate`` and ``offset``.
        offset: Adam's epsilon, scaled as the square is.
        decay: learning rate times decoupled weight decay, which this step has applied and the prior takes back.
        fresh, kept: the step was ``(fresh grad + kept exp_avg) / D``, for taking the decay back exactly.
    """

    rate: Number
    square: Tensor | None = None
    offset: Number = 0.0
    decay: Number = 0.0
    fresh: Number = 0.0
    kept: Number = 0.0

    def unless(self, overflowed: Tensor) -> Metric:
        """This metric, or one that moves nothing where a 0-d tensor is not 0: its device need not be waited for."""
        went = overflowed == 0

        def instead(value: Number, other: float) -> Number:
            if isinstance(value, float) and value == other:
                return value
            return torch.where(went, torch.as_tensor(value, dtype=torch.float64, device=went.device), other)

        offset = self.offset if self.square is None else instead(self.offset, 1.0)
        numbers = (instead(value, 0.0) for value in (self.decay, self.fresh, self.kept))
        return Metric(instead(self.rate, 0.0), self.square, offset, *numbers)


class Metrics:
    """The metrics of the step that an optimizer has just taken; numbers that parameters share are computed once."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._numbers = _NUMBERS[type(optimizer)]
        self._known: dict[tuple[int, float], Metric] = {}

    def of(self, group: dict[str, Any], parameter: nn.Parameter) -> tuple[Metric, Number]:
        """Of one parameter, of this parameter group; and how many steps it has taken (0 where SGD does not count)."""
        state = self.optimizer.state.get(parameter)
        if not state:
            return (self._numbers(group, {}, 0.0) if type(self.optimizer) is SGD else Metric(0.0)), 0.0
        step = _number(state.get("step", 0.0))
        if "step" in state and isinstance(step, float) and step == 0:  # a scaler has left out all steps so far
            return Metric(0.0), 0.0
        if isinstance(step, Tensor):
            # Wide: of 1 - beta2^step few digits are left in single precision.
            shared = self._numbers(group, state, step.double())
        else:
            key = id(group), step
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = self._numbers(group, state, step)
            shared = found
        if shared.square is None:
            return shared, step
        square = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
        return Metric(shared.rate, square, shared.offset, shared.decay, shared.fresh, shared.kept), step

    def moved(self, parameter: nn.Parameter, metric: Metric) -> Tensor:
        """The step that the optimizer took with this parameter beside a decoupled decay."""
        total = metric.kept * self.optimizer.state[parameter]["exp_avg"]
        if isinstance(metric.fresh, Tensor) or metric.fresh:
            if parameter.grad is None:
                raise SofteqValueError("optimizer: decoupled weight decay needs the gradients until rule.step")
            total = total + metric.fresh * parameter.grad
        return total if metric.square is None else total / (metric.square.sqrt() + metric.offset)


def check_optimizer(optimizer: object) -> None:
    """Raises unless the prior step knows the optimizer's metric.

    Raises:
        SofteqTypeError: another optimizer than those of `SUPPORTED`.
        SofteqValueError: one that ascends, or is differentiated through.
    """
    if type(optimizer) not in _NUMBERS:
        raise SofteqTypeError(
            f"optimizer: expected one of torch.optim's {', '.join(SUPPORTED)}, whose step the prior can follow, got "
            f"{type(optimizer).__name__}; with another one put softeq.prior_penalty(model, prior) / samples into the "
            "loss"
        )
    for group in optimizer.param_groups:  # type: ignore[attr-defined]
        for flag in ("maximize", "differentiable"):
            if group.get(flag):
                raise SofteqValueError(f"optimizer: expected {flag}=False for a step under a prior, got {flag}=True")


def check_decay(group: dict[str, Any], name: str) -> None:
    """Raises where weight decay is part of the gradient: a second prior, which a step afterwards cannot take back."""
    decay = group.get("weight_decay", 0)
    if decay != 0 and not group.get("decoupled_weight_decay", False):
        raise SofteqValueError(
            f"optimizer: expected weight_decay=0 for {name}, which the prior prices, got {decay}: it would be a second "
            "prior. Give the parameters of soft layers a group of their own (softeq.param_groups), or take AdamW, "
            "whose decay the prior replaces"
        )


def _number(value: Any) -> Number:
    """A float, unless the tensor lies on a device that would have to be waited for."""
    return float(value) if not isinstance(value, Tensor) or value.device.type == "cpu" else value


_ANY = torch.zeros(())
"""Stands for the second moment in numbers that several parameters share."""


def _adam(group: dict[str, Any], state: dict[str, Any], step: Number) -> Metric:
    lr = _number(group["lr"])
    beta1, beta2 = (_number(beta) for beta in group["betas"])
    root = (1 - beta2**step) ** 0.5
    rate = lr * root
    return Metric(rate, _ANY, group["eps"] * root, _decay(group, lr), kept=rate / (1 - beta1**step))


def _nadam(group: dict[str, Any], state: dict[str, Any], step: Number) -> Metric:
    lr, (beta1, beta2) = _number(group["lr"]), group["betas"]
    root = (1 - beta2**step) ** 0.5
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"])) for t in (step, step + 1))
    product = _number(state["mu_product"])
    fresh, kept = lr * root * (1 - mu) / (1 - product), lr * root * mu_next / (1 - product * mu_next)
    # Of a constant gradient the average holds the share 1 - beta1^t.
    rate = fresh + kept * (1 - beta1**step)
    return Metric(rate, _ANY, group["eps"] * root, _decay(group, lr), fresh, kept)


def _radam(group: dict[str, Any], state: dict[str, Any], step: Number) -> Metric:
    step = float(step)
    lr, (beta1, beta2) = _number(group["lr"]), group["betas"]
    correction = 1 - beta2**step
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * step * beta2**step / correction
    if length <= 5:  # plain momentum at first
        return Metric(lr, decay=_decay(group, lr), kept=lr / (1 - beta1**step))
    rectified = ((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)) ** 0.5
    rate = lr * rectified * correction**0.5
    return Metric(rate, _ANY, group["eps"], _decay(group, lr), kept=rate / (1 - beta1**step))


def _sgd(group: dict[str, Any], state: dict[str, Any], step: Number) -> Metric:
    # A constant gradient g fills the momentum up to (1 - dampening) g / (1 - momentum), with or without Nesterov.
    momentum = group["momentum"]
    gain = (1 - group["dampening"]) / (1 - momentum) if momentum else 1.0
    return Metric(_number(group["lr"]) * gain)


def _decay(group: dict[str, Any], lr: Number) -> Number:
    decoupled = group.get("decoupled_weight_decay", False)
    return lr * group["weight_decay"] if decoupled and group["weight_decay"] else 0.0


_NUMBERS: dict[type, Callable[[dict[str, Any], dict[str, Any], Number], Metric]] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    NAdam: _nadam,
    RAdam: _radam,
}
SUPPORTED = tuple(kind.__name__ for kind in _NUMBERS)
"""The optimizers that the prior step follows."""
