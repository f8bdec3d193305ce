"""Checks for tests, ours and users' own: of a function's equivariance, and of all that a soft layer promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softeq._spaces import GridFields, Invariant, Shifts, Space, TokenShifts, as_space, check_spaces
from softeq.errors import SofteqTypeError, SofteqValueError

__all__ = [
    "TOLERANCES",
    "GridFields",
    "Invariant",
    "Shifts",
    "Space",
    "TokenShifts",
    "assert_equivariant",
    "check_layer",
    "equivariance_errors",
]

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}
"""The relative error up to which a computation in this dtype counts as exact. Written once, here."""


def equivariance_errors(
    function: Callable[..., Tensor],
    rep_in: Any,
    rep_out: Any,
    *,
    samples: int = 16,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Tensor:
    """``||f(g x) - g f(x)|| / ||f||`` for random x and g, ``(samples,)``.

    ``||f||`` is the larger of the two norms; where both are zero the error is zero. Group elements and inputs (standard
    normal) come from ``seed``; the group acts in float64 on the CPU and ``function`` sees ``dtype`` on ``device``.
    What an output space says of it that it is not known (NaN, as what a shift brings in) is not compared.

    Args:
        function: of one batch of inputs ``(samples, ...)``, or of several where ``rep_in`` is a tuple.
        rep_in, rep_out: see `assert_equivariant`.
        samples, dtype, device, seed: see `assert_equivariant`.

    Raises:
        SofteqTypeError: what is no space.
        SofteqValueError: reps of different groups, or outputs of another shape or with NaN or inf.
    """
    given = rep_in if isinstance(rep_in, tuple) else (rep_in,)
    spaces, out = [as_space(space, "rep_in") for space in given], as_space(rep_out, "rep_out")
    check_spaces(spaces, out)
    generator = torch.Generator().manual_seed(seed)
    inputs = [space.draw(samples, generator) for space in spaces]
    acting = next((space for space in spaces if not isinstance(space, Invariant)), spaces[0])
    elements = acting.elements(samples, generator)
    moved = [_acted(space, elements, x) for space, x in zip(spaces, inputs, strict=True)]
    with torch.no_grad():
        f_x, f_moved = (function(*(x.to(device, dtype) for x in each)).double().cpu() for each in (inputs, moved))
    wanted = out.draw(samples, generator).shape
    for f in (f_x, f_moved):
        if f.shape != wanted:
            expected_shape = ", ".join(map(str, wanted[1:]))
            raise SofteqValueError(f"function: expected outputs of shape (n, {expected_shape}), got {tuple(f.shape)}")
        if not torch.isfinite(f).all():
            raise SofteqValueError("function: expected finite outputs, got NaN or inf; equivariance cannot be measured")
    expected = _acted(out, elements, f_x)
    f_moved = f_moved.masked_fill(expected.isnan(), 0.0).flatten(1)
    expected = expected.nan_to_num(nan=0.0).flatten(1)
    size = torch.maximum(expected.norm(dim=1), f_moved.norm(dim=1))
    difference = (f_moved - expected).norm(dim=1)
    return torch.where(size > 0, difference / size.clamp_min(1e-300), 0.0)


def _acted(space: Space, elements: Sequence[Any], x: Tensor) -> Tensor:
    return torch.stack([space.act(element, one) for element, one in zip(elements, x, strict=True)])


def assert_equivariant(
    function: Callable[..., Tensor],
    rep_in: Any,
    rep_out: Any,
    *,
    samples: int = 16,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Raises unless ``function`` is equivariant on random inputs and group elements.

    A function that is zero everywhere passes: zero is equivariant. Test that your outputs are not.

    Args:
        function: a module or any callable; a module is tested on its own device and in its own dtype.
        rep_in, rep_out: how inputs and outputs are transformed: representations bound to one group; e3nn irreps or
            their text; `GridFields` of an escnn type, `Shifts` of images, `TokenShifts`, or your own `Space`. A tuple
            of spaces for a function of several inputs, `Invariant` for those that the group leaves alone.
        samples: how many pairs of an input and a group element.
        dtype: of the inputs; ``None`` takes the module's, float64 for a callable without parameters.
        tolerance: on the relative error; ``None`` takes ``TOLERANCES[dtype]``.
        seed: of the inputs and elements.

    Raises:
        AssertionError: the largest relative error is above the tolerance; the message names it.
    """
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
    device = parameters[0].device if parameters else torch.device("cpu")
    if dtype is None:
        dtype = parameters[0].dtype if parameters else torch.float64
    if tolerance is None:
        if dtype not in TOLERANCES:
            raise SofteqValueError(f"dtype: expected one of {sorted(map(str, TOLERANCES))}, got {dtype}")
        tolerance = TOLERANCES[dtype]
    errors = equivariance_errors(function, rep_in, rep_out, samples=samples, dtype=dtype, device=device, seed=seed)
    worst = float(errors.max())
    if not worst <= tolerance:
        group = getattr(getattr(rep_in, "group", None), "name", None) or f"the group that acts on {rep_in}"
        raise AssertionError(
            f"not equivariant under {group}: relative error up to {worst:.2e} over {samples} random elements, "
            f"tolerance {tolerance:.0e} for {dtype}"
        )


def check_layer(
    layer: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    spaces: tuple[Any, Any] | None = None,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, str]:
    """Raises unless a soft layer keeps what every soft layer promises, each in `_layer_checks` and `_layer_situations`.

    The layer is not changed. Checked are: the partition of the parameters, merged weight and projector, ``fold``,
    ``harden``, the penalty, the defect, float64, autocast, gradients, compilation, export, ``torch.jit.trace``, state
    dict, the meta device, pickle, averages with buffers, ``functional_call`` and ``vmap`` over stacked parameters,
    channels_last, hooks that compute a parameter, inputs of a wrong dtype, and the equivariance of the hard form.

    Args:
        layer: a `SoftLayer` in float32 on the CPU, with any constraint.
        example: what it takes: a tensor, or a tuple of them, float32, with at least two rows.
        spaces: ``(rep_in, rep_out)`` of the hard form, as `assert_equivariant` takes them. ``None`` reads them off
            a layer's ``rep_in`` and ``rep_out``, ``irreps_in`` and ``irreps_out``, or ``in_type`` and ``out_type``.
        only: names of checks to run; ``None`` for all.
        skip: names of checks to leave out.

    Returns:
        Per check ``"passed"``, or why it does not apply to this layer.

    Raises:
        AssertionError: a promise that is not kept; the message begins with the check's name.
        SofteqTypeError: no soft layer, or an example that is no tensor.
        SofteqValueError: an unknown check.
    """
    from softeq._layer_situations import CHECKS, Case, DoesNotApply
    from softeq.pathways import SoftLayer

    inputs = example if isinstance(example, tuple) else (example,)
    if not isinstance(layer, SoftLayer):
        raise SofteqTypeError(f"layer: expected a SoftLayer, got {type(layer).__name__}")
    if not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise SofteqTypeError(f"example: expected a tensor or a tuple of tensors, got {example!r}")
    names = list(CHECKS if only is None else only)
    if unknown := sorted({*names, *skip} - set(CHECKS)):
        raise SofteqValueError(f"only, skip: expected names among {sorted(CHECKS)}, got {unknown}")
    results = {}
    for name in (name for name in names if name not in set(skip)):
        try:
            CHECKS[name](Case(layer, inputs, spaces))
            results[name] = "passed"
        except DoesNotApply as reason:
            results[name] = str(reason)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{name}: raised {type(error).__name__}: {error}") from error
    return results
