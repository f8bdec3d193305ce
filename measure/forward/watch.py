"""What torch.func's forward mode passes over without a word, noticed: custom operations, and Python numbers.

An operation that is none of torch's own counts there as constant, and `float(x)` gives the value without its tangent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.dual import NUMBERS, through_bits, through_numbers
from softeq.measure.forward.unruled import QUANTISED

_OWN = ("aten", "prims", "inductor_prims", "profiler")  # namespaces of operations whose forward mode torch knows of
_FROM_NUMBERS = frozenset((torch.tensor, torch.as_tensor, torch.asarray))


class Watch:
    """For the length of a `with` block around torch.func: raises NotMeasurable where a derivative would be lost."""

    def __enter__(self) -> Watch:
        self._stack = ExitStack()
        self._stack.enter_context(_Numbers())
        self._stack.enter_context(_Operations())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


class _Numbers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if torch.is_inference_mode_enabled() and any(map(_followed, (*_flat(list(args)), *given.values()))):
            raise NotMeasurable("f computes in torch.inference_mode, where no derivative is taken; use torch.no_grad")
        if func in NUMBERS and any(map(_followed, args)):
            raise NotMeasurable(through_numbers(f"Tensor.{func.__name__}"))
        if func in _FROM_NUMBERS and not isinstance(args[0], Tensor) and any(map(_followed, _flat(args[0]))):
            raise NotMeasurable(through_numbers(f"torch.{func.__name__} of several tensors; use torch.stack"))
        out = func(*args, **given)
        if func is Tensor.view and _followed(args[0]) and out.dtype.to_real() != args[0].dtype.to_real():
            raise NotMeasurable(through_bits(out.dtype))
        if _followed(out) and out.element_size() < 2:
            raise NotMeasurable(f"f uses {func.__name__} to {out.dtype}, which {QUANTISED}")
        return out


def _followed(value: Any) -> bool:
    """Whether a tensor is inside a torch.func transform, and moves."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return False
    return torch._C._functorch.is_gradtrackingtensor(value) or torch._C._functorch.is_batchedtensor(value)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _flat(entry)
    else:
        yield value


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name.split("::")[0] not in _OWN and _continuous(args) and _continuous(out):
            raise NotMeasurable(f"f uses {name}, whose derivative torch's forward mode does not know")
        return out


def _continuous(values: Any) -> bool:
    return any(isinstance(v, Tensor) and v.is_floating_point() for v in _flat(values))
