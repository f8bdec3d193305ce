"""Index tables and bases: tensors that follow from a layer's description and are never trained.

They are no buffers. A buffer is averaged with the weights, lost when a model is built on the meta device, cast through
narrow dtypes with the module, and kept once per layer. A `Constants` knows the function that builds its tensors and the
arguments: it pickles as these, copies of a layer share it, layers of equal kind too, and each forward pass asks for the
tensors that go with the weight (or the input) that it is about to use.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

Build = Callable[..., Mapping[str, Tensor]]
Found = TypeVar("Found")


class Constants:
    """Named tensors built from a description; made by ``Constants.of``, which shares them.

    Args:
        build: a function of a module (so that it pickles by name): of the description to tensors on the CPU, floating
            ones in float64.
        description: its arguments, hashable.
    """

    def __init__(self, build: Build, *description: Hashable) -> None:
        self.build, self.description = build, description
        self.exact: dict[str, Tensor] = _apart(lambda: dict(build(*description)))
        self._placed: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    @classmethod
    def of(cls, build: Build, *description: Hashable) -> Constants:
        """The one `Constants` of this function and description that is alive, or a new one."""
        key = (build, *description)
        found = _alive.get(key)
        if found is None:
            found = _alive[key] = cls(build, *description)
        return found

    def on(self, like: Tensor) -> dict[str, Tensor]:
        """The tensors on the device of ``like``; floating ones in its dtype, float32 at least, rounded from float64."""
        placed = self._placed.get((like.device, like.dtype))
        return self._place(like.device, like.dtype) if placed is None else placed

    def _place(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        if torch.compiler.is_dynamo_compiling():
            return _cast(self.exact, device, dtype)  # a part of the graph: what is traced must not be kept
        placed = self._placed[device, dtype] = _apart(lambda: _cast(self.exact, device, dtype))
        return placed

    def __deepcopy__(self, memo: dict[int, Any]) -> Constants:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Constants.of, (self.build, *self.description)


_alive: weakref.WeakValueDictionary[tuple[Any, ...], Constants] = weakref.WeakValueDictionary()
"""What layers of equal kind share; forgotten with the last of them."""


def _cast(exact: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    wide = torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.get_default_dtype()
    return {
        name: tensor.to(device, wide) if tensor.is_floating_point() else tensor.to(device)
        for name, tensor in exact.items()
    }


def _apart(function: Callable[[], Found]) -> Found:
    """What ``function`` returns, computed in a thread of its own.

    Modes are a thread's own: inference, autocast, a default device, fake tensors, vmap and grad. A constant outlives
    the one in which it happens to be needed first.
    """
    found: list[Found] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="softeq-constants")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
