"""Tangents pushed through a function together.

By measure.dual, at the cost of about one forward pass per direction; or by torch.func.jvp under vmap, which takes about
twice that and is what the tests hold the former against.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.functions import push_duals
from softeq.measure.forward.prepare import measurable

ENGINES = ("auto", "dual", "vmap")
_log = logging.getLogger(__name__)


def push_forward(
    f: Callable[[Tensor], Any],
    x: Tensor,
    directions: Tensor,
    *,
    select: Callable[[Any], Any] = lambda output: output,
    chunk: int | None = None,
    engine: str = "auto",
) -> tuple[Tensor, Tensor]:
    """f(x) and the derivative of f at x along several directions.

    Args:
        f: a module, run as `measurable` makes it, or a callable; deterministic.
        x: (B, ...).
        directions: (k, B, ...), tangents at x.
        select: picks the tensor out of what f returns.
        chunk: directions at once; None: all.
        engine: "dual" (measure.dual), "vmap" (torch.func), or "auto": the former, and the latter where f does something
            that the former cannot follow. They give the same numbers, but for `detach`, at which "vmap" stops.

    Returns:
        The value (B, ...) and the derivatives (k, B, ...), detached.

    Raises:
        SofteqValueError: chunk < 1, or an unknown engine.
        NotMeasurable: the output is no floating tensor, or not finite, or f has no forward-mode derivative.
    """
    if chunk is not None and chunk < 1:
        raise SofteqValueError(f"chunk: expected at least one direction at a time, got {chunk}")
    if engine not in ENGINES:
        raise SofteqValueError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")

    def selected(z: Tensor) -> Tensor:
        return _tensor(select(f(z)))

    size = min(chunk or len(directions), len(directions))
    pieces = []
    for part in directions.split(size):
        drawn = _random_state(x)
        pieces.append(_push(f, selected, x, part, engine))
        if any(not torch.equal(a, b) for a, b in zip(drawn, _random_state(x), strict=True)):
            raise NotMeasurable("f draws random numbers, so it has no derivative; make it deterministic")
    value = pieces[0][0]
    if not value.isfinite().all():
        rows = (~value.isfinite()).flatten(1).any(1).nonzero().flatten().tolist() if value.ndim > 1 else []
        raise NotMeasurable(f"the output has NaN or infinite entries (samples {rows[:10]})")
    return value, torch.cat([found for _, found in pieces])


def _push(
    f: Callable[[Tensor], Any], selected: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor, engine: str
) -> tuple[Tensor, Tensor]:
    if engine != "vmap":
        try:
            with measurable(f, fused=True), torch.no_grad():
                return push_duals(selected, x, directions)
        except (NotMeasurable, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if engine == "dual":
                raise
            # Whatever it was, an error of f itself comes again, and then reaches the caller.
            _log.debug("by vmap of jvp instead of duals: %s", error)
    with measurable(f), torch.no_grad():
        return _push_vmap(selected, x, directions)


def _push_vmap(f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
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


def _random_state(x: Tensor) -> list[Tensor]:
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise NotMeasurable(
            f"the output is a {type(output).__name__}; measure.Pick(entry, action) says which tensor in it to measure"
        )
    if not output.is_floating_point():
        raise NotMeasurable(f"the output is of {output.dtype}, which has no derivative; measure what comes before it")
    return output
