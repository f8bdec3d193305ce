"""The output space that a measurement reads: softmax probabilities, logits, or whatever an Action picks and moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.actions import Action, Invariant


@dataclass(frozen=True)
class Output:
    """How to read what a model returned, and how that should move.

    Attributes:
        name: for reports.
        action: the declared motion of what `head` returns.
        head: what goes on top of f; None for nothing.
    """

    name: str
    action: Action
    head: Callable[[Any], Tensor] | None = None

    def on(self, f: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """f with the head on top: a module again where f is one, so that it is still prepared as a module."""
        if self.head is None:
            return f
        head = self.head
        return _Headed(f, head) if isinstance(f, nn.Module) else lambda x: head(f(x))

    def read(self, raw: Any) -> Tensor:
        """What f returned -> the tensor (B, ...) that is measured."""
        return self.action.select(raw if self.head is None else self.head(raw))


class _Headed(nn.Module):
    def __init__(self, model: nn.Module, head: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.model(x))


def _logits(raw: Any) -> Tensor:
    if not isinstance(raw, Tensor):
        raise NotMeasurable(
            f"output: expected a tensor (B, K) of class logits, got {type(raw).__name__}; "
            "pick an entry with output=Pick(entry, Invariant())"
        )
    if raw.ndim != 2:
        raise NotMeasurable(
            f"output: expected class logits (B, K), got shape {tuple(raw.shape)}; "
            "say how such an output moves: output=ImageMap(), Tokens(...), Invariant() or another Action"
        )
    return raw


def _probabilities(raw: Any) -> Tensor:
    logits = _logits(raw)
    if logits.shape[1] < 2:
        raise NotMeasurable("output: the softmax of one logit is constant; measure output='logits'")
    return logits.softmax(-1)


_SPACES = {"probabilities": _probabilities, "logits": _logits}


def output_space(output: str | Action) -> Output:
    """ "probabilities" (softmax over K of (B, K), invariant), "logits" (raw (B, K), invariant), or an Action's space.

    Raises:
        SofteqValueError, SofteqTypeError: neither of the two names, nor an Action.
    """
    if isinstance(output, Action):
        return Output(output.name, output)
    if not isinstance(output, str):
        raise SofteqTypeError(f"output: expected 'probabilities', 'logits' or an Action, got {type(output).__name__}")
    if output not in _SPACES:
        raise SofteqValueError(f"output: expected 'probabilities', 'logits' or an Action, got {output!r}")
    return Output(output, Invariant(), _SPACES[output])
