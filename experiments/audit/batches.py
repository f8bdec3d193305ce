"""Work in batches: the batch size that the memory allows, and how much is done."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from softeq.errors import SofteqError

_FULL = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class Meter:
    """Counts the work done, in forward passes of one image, and tells a callback."""

    def __init__(self, total: float, tell: Callable[[int, int], None]) -> None:
        self.total, self.done, self.tell = total, 0.0, tell

    def advance(self, work: float) -> None:
        """Add to the work done; never beyond the total, since repeated batches count twice."""
        self.done = min(self.done + work, self.total)
        self.tell(round(self.done), round(self.total))

    @contextmanager
    def watching(self, module: nn.Module, work: float) -> Iterator[None]:
        """Count every forward pass of ``module`` in the block as ``work`` per image; scripts have no hooks for that."""
        with ExitStack() as held:
            if not isinstance(module, torch.jit.RecursiveScriptModule):
                count = module.register_forward_hook(lambda _, inputs, __: self.advance(work * len(inputs[0])))
                held.callback(count.remove)
            yield


class Batches:
    """The batch size, halved for good when the memory does not suffice; below one image, fewer tangents at once.

    Args:
        size: images at once, or None: found out, from ``start`` downwards.
        start: where to begin when ``size`` is None.
    """

    def __init__(self, size: int | None, start: int) -> None:
        self.fixed = size is not None
        self.size = start if size is None else size
        self.chunk: int | None = None

    def run(self, work: Callable[[int, int | None], Any]) -> Any:
        """``work(images at once, tangents at once)``, again with less for as long as the memory does not suffice.

        Raises:
            SofteqError: when it does not for the size that was asked for, or for one image and one tangent.
        """
        while True:
            try:
                return work(self.size, self.chunk)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            self._less()

    def _less(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.fixed:
            raise SofteqError(f"out of memory with --batch-size {self.size}: choose a smaller one, or auto")
        if self.size > 1:
            self.size //= 2
        elif self.chunk != 1:
            self.chunk = 2 if self.chunk is None else 1
        else:
            raise SofteqError("out of memory with one image and one tangent at a time: use a larger device")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in _FULL)
