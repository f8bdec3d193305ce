"""A penalty on the function instead of the weights: how far outputs are from moving with the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy, mse_loss

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.prior import Prior
from softeq.strength._rule import Rule

Action = Callable[[torch.Generator], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]
"""Draws a group element; returns how it acts on a batch of inputs and on a batch of outputs."""


class Remul(Rule):
    """``loss + weight mean ||f(g x) - g f(x)||^2``, g drawn anew in every step (REMUL, Elhag et al. 2024).

    For any backbone, soft or not, and any declared action. ``against="labels"`` compares ``f(g x)`` with ``g y``
    instead, which is training on one moved copy of the batch; the measure of the outcome stays ``f(g x) - g f(x)``.
    It costs a second forward and backward pass. A prior is in force where one is given, none else. Two options:
    ``weight``, ``against``.

    Args:
        model, samples, options: see `Rule`; any module with one tensor as its first input.
        action: see `Action`.
        weight: of the penalty, in units of the loss.
        against: ``"self"`` or ``"labels"``; labels are handed over as ``rule.backward(loss, output, target=y)``.
        seed: of the group elements.
    """

    name = "remul"
    needs_layers: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int,
        action: Action,
        weight: float = 1.0,
        against: str = "self",
        prior: Prior | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if not callable(action):
            raise SofteqTypeError(f"action: expected a function of a generator, got {type(action).__name__}")
        if not 0 <= weight < math.inf:
            raise SofteqValueError(f"weight: expected a finite number of at least 0, got {weight}")
        if against not in ("self", "labels"):
            raise SofteqValueError(f"against: expected 'self' or 'labels', got {against!r}")
        free = Prior(equivariant=0.0, residual=0.0)
        super().__init__(model, samples=samples, prior=free if prior is None else prior, **options)
        self.action, self.weight, self.against = action, weight, against
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs: tuple[Any, ...] | None = None
        self._asking = False
        model.register_forward_pre_hook(self._remember)

    def _remember(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training and not self._asking:
            self._inputs = inputs

    def backward(
        self,
        loss: Tensor,
        output: Tensor | None = None,
        *,
        target: Tensor | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """See ``Rule.backward``; ``output`` is needed, and ``target`` against labels."""
        self._check_loss(loss)
        super().backward(loss + self.weight * self.penalty(output, target), output, target=target, scaler=scaler)

    def penalty(self, output: Tensor | None, target: Tensor | None = None) -> Tensor:
        """The penalty for the inputs that the model saw last, with one group element for the batch."""
        if not isinstance(output, Tensor):
            raise SofteqTypeError(f"output: expected the model's output, got {type(output).__name__}")
        if self._inputs is None or not isinstance(self._inputs[0], Tensor):
            raise SofteqValueError("remul: expected a call of the model, in training mode, on a tensor before backward")
        first, *rest = self._inputs
        move_in, move_out = self.action(self._generator)
        self._asking = True
        try:
            moved = self.model(move_in(first), *rest)
        finally:
            self._asking = False
        self._inputs = None
        if self.against == "self":
            return mse_loss(moved, move_out(output))
        if target is None:
            raise SofteqTypeError("target: expected the labels, as rule.backward(loss, output, target=y)")
        return cross_entropy(moved, target) if self.likelihood == "categorical" else mse_loss(moved, move_out(target))

    def _state(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def _load(self, state: Any) -> None:
        self._generator.set_state(state["generator"].cpu())
