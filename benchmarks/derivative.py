"""All nine flows of an audit against one plain forward pass of the same batch, in time and in peak memory.

The forward pass is the model as a user runs it: evaluation mode, no gradient, fused attention. The published way takes
a double backward per flow, through a bilinear resampler (Gruver, Finzi, Goldblum, Wilson, ICLR 2023).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.derivative_arms import BATCH, CHUNKED, FORWARD, MODELS, NINE, PUBLISHED, arm, prepared
from benchmarks.report import Report, Row, compared, table
from benchmarks.timing import digits, interleaved, using_threads

NAME = "derivative"
REACH = {NINE: "9, then 7"}
MEMORY_REACH = {NINE: "12"}
_CASE = "audit, "
_ROOT = Path(__file__).resolve().parents[1]


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (1,),
    rows: int = BATCH,
    models: Sequence[str] = MODELS,
    blocks: int = 5,
    block_seconds: float = 0.1,
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every model; memory in a process per arm.

    Args:
        quick: the smallest model alone, one image, three blocks, no memory.
        threads: the numbers of threads to measure time on; memory on one.
        rows: images in the batch.
        models: timm names, random weights.
        blocks, block_seconds: see `interleaved`.
        device: ``cpu`` or ``cuda``.
        say: told what is under way.
    """
    if quick:
        models, rows, blocks = ("resnet18",), 1, min(blocks, 3)
    kinds, remarks = _kinds(models[0], device)
    done: list[Row] = []
    for count in threads[:1] if quick else threads:
        for name in models:
            say(f"{NAME}: {name}, threads: {count}")
            with using_threads(count):
                done += _timed(name, kinds, rows, device, count, blocks, block_seconds)
    tables = [_times(done, rows, device)]
    if not quick:
        memory = [_memory(name, kinds, rows, device, say) for name in models]
        tables.append(_memory_table(memory, rows))
        done = [_with_memory(row, memory) for row in done]
    return Report(done, tables, ["random weights: time and memory do not depend on them", *remarks])


def _kinds(model: str, device: str) -> tuple[tuple[str, ...], list[str]]:
    """The arms that torch can compute here, and a remark where the published one is not among them."""
    try:
        arm(PUBLISHED, *prepared(model, 1, device))()
    except RuntimeError as error:  # the sampling of images has no second derivative in some builds
        return (FORWARD, NINE, CHUNKED), [f"'{PUBLISHED}' is not to be had here: {str(error).splitlines()[0]}"]
    return (FORWARD, NINE, CHUNKED, PUBLISHED), []


def _timed(
    name: str, kinds: Sequence[str], rows: int, device: str, threads: int, blocks: int, block_seconds: float
) -> list[Row]:
    model, x = prepared(name, rows, device)
    steps = {kind: arm(kind, model, x) for kind in kinds}
    taken = interleaved(steps, blocks=blocks, block_seconds=block_seconds, device=device)
    return compared(NAME, f"{_CASE}{name}", taken, FORWARD, threads)


def _memory(name: str, kinds: Sequence[str], rows: int, device: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Peak MiB above what the model and the batch hold, by arm."""
    found: dict[str, Any] = {"model": name}
    for kind in kinds:
        say(f"{NAME}: memory of {name}, {kind}")
        found[kind] = _worker(name, kind, rows, device)
    return found


def _worker(name: str, kind: str, rows: int, device: str) -> float:
    # Large blocks from the system and back to it: what a call freed must not hide in the allocator.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.derivative_worker", name, kind, str(rows), device]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, {kind}: the worker failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["memory_mib"])


def _with_memory(row: Row, memory: Sequence[dict[str, Any]]) -> Row:
    found = next(entry for entry in memory if entry["model"] == row.case.removeprefix(_CASE))
    row.more["peak_mib"] = found[row.arm]
    return row


def _times(rows: Sequence[Row], batch: int, device: str) -> Table:
    lines = [
        [
            row.case.removeprefix(_CASE),
            str(row.threads),
            row.arm,
            row.seconds.text(1e3),
            digits(batch / row.seconds.median),
            row.ratio.text() if row.ratio else "1",
            REACH.get(row.arm, ""),
        ]
        for row in rows
    ]
    columns = ["model", "threads", "arm", "ms", "images / s", "forward passes", "reach"]
    caption = f"median [min, max] over blocks; '{PUBLISHED}' gives one flow, '{NINE}' all of them"
    return table(f"{NAME}: batch {batch}, {device}", columns, lines, caption)


def _memory_table(memory: Sequence[dict[str, Any]], batch: int) -> Table:
    lines = []
    for entry in memory:
        for kind in (key for key in entry if key != "model"):
            ratio = entry[kind] / entry[FORWARD] if entry[FORWARD] else float("nan")
            lines.append([entry["model"], kind, digits(entry[kind]), digits(ratio), MEMORY_REACH.get(kind, "")])
    columns = ["model", "arm", "peak MiB", "forward passes", "reach"]
    return table(f"{NAME}: peak memory above the model and the batch, batch {batch}", columns, lines)
