"""The environment that the `emlp` package lives in: ``.venv-emlp`` beside the project's own, made when first needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENTS = Path(__file__).with_name("emlp-requirements.txt")
FOLDER = ROOT / ".venv-emlp"
_STAMP = "softeq-emlp-requirements.txt"
_TIMEOUT = 600


class EmlpUnavailableError(RuntimeError):
    """The `emlp` package cannot be had here; the message says why in one line."""


def emlp_python(folder: Path = FOLDER, *, install: bool = True) -> Path:
    """The interpreter of an environment with `emlp`, which is made if it is not there with these requirements.

    Args:
        folder: where the environment is or goes; one that is unfinished or of other requirements is made anew.
        install: whether it may be made now.

    Raises:
        EmlpUnavailableError: it is not there and may not or cannot be made.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / _STAMP
    wanted = REQUIREMENTS.read_text()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    if not install:
        raise EmlpUnavailableError(f"{folder.name} is not there yet: run `python -m benchmarks solver` once to make it")
    _make(folder, python)
    stamp.write_text(wanted)
    return python


def _make(folder: Path, python: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    uv = shutil.which("uv")
    if uv is not None:
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(REQUIREMENTS)])
    else:
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run([*pip, "--requirement", str(REQUIREMENTS)])
    (folder / ".gitignore").write_text("*\n")
    _run([str(python), "-c", "import emlp.nn"])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmlpUnavailableError(f"emlp cannot be installed: {Path(command[0]).name}: {error}") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise EmlpUnavailableError(f"emlp cannot be installed: {Path(command[0]).name}: {said[-1]}")
