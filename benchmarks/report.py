"""What a benchmark hands back, and how it is printed and kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.timing import Spread, cold_compiler, ratios, using_threads
from softeq.experiments.engine.provenance import of_run


@dataclass(frozen=True)
class Row:
    """One measured arm.

    Args:
        benchmark, case, arm: what was measured.
        seconds: of one call, over blocks.
        twin: the arm that the ratio is to; empty for the twin itself.
        ratio: of seconds, arm / twin, taken block by block; ``None`` for the twin.
        threads: how many computed.
        compile_seconds: of the first call where it was compiled; not in ``seconds``.
        more: other numbers by name, the unit in the name.
    """

    benchmark: str
    case: str
    arm: str
    seconds: Spread
    twin: str = ""
    ratio: Spread | None = None
    threads: int = 1
    compile_seconds: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


def compared(
    benchmark: str,
    case: str,
    taken: Mapping[str, Sequence[float]],
    twin: str,
    threads: int,
    compiling: Mapping[str, float] | None = None,
) -> list[Row]:
    """A row per arm from the seconds that `interleaved` gave, with ratios to the arm named ``twin``."""
    rows = []
    for arm, seconds in taken.items():
        own = arm == twin
        ratio = None if own else ratios(seconds, taken[twin])
        compile_seconds = (compiling or {}).get(arm)
        rows.append(Row(benchmark, case, arm, Spread.of(seconds), "" if own else twin, ratio, threads, compile_seconds))
    return rows


@dataclass(frozen=True)
class Report:
    """A benchmark's rows, its tables ready to print, and remarks below them."""

    rows: list[Row]
    tables: list[Table]
    remarks: list[str] = field(default_factory=list)

    def print(self, console: Console) -> None:
        """Tables, then remarks."""
        for table in self.tables:
            console.print(table)
        for remark in self.remarks:
            console.print(remark, style="dim", markup=False, highlight=False)


def in_both_modes(
    threads: Sequence[int],
    trained: Callable[[int, str], list[Row]],
    inferred: Callable[[int], list[Row]],
    *,
    quick: bool,
) -> tuple[list[Row], list[str]]:
    """The rows of training steps, eager and compiled, and of inference, and what to remark where nothing compiles.

    Args:
        threads: the numbers of threads to measure on, one after the other.
        trained: called as ``trained(threads, "eager")`` or ``"compiled"``.
        inferred: called with the number of threads.
        quick: eager alone, on the first number of threads.
    """
    done: list[Row] = []
    remarks: list[str] = []
    for count in threads[:1] if quick else threads:
        with using_threads(count):
            done += trained(count, "eager") + inferred(count)
            if quick:
                continue
            try:
                with cold_compiler():
                    done += trained(count, "compiled")
            except RuntimeError as error:
                remarks = [f"torch.compile does not work here: {str(error).strip().splitlines()[0]}"]
    return done, remarks


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
    """A table with its first column to the left and the others to the right."""
    # As Text: rich would take "[min, max]" in a plain string for markup.
    made = Table(
        title=Text(title, "bold"),
        caption=Text(caption) if caption else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for index, column in enumerate(columns):
        # Ranges may take several lines on a narrow screen; nothing else should.
        ranges = any("[" in row[index] for row in rows)
        made.add_column(Text(column), justify="right" if index else "left", no_wrap=not ranges, overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def environment(device: str = "cpu") -> str:
    """One line: device, cores, versions, and how busy the machine was in the last minute."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    gpu = f"cuda ({torch.cuda.get_device_name()}), " if device == "cuda" else ""
    return (
        f"{gpu}cpu ({platform.machine()}, {os.cpu_count()} cores{load}), {torch.get_default_dtype()}, "
        f"torch {torch.__version__}, python {platform.python_version()}"
    )


def append_rows(path: Path, rows: Sequence[Row], seconds: float, device: str = "cpu") -> None:
    """One JSON line per row, with where the numbers come from; ``seconds`` is the whole benchmark's."""
    origin = of_run({"device": device}, seconds)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            fields = asdict(row)
            file.write(json.dumps({**fields, "provenance": {**origin, "threads": row.threads}}) + "\n")
