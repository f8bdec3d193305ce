"""What the runs of experiments share: streams of random numbers, seeded networks, the count of steps, digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.experiments.engine.experiment import Config, Progress

DIGITS = 5
"""Significant digits of the numbers that a record keeps in quantity."""

DATA, ORDER, MOTION, MEASURE = 1, 2, 3, 4
"""What a stream of random numbers is for: the data, the order of the samples, augmentation, what is measured."""

Network = TypeVar("Network", bound=nn.Module)


def generator_for(seed: int, number: int) -> torch.Generator:
    """A stream of random numbers of its own for each seed of a run and each purpose."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + number)


def seeded(config: Config, build: Callable[[], Network]) -> Network:
    """The untrained network of a configuration: the same parameters each time, torch's own generator left alone.

    Args:
        config: ``seed``, ``device`` and ``dtype`` are read.
        build: makes the network, from torch's global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = build()
    return model.to(device=config["device"], dtype=dtype_of(config))


def dtype_of(config: Config) -> torch.dtype:
    """The dtype that a configuration names.

    Raises:
        SofteqValueError: it is none of torch's.
    """
    found = getattr(torch, config["dtype"], None)
    if not isinstance(found, torch.dtype):
        raise SofteqValueError(f"dtype: expected the name of one of torch's types, got {config['dtype']!r}")
    return found


def device_for(preset: str) -> str:
    """Where a run of a preset computes: the ``paper`` presets on a GPU where there is one."""
    return "cuda" if preset == "paper" and torch.cuda.is_available() else "cpu"


def counter(progress: Progress, total: int) -> Callable[[], None]:
    """To be called after each step: tells ``progress`` how many of ``total`` are done."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(min(done, total), total)

    return step


def rounded(value: float) -> float:
    """To the digits that a record keeps."""
    return float(f"{value:.{DIGITS}g}")
