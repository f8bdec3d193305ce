"""What tuning chose: a learning rate and a prior by comparison, preset and arm, in ``chosen.json``."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softeq.errors import SofteqError

CHOSEN = Path(__file__).with_name("chosen.json")


def chosen_trial(comparison: str, preset: str, arm: str) -> dict[str, Any] | None:
    """The trial that tuning chose; None where nothing has been tuned."""
    entry = read_chosen(CHOSEN).get(comparison, {}).get(preset, {}).get(arm)
    return None if entry is None else {"lr": entry["lr"], "prior": entry["prior"]}


@functools.lru_cache(maxsize=4)
def read_chosen(path: Path) -> Mapping[str, Any]:
    """The whole file; read once per process.

    Raises:
        SofteqError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise SofteqError(f"{path} is no JSON: {error}") from error


def write_chosen(path: Path, comparison: str, preset: str, entries: Mapping[str, Any]) -> None:
    """Put choices into the file, keep every other entry, replace the file in one move."""
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    everything.setdefault(comparison, {}).setdefault(preset, {}).update(entries)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    read_chosen.cache_clear()
