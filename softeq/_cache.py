"""Where solved bases are kept: in memory, and on disk between processes.

The folder is ``$SOFTEQ_CACHE``, else ``$XDG_CACHE_HOME/softeq``, else ``~/.cache/softeq``; ``SOFTEQ_CACHE=off`` turns
the disk off. A file is a numpy ``.npz`` read without pickle. It is believed only if it was written for this very key,
its numbers have the digest that it states, and they satisfy the constraints; anything else is ignored with a warning
and solved anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from softeq._cache_folder import cache_folder
from softeq._invariants import CONSTRAINT_TOLERANCE, Constraints, invariant_tensors
from softeq.errors import SofteqWarning
from softeq.groups import Group
from softeq.reps import Word

_FORMAT = 1
_memory: dict[tuple[str, Word], Tensor] = {}
_lock = threading.Lock()


def cached_invariants(group: Group, word: Word) -> Tensor:
    """``invariant_tensors(group, word)``, solved once; do not write into the result."""
    key = (group.fingerprint, word)
    with _lock:
        if key in _memory:
            return _memory[key]
    path = _path(group, word)
    basis = _read(path, group, word) if path is not None else None
    if basis is None:
        basis = invariant_tensors(group, word)
        if path is not None:
            _write(path, group, word, basis)
    with _lock:
        return _memory.setdefault(key, basis)


def clear_memory_cache() -> None:
    """Forgets what this process has solved or read; files stay."""
    with _lock:
        _memory.clear()


def _key(group: Group, word: Word) -> str:
    return f"{_FORMAT}:{group.fingerprint}:{''.join('+' if vector else '-' for vector in word)}"


def _path(group: Group, word: Word) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(_key(group, word).encode()).hexdigest()[:32]
    return None if folder is None else folder / f"invariants-{name}.npz"


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def _read(path: Path, group: Group, word: Word) -> Tensor | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            key, digest, array = str(file["key"]), str(file["digest"]), file["basis"]
    except FileNotFoundError:
        return None
    except Exception as error:  # a foreign file breaks numpy's reader and zipfile's in ways that neither lists
        _ignore(path, f"it cannot be read ({type(error).__name__})")
        return None
    n = group.d ** len(word)
    if key != _key(group, word):
        _ignore(path, "it was written for another group, word or version")
    elif array.dtype != np.float64 or array.ndim != 2 or array.shape[1] != n or digest != _digest(array):
        _ignore(path, "its numbers are damaged")
    else:
        basis = torch.from_numpy(array)
        eye = torch.eye(len(basis), dtype=torch.float64)
        orthonormal = bool(((basis @ basis.T - eye).abs() < 1e-9).all())
        if orthonormal and Constraints(group, word).residual(basis) < CONSTRAINT_TOLERANCE:
            return basis
        _ignore(path, "its tensors are not invariant")
    return None


def _ignore(path: Path, reason: str) -> None:
    warnings.warn(f"cached basis {path} is ignored and solved anew: {reason}", SofteqWarning, stacklevel=4)


def _write(path: Path, group: Group, word: Word, basis: Tensor) -> None:
    """Into a temporary file that then takes the name, so that a reader never sees half of one."""
    array = basis.numpy()
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, key=np.array(_key(group, word)), digest=np.array(_digest(array)), basis=array)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        warnings.warn(
            f"the basis cache {path.parent} cannot be written ({error.strerror}); solving goes on without it. "
            "Set SOFTEQ_CACHE to another folder, or to 'off'",
            SofteqWarning,
            stacklevel=4,
        )
