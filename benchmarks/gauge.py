"""Wall and processor seconds and peak memory of one call, for a worker process. Standard library alone."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MIB = 2**20


def peak_bytes() -> int:
    """The most memory that this process has held.

    Linux hands a child its parent's ``ru_maxrss`` at exec, so there the kernel's mark for this address space is read.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return _status_bytes(status, "VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _start_bytes() -> int:
    """The mark that a call starts from: on Linux the peak so far is forgotten first, so that imports hide nothing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_bytes()
    return _status_bytes(Path("/proc/self/status"), "VmRSS")


def _status_bytes(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def gauge(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The call's result, and ``seconds``, ``cpu_seconds`` and ``memory_mib`` above what was held before."""
    start, cpu, began = _start_bytes(), time.process_time(), time.perf_counter()
    result = call()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return result, {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "memory_mib": max(0, peak_bytes() - start) / _MIB,
    }


def hand_back(**fields: Any) -> None:
    """The worker's answer: one JSON line, the last one on stdout."""
    print(json.dumps(fields), flush=True)
