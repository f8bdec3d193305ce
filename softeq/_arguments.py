"""Arguments and inputs of layers: checked once, in one wording."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.reps import Rep


def whole(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as a whole number, of at least ``least`` where that is given.

    Raises:
        SofteqTypeError: no whole number; 8.5 and True are none.
        SofteqValueError: below ``least``.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        bound = "" if least is None else f" of at least {least}"
        raise SofteqTypeError(f"{name}: expected a whole number{bound}, got {value!r}")
    if least is not None and value < least:
        raise SofteqValueError(f"{name}: expected at least {least}, got {value}")
    return int(value)


def finite(name: str, value: Any) -> float:
    """``value`` as a finite number.

    Raises:
        SofteqTypeError: no number.
        SofteqValueError: NaN or infinite.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise SofteqTypeError(f"{name}: expected a finite number, got {value!r}")
    if not math.isfinite(value):
        raise SofteqValueError(f"{name}: expected a finite number, got {value}")
    return float(value)


def under_autocast(x: Tensor) -> bool:
    """Whether autocast narrows what is computed where ``x`` is; a device that has none, as meta, is no error."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def check_dtype(x: Tensor, weight: Tensor | None = None, name: str = "x") -> None:
    """Raises unless an input can meet a layer's weights: real floating numbers, of their dtype outside autocast."""
    if not x.dtype.is_floating_point:
        raise SofteqTypeError(f"{name}: expected real floating-point numbers, got {x.dtype}; convert with .float()")
    if weight is not None and x.dtype != weight.dtype and not under_autocast(x):
        raise SofteqTypeError(
            f"{name}: expected {weight.dtype}, as the layer's weights have, got {x.dtype}; convert either with .to()"
        )


def no_equivariant_map(given: object, wanted: object) -> SofteqValueError:
    """The error of a layer that has an equivariant pathway in which there would be nothing but zero."""
    return SofteqValueError(
        f"no map but zero from {given} to {wanted} is equivariant, so that the hard layer would ignore its input: "
        "expected other representations (or a larger kernel), or constraint='none'"
    )


def check_width(x: Tensor, size: int, rep: Rep, what: str = "") -> None:
    """Raises unless the last axis of a layer's input has ``size`` coordinates; the message names ``what`` and rep."""
    if x.shape[-1:] != (size,):
        raise SofteqValueError(f"x: expected shape (..., {size}) for {what}{rep!r}, got {tuple(x.shape)}")


def check_read(module: Any) -> Any:
    """The module, or ``None``, whose numbers a layer is to read without calling it.

    Raises:
        SofteqTypeError: a hook computes them when the module is called (torch's pruning, its older weight and spectral
            norm): what is to be read would be what they were when the hook was set.
    """
    if (
        module is not None
        and module._forward_pre_hooks
        and (stale := [k for k, v in vars(module).items() if isinstance(v, Tensor)])
    ):
        hooks = sorted({type(hook).__name__ for hook in module._forward_pre_hooks.values()})
        raise SofteqTypeError(
            f"{stale[0]}: {', '.join(hooks)} computes it when a {type(module).__name__} is called, but its layer reads "
            "it without a call; take torch.nn.utils.parametrize, or end it first (torch.nn.utils.prune.remove)"
        )
    return module
