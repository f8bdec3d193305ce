"""Tangents pushed through a function together: torch.func.jvp under vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from measure.errors import NotMeasurable
from measure.prepare import measurable
from softeq.errors import SofteqValueError


def push_forward(
    f: Callable[[Tensor], Any],
    x: Tensor,
    directions: Tensor,
    *,
    select: Callable[[Any], Any] = lambda output: output,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """f(x) and the derivative of f at x along several directions.

    Args:
        f: a module, run as `measurable` makes it, or a callable.
        x: (B, ...).
        directions: (k, B, ...), tangents at x.
        select: picks the tensor out of what f returns.
        chunk: directions at once; None: all. One at a time does without vmap, which some models do not bear.

    Returns:
        The value (B, ...) and the derivatives (k, B, ...), detached.

    Raises:
        SofteqValueError: chunk < 1.
        NotMeasurable: the output is no floating tensor, or not finite, or f has no forward-mode derivative.
    """
    if chunk is not None and chunk < 1:
        raise SofteqValueError(f"chunk: expected at least one direction at a time, got {chunk}")
    size = min(chunk or len(directions), len(directions))
    with measurable(f), torch.no_grad():

        def selected(z: Tensor) -> Tensor:
            return _tensor(select(f(z)))

        pieces = [_push(selected, x, part) for part in directions.split(size)]
    value = pieces[0][0]
    if not value.isfinite().all():
        rows = (~value.isfinite()).flatten(1).any(1).nonzero().flatten().tolist() if value.ndim > 1 else []
        raise NotMeasurable(f"the output has NaN or infinite entries (samples {rows[:10]})")
    return value, torch.cat([found for _, found in pieces])


def _push(f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    def one(direction: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.func.jvp(f, (x,), (direction,))
        return pair[0], pair[1]

    try:
        if len(directions) == 1:
            value, found = one(directions[0])
            return value, found[None]
        values, found = torch.func.vmap(one)(directions)
    except (RuntimeError, NotImplementedError) as error:
        reason = _reason(str(error))
        if reason is None:
            raise
        raise NotMeasurable(f"{reason} ({str(error).splitlines()[0][:200]})") from error
    return values[0], found


_REASONS = (  # what torch's messages contain, and what that means here
    (("autograd.Function",), "f uses a torch.autograd.Function without a forward-mode rule (setup_context and jvp)"),
    (("forward AD", "forward-mode"), "f uses an operation without a forward-mode derivative"),
    (("randomness",), "f draws random numbers, so it has no derivative; make it deterministic"),
    (("captured Tensor",), "f writes into a tensor from outside of it"),
    (("data pointer", "have storage"), "f hands its data to something else than torch"),
    (("vmap",), "f does not run on several tangents at once; chunk=1 pushes them one at a time"),
)


def _reason(message: str) -> str | None:
    """What stands in the way, in words, if the message is about differentiation and not about something else."""
    return next((reason for words, reason in _REASONS if any(word in message for word in words)), None)


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise NotMeasurable(
            f"the output is a {type(output).__name__}; measure.Pick(entry, action) says which tensor in it to measure"
        )
    if not output.is_floating_point():
        raise NotMeasurable(f"the output is of {output.dtype}, which has no derivative; measure what comes before it")
    return output
