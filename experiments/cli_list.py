"""The command ``softeq list``. What it prints is kept, so that it need not import the experiments, and torch, again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from softeq._cache_folder import cache_folder
from softeq.experiments import cli_audit
from softeq.experiments.engine import registry

try:
    import typer
except ImportError:  # `experiments.cli.main` says which extra is missing
    typer = None  # type: ignore[assignment]

_HERE = Path(__file__).resolve().parent


def list_experiments(
    models: Annotated[bool, typer.Option("--models", help="The packaged models that can be audited.")] = False,
) -> None:
    """Print the experiments with their variants and presets, or the models."""
    if models:
        return cli_audit.list_models()
    for line in _kept() or _fresh():
        typer.echo(line)


def _fresh() -> list[str]:
    """The lines, from the experiments themselves; kept for the next time where there is a cache."""
    lines, group = [], ""
    for name, experiment in registry.all().items():
        if experiment.group != group:
            group = experiment.group
            lines += ["", group] if group else [""]
        presets = ", ".join(f"{p} ({n} seed{'s' if n > 1 else ''})" for p, n in experiment.presets.items())
        lines += [
            name,
            f"    {experiment.summary}",
            f"    variants: {', '.join(experiment.variants)}",
            f"    presets: {presets}",
        ]
    folder = cache_folder()
    if folder is not None:
        with suppress(OSError):  # a full or read-only disk costs the next call some seconds
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
                json.dump({"code": _code(), "lines": lines}, file)
            os.replace(file.name, folder / "experiments.json")
    return lines


def _kept() -> list[str]:
    """The lines that were kept by the code as it is now; none otherwise."""
    folder = cache_folder()
    if folder is None:
        return []
    try:
        held = json.loads((folder / "experiments.json").read_text("utf-8"))
        lines = held["lines"] if held["code"] == _code() else []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
    return lines if isinstance(lines, list) and all(isinstance(line, str) for line in lines) else []


def _code() -> str:
    """What the list depends on: the experiments' files, by name, size and time, and which of them are asked."""
    told = [*registry.SOURCES, *(f"{path}:{size}:{time}" for path, size, time in sorted(_files()))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _files() -> Iterator[tuple[str, int, int]]:
    for path in _HERE.rglob("*.py"):
        state = path.stat()
        yield str(path), state.st_size, state.st_mtime_ns
