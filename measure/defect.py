"""Equivariance under finite elements: what a derivative cannot see (turns by 90 degrees, flips, discrete groups), and
finite steps along a flow, which tend to the Lie derivative.

An `Element` moves data as it stands, by permuting pixels or by a matrix; nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.prepare import measurable
from softeq.measure.forward.separate import check_batch, check_separate
from softeq.measure.motion.actions import Action
from softeq.measure.motion.elements import (
    Element,
    field_element,
    flip_horizontal,
    flip_vertical,
    irreps_element,
    matrix_element,
    on_tokens,
    permute_channels,
    quarter_turn,
    rep_element,
    shift,
)
from softeq.measure.motion.flows import Flow, resolve_flows

__all__ = [
    "STEPS",
    "Element",
    "equivariance_error",
    "field_element",
    "finite_step_curve",
    "flip_horizontal",
    "flip_vertical",
    "irreps_element",
    "matrix_element",
    "on_tokens",
    "permute_channels",
    "quarter_turn",
    "rep_element",
    "shift",
]

STEPS = tuple(2.0**-k for k in range(1, 9))
"""Default steps of `finite_step_curve`: 1/2 to 1/256, in the unit of the flow."""

Move = Element | Callable[[Tensor], Tensor]


def equivariance_error(
    f: Callable[[Tensor], Any],
    x: Tensor,
    element_in: Move,
    element_out: Move | None = None,
    *,
    select: Callable[[Any], Tensor] | None = None,
) -> Tensor:
    """Per sample ``||f(g x) - g f(x)|| / max(||f(g x)||, ||g f(x)||)``: 0 for equivariant f, at most 2.

    Args:
        f: a module, run as `measure.forward.prepare.measurable` makes it, or any callable.
        x: ``(B, ...)``, floating and finite.
        element_in: how g moves inputs; it may change their shape if f takes the new one too.
        element_out: how g moves outputs ``(B, ...)``; ``None``: not at all.
        select: picks the tensor out of what f returns, e.g. ``operator.itemgetter("logits")`` or an Action's `select`.

    Returns:
        ``(B,)`` in float64. NaN for samples that show nothing: both outputs zero, or g leaves the input as it is and
        the error is zero.

    Raises:
        NotMeasurable: f cannot take g x or returns no finite batch; outputs of two shapes; no sample shows anything.
        SofteqTypeError, SofteqValueError: no elements, or bad x.
    """
    _check_moves(element_in, element_out)
    x = _checked(x)
    moved = element_in(x)
    with measurable(f), torch.no_grad():
        value = _batch(f(x), len(x), select)
        check_separate(f, x, value, _identity if select is None else select)
        after = _batch(_applied(f, x, moved), len(x), select)
    before = value if element_out is None else element_out(value)
    if before.shape != after.shape:
        raise NotMeasurable(
            f"outputs of different shapes: f(g x) {tuple(after.shape)}, g f(x) {tuple(before.shape)}; give an "
            "element_out that fits the output, or measure square images"
        )
    error, size = _norm(after.double() - before.double()), torch.maximum(_norm(after), _norm(before))
    still = _norm(moved - x) == 0 if moved.shape == x.shape else torch.zeros_like(error, dtype=torch.bool)
    shows = (size > 0) & ~(still & (error == 0))
    if not shows.any():
        raise NotMeasurable("no sample shows anything: f is zero on all, or the element leaves every input as it is")
    return torch.where(shows, error / size.clamp_min(torch.finfo(torch.float64).tiny), torch.nan)


def finite_step_curve(
    f: Callable[[Tensor], Any],
    x: Tensor,
    flow_in: str | Flow,
    flow_out: Flow | Action | None = None,
    steps: Sequence[float] = STEPS,
) -> tuple[Tensor, Tensor]:
    """Per step and sample ``||flow_out(f(flow_in(x, t)), -t) - f(x)|| / |t|``; it tends to ``||L f||`` as t goes to 0.

    The norm is the Euclidean one over the output's axes. The distance from the limit falls like t, until rounding,
    which grows like 1 / t, takes over: use float64 for small steps.

    Args:
        f: a module, run as `measure.forward.prepare.measurable` makes it, or any callable.
        x: ``(B, ...)``, floating and finite, as `flow_in` needs it.
        flow_in: a flow, or the name of one of FLOWS.
        flow_out: how the output should move: a flow, an Action that derives it from `flow_in`, or ``None``: not at all.
        steps: t, in the unit of the flow; not 0.

    Returns:
        The steps ``(S,)`` and the values ``(S, B)``, float64.

    Raises:
        NotMeasurable: f returns no finite batch, or the output cannot move under that flow.
        SofteqTypeError, SofteqValueError: bad steps, flows or x.
    """
    times = torch.as_tensor(steps, dtype=torch.float64)
    if times.ndim != 1 or not len(times) or not torch.isfinite(times).all() or not times.all():
        raise SofteqValueError(f"steps: expected a sequence of finite numbers other than 0, got {steps!r}")
    (flow, *others) = resolve_flows(flow_in)
    if others:
        raise SofteqValueError(f"flow_in: expected one flow, got {1 + len(others)}")
    x = _checked(x)
    select = flow_out.select if isinstance(flow_out, Action) else None
    with measurable(f), torch.no_grad():
        value = _batch(f(x), len(x), select)
        check_separate(f, x, value, _identity if select is None else select)
        if isinstance(flow_out, Action):
            flow_out = flow_out.flow(flow, tuple(x.shape), tuple(value.shape))
        rows = []
        for t in times.tolist():
            after = _batch(f(flow(x, t)), len(x), select)
            back = after if flow_out is None else flow_out(after, -t)
            rows.append(_norm(back.double() - value.double()) / abs(t))
    return times, torch.stack(rows)


def _check_moves(element_in: Any, element_out: Any) -> None:
    for name, element in (("element_in", element_in), ("element_out", element_out)):
        if isinstance(element, Flow):
            raise SofteqTypeError(
                f"{name}: expected a finite element, got a flow; use finite_step_curve, or lambda x: flow(x, t)"
            )
        if not callable(element) and not (name == "element_out" and element is None):
            raise SofteqTypeError(f"{name}: expected an Element or a callable, got {type(element).__name__}")


def _checked(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise SofteqTypeError(f"x: expected a floating-point tensor (B, ...), got {came}")
    if x.ndim < 2 or not x.numel():
        raise SofteqValueError(f"x: expected (B, ...) with at least one sample, got shape {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise SofteqValueError("x: expected finite numbers, got NaN or inf; leave such samples out")
    return x.detach()


def _applied(f: Callable[[Tensor], Any], x: Tensor, moved: Tensor) -> Any:
    """``f(moved)``; where the element changed the shape and f refuses the new one, the error says so."""
    try:
        return f(moved)
    except (RuntimeError, ValueError, AssertionError) as error:
        if moved.shape == x.shape:
            raise
        raise NotMeasurable(
            f"f takes {tuple(x.shape)} but not {tuple(moved.shape)}, to which the element moves it: a quarter turn "
            "swaps height and width; measure square images"
        ) from error


def _batch(output: Any, samples: int, select: Callable[[Any], Tensor] | None) -> Tensor:
    value = output if select is None else select(output)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise NotMeasurable(f"output: expected a floating-point tensor, got {came}; pick an entry of it")
    check_batch(value, samples)
    if not torch.isfinite(value).all():
        raise NotMeasurable("output: NaN or inf; check the weights and the inputs")
    return value


def _identity(output: Any) -> Any:
    return output


def _norm(value: Tensor) -> Tensor:
    return value.double().flatten(1).norm(dim=1) if value.ndim > 1 else value.double().abs()
