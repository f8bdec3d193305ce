"""Interleaved timing: blocks of calls in turns, so that what else the machine does falls on every arm alike."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Spread:
    """The median of n numbers, with the smallest and the largest."""

    median: float
    min: float
    max: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one number."""
        return Spread(median(values), min(values), max(values), len(values))

    def text(self, scale: float = 1.0) -> str:
        """``median [min, max]``, each times ``scale``, with three digits; of one number that number."""
        if self.n == 1:
            return digits(self.median * scale)
        return f"{digits(self.median * scale)} [{digits(self.min * scale)}, {digits(self.max * scale)}]"


def digits(value: float) -> str:
    """A positive number with three digits."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value < 1 else f"{value:#.3g}"


def ratios(of: Sequence[float], to: Sequence[float]) -> Spread:
    """The spread of ``of / to``, block by block: two numbers of one block were taken within a moment of each other."""
    return Spread.of([a / b for a, b in zip(of, to, strict=True)])


def interleaved(
    steps: Mapping[str, Callable[[], object]], *, blocks: int, block_seconds: float, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds per call of every step, one number per block.

    In each block every step runs in turn for about ``block_seconds``; the one that goes first changes from block to
    block. Each step is called at least once before the clock starts.

    Args:
        steps: by name, what to call.
        blocks: how many numbers per step.
        block_seconds: about how long one step keeps the floor; at least one call.
        device: where the steps compute; on ``cuda`` the clock is read when all that was asked for is done.
    """
    wait = waiting(device)
    calls = {name: max(1, round(block_seconds / _warm_up(step, block_seconds, wait))) for name, step in steps.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for block in range(blocks):
        first = block % len(names)
        for name in names[first:] + names[:first]:
            step = steps[name]
            wait()
            began = time.perf_counter()
            for _ in range(calls[name]):
                step()
            wait()
            taken[name].append((time.perf_counter() - began) / calls[name])
    return taken


def waiting(device: str) -> Callable[[], None]:
    """A function that returns when the device has done what it was asked for; a CPU has, always."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _warm_up(step: Callable[[], object], seconds: float, wait: Callable[[], None]) -> float:
    """Calls ``step`` for a while, at least twice; the fastest call's seconds."""
    fastest, until = float("inf"), time.perf_counter() + seconds
    for call in range(1000):
        began = time.perf_counter()
        step()
        wait()
        now = time.perf_counter()
        fastest = min(fastest, now - began)
        if call and now > until:
            break
    return fastest


@contextmanager
def using_threads(n: int) -> Iterator[None]:
    """Torch computes with n threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_counts() -> tuple[int, ...]:
    """One and two threads, or one where the machine has a single core."""
    return (1, 2) if (os.cpu_count() or 1) > 1 else (1,)


@contextmanager
def cold_compiler() -> Iterator[None]:
    """``torch.compile`` with an empty cache of its own, one small function compiled already.

    The first compilation in a process also tries out the C++ compiler and writes a precompiled header; that belongs to
    no arm.

    Raises:
        RuntimeError: ``torch.compile`` does not work here.
    """
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="softeq-bench-", ignore_cleanup_errors=True) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        torch.compiler.reset()
        try:
            torch.compile(lambda x: (x.sin() @ x).cos().sum())(torch.ones(8, 8, requires_grad=True)).backward()
            yield
        finally:
            torch.compiler.reset()
            if before is None:
                del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def seconds_of(step: Callable[[], object], device: str = "cpu") -> float:
    """Wall seconds of one call, on ``cuda`` until it is done."""
    wait = waiting(device)
    began = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - began
