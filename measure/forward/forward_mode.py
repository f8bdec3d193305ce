"""Tangents pushed through a function together.

By measure.forward.dual, at the cost of about one forward pass per direction; or by torch.func.jvp under vmap, which
takes about twice that, and is what the tests hold the former against; or by two backward passes, for what leaves torch
inside an autograd.Function with a backward of its own (measure.forward.reverse).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.functions import push_duals
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.reverse import NoReverse, check_by_differences, forward_over_reverse
from softeq.measure.forward.state import DRAWS, Kept, unchanged
from softeq.measure.forward.watch import Watch

ENGINES = ("auto", "dual", "vmap", "reverse")
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
        engine: "dual" (measure.forward.dual), "vmap" (torch.func), "reverse" (two backward passes, held against
            central differences), or "auto": the first of them that can follow f. They give the same numbers, but
            that "vmap" and "reverse", held against central differences, refuse where f detaches what moves.

    Returns:
        The value (B, ...) and the derivatives (k, B, ...), detached.

    Raises:
        SofteqValueError: chunk < 1, or an unknown engine.
        NotMeasurable: the output is no floating tensor, or not finite, or f has no derivative that can be taken; the
            message names the operation. f, its modules and the random number generators are left as they were.
    """
    if chunk is not None and chunk < 1:
        raise SofteqValueError(f"chunk: expected at least one direction at a time, got {chunk}")
    if engine not in ENGINES:
        raise SofteqValueError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")

    size = min(chunk or len(directions), len(directions))
    with unchanged(f) as kept:
        pieces = []
        for part in directions.split(size):
            pieces.append(_push(_Pushed(f, select, kept), x, part, engine))
    value = pieces[0][0]
    if not value.isfinite().all():
        rows = (~value.isfinite()).flatten(1).any(1).nonzero().flatten().tolist() if value.ndim > 1 else []
        raise NotMeasurable(f"the output has NaN or infinite entries (samples {rows[:10]})")
    return value, torch.cat([found for _, found in pieces])


@dataclass(frozen=True)
class _Pushed:
    """A function with what reads its output, and the state that it must not draw from."""

    f: Callable[[Tensor], Any]
    select: Callable[[Any], Any]
    kept: Kept

    def __call__(self, x: Tensor) -> Tensor:
        return _tensor(self.select(self.f(x)))

    def line(self, x: Tensor) -> tuple[Tensor]:
        """As a function from tensors to tensors."""
        return (self(x),)

    def wide(self) -> Callable[[Tensor], tuple[Tensor]] | None:
        """The same on float64, a module as a copy; None where it cannot be copied."""
        try:
            f = copy.deepcopy(self.f).double() if isinstance(self.f, nn.Module) else self.f
        except (RuntimeError, TypeError):
            return None
        return lambda x: (_tensor(self.select(f(x))),)


def _push(pushed: _Pushed, x: Tensor, directions: Tensor, engine: str) -> tuple[Tensor, Tensor]:
    errors: list[Exception] = []
    for name in _PUSH if engine == "auto" else (engine,):
        try:
            with measurable(pushed.f, fused=name == "dual"), torch.no_grad():
                found = _PUSH[name](pushed, x, directions)
                if pushed.kept.drew():
                    raise NotMeasurable(f"f {DRAWS}")
                return found
        except NoReverse as error:
            errors.append(error)
        except (NotMeasurable, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # Whatever it was, an error of f itself comes again, and then reaches the caller.
            _log.debug("%s: %s", name, error)
            errors.append(error)
    if engine == "dual":
        raise errors[0]
    with measurable(pushed.f), torch.no_grad():
        pushed(x)  # raises where f itself is at fault
        drew = pushed.kept.drew()
    raise _refusal(errors, drew) from errors[-1]


def _push_vmap(f: _Pushed, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    def one(direction: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.func.jvp(f, (x,), (direction,))
        return pair[0], pair[1]

    with Watch():
        if len(directions) == 1:
            value, found = one(directions[0])
            values, found = value[None], found[None]
        else:
            values, found = torch.func.vmap(one)(directions)
    if not values[0].isfinite().all():
        return values[0], found  # refused for that
    try:
        _check(f, x, directions, found, "the derivative of f by torch.func, which stops at detach,")
    except NoReverse as error:
        raise NotMeasurable(str(error)) from None
    return values[0], found


def _push_reverse(f: _Pushed, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    (value,), found = forward_over_reverse(f.line, (x,), [(direction,) for direction in directions])
    pushed = torch.stack([tangents[0] for tangents in found])
    _check(f, x, directions, pushed, "has no forward-mode derivative, and its backward")
    return value, pushed


def _check(f: _Pushed, x: Tensor, directions: Tensor, found: Tensor, claim: str) -> None:
    along, pushed = [(direction,) for direction in directions], [(tangent,) for tangent in found]
    check_by_differences(f.line, f.wide(), (x,), along, pushed, claim)


_PUSH: dict[str, Callable[[_Pushed, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "dual": push_duals,
    "vmap": _push_vmap,
    "reverse": _push_reverse,
}

_REASONS = (  # what torch's messages contain, and what that means here
    (("autograd.Function",), "f uses a torch.autograd.Function without a forward-mode rule (setup_context and jvp)"),
    (("forward AD", "forward-mode"), "f uses an operation without a forward-mode derivative"),
    (("captured Tensor",), "f writes into a tensor from outside of it"),
    (
        ("flex_attention",),
        "f uses flex_attention, which has no forward mode; use scaled_dot_product_attention",
    ),
    (("data pointer", "have storage", "not allocated", "numpy()"), "f hands its data to something else than torch"),
    (("vmap", "randomness"), "f does not run on several tangents at once; chunk=1 pushes them one at a time"),
)


def _refusal(errors: Sequence[Exception], drew: bool) -> NotMeasurable:
    """What stands in the way, in words, from the errors of the ways that were tried; f itself runs."""
    if drew:  # torch.func.vmap also takes for random what may be, a batch normalisation of moving statistics say
        return NotMeasurable(f"f {DRAWS}")
    tried = [error for error in errors if not isinstance(error, NoReverse)] or list(errors)
    for words, reason in _REASONS:
        for error in tried:
            if any(word in str(error) for word in words):
                return NotMeasurable(f"{reason} ({_first_line(error)})")
    return NotMeasurable(
        f"f runs, but nothing takes its derivative: {type(tried[0]).__name__}, {_first_line(tried[0])}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise NotMeasurable(
            f"the output is a {type(output).__name__}; measure.Pick(entry, action) says which tensor in it to measure"
        )
    if output.is_complex():
        raise NotMeasurable(
            f"the output is of {output.dtype}; measure real numbers: torch.view_as_real(output), or output.abs()"
        )
    if not output.is_floating_point():
        raise NotMeasurable(f"the output is of {output.dtype}, which has no derivative; measure what comes before it")
    return output
