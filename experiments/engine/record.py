"""Records: one JSON line per finished run, appended so that a crash, a full disk or a second process loses nothing.

One file per experiment, ``<folder>/<experiment>.jsonl``. JSON has no NaN and no infinity, and a run that diverged has
to stay visible, so a float that is not finite is written as one of the strings ``"NaN"``, ``"Infinity"`` and
``"-Infinity"`` and comes back as that float; those three strings are reserved in ``config`` and ``metrics``.
Appending takes a lock, POSIX ``flock``: Linux and macOS, local file systems and NFS v4. Reading takes none.

The layout may grow. A record names the schema that it was written with, and what later ones added is filled in with
its default when it is read (`GROWN`), so that old records stay readable.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softeq.errors import SofteqError, SofteqTypeError, SofteqWarning

SCHEMA = 2
"""The version of the record's layout that this code writes; it reads this one and all before."""

GROWN: Mapping[int, Mapping[str, Mapping[str, Any]]] = {
    2: {"provenance": {"processor": None, "precision": None, "interop_threads": None}},
}
"""By schema, what it added: keys of a field with what they say of older records (here: nobody wrote it down)."""

Record = dict[str, Any]
"""One run: ``schema``, ``experiment``, ``preset``, ``variant``, ``seed``, ``config``, ``metrics``, ``provenance``."""

_FIELDS: dict[str, type] = {
    "experiment": str,
    "preset": str,
    "variant": str,
    "seed": int,
    "config": dict,
    "metrics": dict,
    "provenance": dict,
}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_UNDER_WAY = 0.05  # seconds after which a line that was being appended is whole


def make(
    experiment: str,
    preset: str,
    variant: str,
    seed: int,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Record:
    """A record of the current schema from its fields; see `provenance` for the last."""
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "preset": preset,
        "variant": variant,
        "seed": seed,
        "config": dict(config),
        "metrics": dict(metrics),
        "provenance": dict(provenance),
    }


def record_path(folder: str | Path, experiment: str) -> Path:
    """Where the records of an experiment live in a folder."""
    return Path(folder) / f"{experiment}.jsonl"


def encode(value: Any, where: str = "record") -> Any:
    """``value`` as JSON can hold it: floats that are not finite by name, tuples as lists, 0-d tensors as numbers.

    Two configurations are the same run when their encodings are equal.

    Raises:
        SofteqTypeError: for what JSON cannot hold, naming the place.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_of(value)
    if isinstance(value, Mapping):
        if not_text := [key for key in value if not isinstance(key, str)]:
            raise SofteqTypeError(f"{where} has the key {not_text[0]!r}; expected text, as JSON has no other keys")
        return {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # of numpy or torch
        return encode(value.item(), where)
    raise SofteqTypeError(
        f"{where} is a {type(value).__name__}; expected a number, text, true, false, null, or lists and"
        " dictionaries of these: convert it before it goes into a record"
    )


def decode(value: Any) -> Any:
    """The inverse of `encode`, up to tuples, which come back as lists."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def append(path: str | Path, record: Record) -> None:
    """Append one record to ``path`` as one line: whole or not at all, also with other processes appending.

    A single write on an append-only descriptor under an exclusive lock, then fsync. A file whose last line was cut
    off gets a newline first, so that the new line stands alone.

    Raises:
        SofteqError: when the folder cannot be written or the disk is full; the file is then as it was before.
    """
    path = Path(path)
    line = json.dumps(encode(record), allow_nan=False, separators=(", ", ": ")).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _append_line(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SofteqError(
            f"cannot append to {path}: {error.strerror or error}; what was recorded before is unharmed:"
            f" make {path.parent} writable or free some space, or choose another --out, and run again"
        ) from error


def _append_line(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def read(path: str | Path, *, warn: bool = True) -> list[Record]:
    """The records of a file in the order of their lines; an absent file holds none.

    A line that is cut off, corrupt or of an unknown schema is skipped, with a `SofteqWarning` that names the file and
    the line unless ``warn`` is false. No lock is taken: a last line that is just being appended is looked at again.

    Raises:
        SofteqError: when the file is there and cannot be read at all.
    """
    try:
        lines = _lines(Path(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SofteqError(f"cannot read the records in {path}: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_parse(line))
        except (ValueError, RecursionError) as error:
            if warn:
                warnings.warn(f"{path}, line {number}: skipped, {error}", SofteqWarning, stacklevel=2)
    return records


def _lines(path: Path) -> list[bytes]:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        time.sleep(_UNDER_WAY)
        content = path.read_bytes()
    return content.split(b"\n")


def _parse(line: bytes) -> Record:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON: cut off or corrupt") from error
    if not isinstance(raw, dict):
        raise ValueError("it is no JSON object")
    if type(raw.get("schema")) is not int or not 1 <= raw["schema"] <= SCHEMA:
        raise ValueError(f"its schema is {raw.get('schema')!r} and this version of softeq reads 1 to {SCHEMA}")
    for name, kind in _FIELDS.items():
        if type(raw.get(name)) is not kind:
            raise ValueError(f"its field {name!r} is not a {kind.__name__}")
    return _grown(raw) | {"config": decode(raw["config"]), "metrics": decode(raw["metrics"])}


def _grown(raw: Record) -> Record:
    """An older record with what later schemas added."""
    later = [added for schema, added in sorted(GROWN.items()) if schema > raw["schema"]]
    for added in later:
        raw = raw | {field: {**defaults, **raw[field]} for field, defaults in added.items()}
    return raw


def check_writable(folder: str | Path, experiment: str) -> None:
    """Find out before a long computation whether its records can be written; makes the folder.

    Raises:
        SofteqError: when it cannot be made or written, or its disk is full.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(4096))
            trial.flush()
            os.fsync(trial.fileno())
        if record_path(folder, experiment).exists():
            os.close(os.open(record_path(folder, experiment), os.O_RDWR | os.O_APPEND))
    except OSError as error:
        raise SofteqError(
            f"cannot write to the output folder {folder}: {error.strerror or error};"
            " make it writable, free some space, or choose another with --out"
        ) from error
