"""What the runs of experiments share: streams of random numbers, the count of steps, the digits of a record."""

from __future__ import annotations

from collections.abc import Callable

import torch

from softeq.experiments.engine.experiment import Progress

DIGITS = 5
"""Significant digits of the numbers that a record keeps in quantity."""


def generator_for(seed: int, number: int) -> torch.Generator:
    """A stream of random numbers of its own for each seed of a run and each purpose."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + number)


def counter(progress: Progress, total: int) -> Callable[[], None]:
    """To be called after each step: tells ``progress`` how many of ``total`` are done."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return step


def rounded(value: float) -> float:
    """To the digits that a record keeps."""
    return float(f"{value:.{DIGITS}g}")
