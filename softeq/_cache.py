"""Where solved bases are kept: in memory, and on disk between processes.

The folder is ``$SOFTEQ_CACHE``, else ``$XDG_CACHE_HOME/softeq``, else ``~/.cache/softeq``; ``SOFTEQ_CACHE=off`` turns
the disk off. Only tensors of more than 1,024 entries without a closed form are written: solving for others takes less
time than proving a file. A file is a line of JSON and the numbers
as they are, so that what it may hold is known before it is read. It is believed only if it was written for these very
generators, its numbers have the digest that it states, they satisfy the constraints, and no further tensor does;
anything else is ignored with a warning and solved anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from softeq._axes import Axis, axes_of
from softeq._cache_folder import cache_folder
from softeq._completeness import is_complete
from softeq._constraints import CONSTRAINT_TOLERANCE, Constraints
from softeq._factors import Word
from softeq._invariants import Invariants, invariant_tensors, numeric_invariants
from softeq.errors import SofteqWarning
from softeq.groups import Group
from softeq.groups._group import MAX_NUMBERS

_FORMAT = 2
_LONGEST_HEADER = 1024
_DISK_FROM = 1024
_memory: dict[tuple[str, ...], Invariants] = {}
_lock = threading.Lock()


class _Refused(Exception):
    """A file that does not prove itself; the message says why."""


def cached_invariants(group: Group, word: Word) -> Invariants:
    """The invariant tensors of this type, solved once; do not write into the result."""
    axes = axes_of(group, word)
    key = _names(axes)
    with _lock:
        if key in _memory:
            return _memory[key]
    basis = invariant_tensors(axes, _from_disk)
    with _lock:
        return _memory.setdefault(key, basis)


def clear_memory_cache() -> None:
    """Forgets what this process has solved or read; files stay."""
    with _lock:
        _memory.clear()


def _from_disk(axes: tuple[Axis, ...]) -> Tensor:
    folder = cache_folder() if math.prod(axis.size for axis in axes) > _DISK_FROM else None
    if folder is None:
        return numeric_invariants(axes)
    key = _key(axes)
    path = folder / f"invariants-{key[:32]}.basis"
    basis = _read(path, key, axes)
    if basis is None:
        basis = numeric_invariants(axes)
        _write(path, key, basis)
    return basis


def _names(axes: tuple[Axis, ...]) -> tuple[str, ...]:
    # Without an axis there is one invariant, whatever the group.
    return tuple(axis.fingerprint for axis in axes)


def _key(axes: tuple[Axis, ...]) -> str:
    return hashlib.sha256(f"{_FORMAT}:{':'.join(_names(axes))}".encode()).hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, key: str, axes: tuple[Axis, ...]) -> Tensor | None:
    try:
        return _proven(_content(path, Constraints(axes).n), key, axes)
    except FileNotFoundError:
        return None
    except (_Refused, OSError) as error:
        why = str(error) if isinstance(error, _Refused) else f"it cannot be read ({error.strerror})"
        warnings.warn(f"cached basis {path} is ignored and solved anew: {why}", SofteqWarning, stacklevel=5)
        return None


def _content(path: Path, n: int) -> bytes:
    """The file's bytes: of a regular file alone, and of no more than a basis may have."""
    # Without O_NONBLOCK a named pipe in the file's place would wait for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _Refused("it is no regular file")
        if status.st_size > _LONGEST_HEADER + 8 * min(n * n, MAX_NUMBERS):
            raise _Refused("it is larger than a basis of these tensors can be")
        return file.read(status.st_size)


def _proven(content: bytes, key: str, axes: tuple[Axis, ...]) -> Tensor:
    first, _, data = content.partition(b"\n")
    try:
        header = json.loads(first) if len(first) < _LONGEST_HEADER else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _Refused("it is none of this cache's files")
    constraints = Constraints(axes)
    if header.get("key") != key:
        raise _Refused("it was written for other generators or by another version")
    rank = header.get("rank")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0 or len(data) != 8 * rank * constraints.n:
        raise _Refused("its numbers are damaged")
    if header.get("digest") != _digest(data):
        raise _Refused("its numbers are damaged")
    basis = torch.from_numpy(np.frombuffer(data, dtype="<f8").astype(np.float64).reshape(rank, constraints.n))
    eye = torch.eye(len(basis), dtype=torch.float64)
    orthonormal = bool(((basis @ basis.T - eye).abs() < 1e-9).all())
    if not (orthonormal and constraints.residual(basis) < CONSTRAINT_TOLERANCE):
        raise _Refused("its tensors are not invariant")
    if not is_complete(constraints, basis):
        raise _Refused("it lacks some of the invariant tensors")
    return basis


def _write(path: Path, key: str, basis: Tensor) -> None:
    """Into a temporary file that then takes the name, so that a reader never sees half of one."""
    data = basis.numpy().astype("<f8").tobytes()
    header = json.dumps({"format": _FORMAT, "key": key, "rank": len(basis), "digest": _digest(data)})
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(header.encode() + b"\n" + data)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        warnings.warn(
            f"the basis cache {path.parent} cannot be written ({error.strerror}); solving goes on without it. "
            "Set SOFTEQ_CACHE to another folder, or to 'off'",
            SofteqWarning,
            stacklevel=5,
        )
