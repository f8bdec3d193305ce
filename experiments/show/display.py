"""What a running comparison or audit shows: animated bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.engine.work import Event
from softeq.experiments.show.metrics import scalar
from softeq.experiments.show.render import format_number


class Counter(Protocol):
    """What `display` needs: counts events, says which bar they belong to, and words the lines about them.

    The events' ``kind`` is ``start``, ``step`` (with ``done`` of ``total``) or ``done`` for what moves a bar.
    """

    title: str
    total: int

    @property
    def recorded(self) -> int:
        """Parts of ``total`` that are finished."""

    def take(self, event: Any) -> str | None:
        """Count an event; the line to print, if it is worth one."""

    def key(self, event: Any) -> Hashable:
        """What the events of one bar have in common."""

    def label(self, event: Any) -> str:
        """The text beside the bar."""


class Tally:
    """Counts the pairs that are recorded, and words the lines about them.

    Args:
        experiment: for the headline metric.
        total: how many pairs there are.
    """

    title = "all runs"

    def __init__(self, experiment: Experiment, total: int) -> None:
        self.column = experiment.columns[0]
        self.total = total
        self.fresh = 0
        self.skipped = 0

    @property
    def recorded(self) -> int:
        """Pairs that are recorded by now, by this process or another."""
        return self.fresh + self.skipped

    def take(self, event: Event) -> str | None:
        """Count an event; the line to print, if it is worth one."""
        if event.kind == "skip":
            self.skipped += 1
        elif event.kind == "wait":
            return f"{event.variant}, seed {event.seed}: another softeq process is at it, waiting for its record"
        elif event.kind == "done":
            self.fresh += 1
            value = scalar(event.metrics, self.column.key)
            number = "missing" if value is None else _shown(value, self.column.format)
            headline = f"{self.column.header} {number}, {event.seconds:.1f} s"
            return f"[{self.recorded}/{self.total}] {event.variant}, seed {event.seed}: {headline}"
        return None

    def key(self, event: Event) -> tuple[str, int]:
        """The pair that is run."""
        return event.variant, event.seed

    def label(self, event: Event) -> str:
        """The pair in words."""
        return f"{event.variant}, seed {event.seed}"


def _shown(value: float, spec: str) -> str:
    return format_number(value, spec) if math.isfinite(value) else f"diverged ({value})"


@contextmanager
def display(tally: Counter) -> Iterator[Callable[[Any], None]]:
    """Give the callback that shows events while the block runs: bars on stderr where it is a terminal.

    The lines that ``tally`` words go to stdout either way.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda event: _say(tally.take(event))
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    bars = Progress(*columns, TimeElapsedColumn(), Remaining(), console=console, redirect_stdout=sys.stdout.isatty())
    with bars:
        yield _Bars(bars, tally)


def _say(line: str | None) -> None:
    if line is not None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class _Bars:
    """One bar per run in progress, and one over all."""

    def __init__(self, bars: Progress, tally: Counter) -> None:
        self.bars = bars
        self.tally = tally
        self.overall = bars.add_task(tally.title, total=tally.total)
        self.running: dict[Hashable, TaskID] = {}
        self.fraction: dict[Hashable, float] = {}

    def __call__(self, event: Any) -> None:
        key = self.tally.key(event)
        if event.kind == "start":
            self.running[key] = self.bars.add_task(self.tally.label(event), total=None)
        elif event.kind == "step" and key in self.running:
            self.bars.update(self.running[key], completed=event.done, total=event.total)
            self.fraction[key] = event.done / max(event.total, 1)
        elif event.kind == "done" and key in self.running:
            self.bars.remove_task(self.running.pop(key))
            self.fraction.pop(key, None)
        _say(self.tally.take(event))
        self.bars.update(self.overall, completed=self.tally.recorded + sum(self.fraction.values()))
