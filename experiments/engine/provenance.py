"""Where a run's numbers come from: the code, the versions, the machine, and how it computes.

Digits repeat on one machine: another processor, another number of threads or another precision of matrix products
rounds differently, and a training amplifies that. So all three are written down.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def code_version() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether its code differs from it; ``(None, None)`` outside a git checkout.

    Read once per process, so that it is the code that was loaded; records and other files beside the four packages
    do not count as a difference.
    """
    if _git("rev-parse", "--show-toplevel") != str(_ROOT):
        return None, None
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git("status", "--porcelain", "--", "softeq", "models", "measure", "experiments", "pyproject.toml")
    return commit or None, changes != ""


def _git(*arguments: str) -> str | None:
    # A hook sets GIT_DIR and its like, which would point git at another checkout than the one this file is in.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def softeq_version() -> str:
    """The installed distribution's version, or ``"unknown"`` where the packages are used without being installed."""
    try:
        return importlib.metadata.version("softeq")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def processor() -> str:
    """The processor's model as the system names it, with its architecture and the number of its cores."""
    try:
        names = [line.partition(":")[2].strip() for line in _CPU_INFO.read_text().splitlines() if "model name" in line]
    except OSError:  # no Linux
        names = []
    name = names[0] if names else platform.processor()
    return f"{name or 'unknown'} ({platform.machine()}, {os.cpu_count()} cores)"


def of_run(config: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Code, versions, processor, device, dtype, precision, threads, wall seconds, UTC at the run's end.

    Device and dtype are the configuration's ``device`` and ``dtype``, or torch's defaults where it names none;
    ``precision`` is torch's setting for products of float32 matrices, ``highest`` where they are float32 throughout.
    """
    import numpy
    import torch

    commit, dirty = code_version()
    device = torch.device(config.get("device") or torch.get_default_device())
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
        "commit": commit,
        "dirty": dirty,
        "softeq": softeq_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "device": f"{device}{name}",
        "dtype": str(config.get("dtype") or torch.get_default_dtype()).removeprefix("torch."),
        "precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "seconds": round(seconds, 3),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
