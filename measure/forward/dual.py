"""A tensor that carries its derivatives along several directions through every operation: forward mode at low cost.

torch.func.jvp under vmap breaks activations, normalisations and attention into many small passes over memory. Here
every operation that torch runs on a `Dual` is met by a rule that runs it once on the value and once per direction on
tensors of the value's own shape, with what the directions share computed once (measure.dual_rules). An operation
without a rule goes through torch.func.jvp alone; what cannot be followed at all (writing into a tensor that is no
Dual) raises `Unfollowed`, and the caller does the whole computation by vmap of jvp.

The derivative is that of the values: `detach` changes none, so it does not stop a derivative, as it stops torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.overrides
from torch import Tensor

from softeq.measure.errors import NotMeasurable

# A rule takes the operation and its arguments, some of them Duals, and returns what the operation returns.
Rule = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
# Tangents that are worked out when they are asked for; a batch normalisation that follows scales the weights first.
Pending = Callable[[Tensor | None], Sequence[Tensor]]

RULES: dict[Any, Rule] = {}  # by torch.ops.aten's overload packet, None for all others; filled by rules and unruled
FUNCTIONS: dict[Any, Callable[..., Any]] = {}  # by torch function; NotImplemented leaves it to RULES


# What turns a tensor's values into Python's, and with them loses the derivative without a word.
NUMBERS = frozenset(
    (Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__complex__, Tensor.__format__, Tensor.__index__)
)
# What gives away a tensor's memory, which a Dual does not have.
MEMORY = frozenset(
    (Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.untyped_storage, Tensor.storage, Tensor.__dlpack__)
)


def through_bits(dtype: torch.dtype) -> str:
    """The reason why what reads a tensor's memory as other numbers has no derivative."""
    return f"f reads the bits of its data as {dtype} (Tensor.view), through which no derivative passes"


def through_numbers(name: str) -> str:
    """The reason why what passes through Python numbers has no derivative."""
    return f"f turns its data into Python numbers ({name}), through which no derivative passes; keep them in tensors"


class Unfollowed(Exception):
    """The operation cannot be followed by Duals; other ways may take it."""


class Dual(Tensor):
    """A value and its derivatives along k directions.

    Args:
        primal: the value.
        tangents: k tensors of its shape, or how to work them out.

    The strides of value and tangents are equal, and a view of one is a view of all: so writing in place stays right.
    """

    primal: Tensor
    pending: Pending | None
    _tangents: tuple[Tensor, ...]

    @staticmethod
    def __new__(cls: type[Dual], primal: Tensor, tangents: Sequence[Tensor] | Pending) -> Dual:
        """A tensor without memory of its own; every operation on it arrives at `__torch_dispatch__`."""
        return torch.Tensor._make_wrapper_subclass(
            cls, primal.shape, strides=primal.stride(), dtype=primal.dtype, device=primal.device
        )

    def __init__(self, primal: Tensor, tangents: Sequence[Tensor] | Pending) -> None:
        self.primal, self.pending = primal, None
        if callable(tangents):
            self.pending = tangents
        else:
            self._tangents = tuple(_like(t, primal) for t in tangents)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Dual of {tuple(self.primal.shape)}, {self.primal.dtype}"

    @property
    def tangents(self) -> tuple[Tensor, ...]:
        """k tensors shaped like the value."""
        if self.pending is not None:
            self._tangents = tuple(_like(t, self.primal) for t in self.pending(None))
            self.pending = None
        return self._tangents

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Functions with a rule of their own; the others reach `__torch_dispatch__` in parts."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):  # inside of it torch computes no tangent, and says nothing
                return cls.__torch_function__(func, types, args, kwargs)
        given = dict(kwargs or {})
        if func in NUMBERS:
            raise NotMeasurable(through_numbers(f"Tensor.{func.__name__}"))
        if func in MEMORY:
            raise Unfollowed(f"f hands its data to something else than torch (Tensor.{func.__name__})")
        if func in FUNCTIONS:
            found = FUNCTIONS[func](*args, **given)
            if found is not NotImplemented:
                return found
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **given)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Every operation, by its rule."""
        if torch.is_inference_mode_enabled():  # called from C++, past `__torch_function__`
            with torch.inference_mode(False):
                return cls.__torch_dispatch__(func, types, args, kwargs)
        return follow(func, args, dict(kwargs or {}))


def follow(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on Duals."""
    if func._schema.is_mutable:
        return _in_place(func, args, kwargs)
    return RULES.get(func.overloadpacket, RULES[None])(func, args, kwargs)


def at(value: Any, direction: int | None) -> Any:
    """An argument with Duals replaced by their tangent in that direction, or (None) by their value."""
    if isinstance(value, Dual):
        return value.primal if direction is None else value.tangents[direction]
    if isinstance(value, list | tuple):
        return [at(entry, direction) for entry in value]
    return value


def values(args: Sequence[Any]) -> list[Any]:
    """The arguments with Duals replaced by their values."""
    return [at(value, None) for value in args]


def any_dual(args: Any) -> bool:
    """Whether a Dual is among these, or in a list among them."""
    return any(isinstance(v, Dual) or (isinstance(v, list | tuple) and any_dual(v)) for v in args)


def wrapped(value: Any, tangents: Sequence[Any]) -> Any:
    """What an operation returned, with the derivatives in each direction: Duals where there can be any."""
    if isinstance(value, list | tuple):
        return type(value)(wrapped(v, [t[i] for t in tangents]) for i, v in enumerate(value))
    continuous = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
    return Dual(value, tangents) if continuous else value


def _in_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that writes into its first argument: done aside, then written into value and tangents."""
    into, name = args[0] if args else None, func._schema.name.split("::")[1]
    if not isinstance(into, Dual) or not name.endswith("_"):
        raise Unfollowed(f"{name} writes into a tensor that carries no derivative")
    if torch.Tag.inplace_view in func.tags:
        if name == "as_strided_" and list(args[1]) == list(into.shape) and _same_places(into, args[2]):
            return into  # torch tidies the strides of axes of length one
        raise Unfollowed(f"{name} changes a shape in place")
    aside = getattr(getattr(torch.ops.aten, name[:-1], None), func._overloadname, None)
    if aside is None:
        raise Unfollowed(f"{name} has no form that is not in place")
    found = args[1] if name == "copy_" else follow(aside, args, kwargs)
    into.primal.copy_(at(found, None))
    for i, tangent in enumerate(into.tangents):
        tangent.copy_(found.tangents[i]) if isinstance(found, Dual) else tangent.zero_()
    return into


def _same_places(x: Tensor, strides: Sequence[int]) -> bool:
    return all(n == 1 or old == new for n, old, new in zip(x.shape, x.stride(), strides, strict=True))


def _like(tangent: Tensor, primal: Tensor) -> Tensor:
    """The tangent with the value's strides."""
    if tangent.shape != primal.shape:
        raise Unfollowed(f"a tangent of {tuple(tangent.shape)} at a value of {tuple(primal.shape)}")
    if tangent.stride() == primal.stride() and tangent.dtype == primal.dtype:
        return tangent
    size, strides = tuple(primal.shape), primal.stride()
    return torch.empty_strided(size, strides, dtype=primal.dtype, device=primal.device).copy_(tangent)
