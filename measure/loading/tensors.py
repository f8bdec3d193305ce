"""The tensors of a checkpoint file by dotted name, and what of them can be a weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softeq.errors import SofteqError
from softeq.measure.loading.files import read_file

_TRAINING = frozenset(("optimizer", "optimizers", "optim", "scheduler", "schedulers", "scaler", "amp", "rng", "loops"))
_DEPTH = 8
_MOST_PARTS = 100_000
"""Dictionaries and lists in one file: more are made by one that holds the same part again and again."""
COUNTER = "num_batches_tracked"
"""Counters of batches are in old checkpoints or not; nothing that is measured depends on them."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by dotted name, without those of optimizers; `load_state` finds the weights in them.

    Raises:
        SofteqError: the file is no checkpoint, is not safe to read, or holds no tensor; see `files.read_file`.
    """
    raw = read_file(path)
    if not isinstance(raw, Mapping) or not raw:
        raise SofteqError(f"weights: expected a state dict in {path}, got {type(raw).__name__}")
    state: dict[str, Tensor] = {}
    _collect(raw, "", state, [], [0])
    if not state:
        raise SofteqError(f"weights: {path} holds no tensor; its keys are {', '.join(map(str, list(raw)[:5]))}")
    return state


def _collect(part: Any, start: str, state: dict[str, Tensor], above: list[int], count: list[int]) -> None:
    """The named tensors in nested dictionaries, and lists of tensors by number; what holds itself is not entered."""
    count[0] += 1
    if len(above) == _DEPTH or id(part) in above:
        return
    if count[0] > _MOST_PARTS:
        raise SofteqError(f"weights: more than {_MOST_PARTS:,} dictionaries are nested in the file")
    for key, value in part.items() if isinstance(part, Mapping) else enumerate(part):
        name = f"{start}{key}"
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
            value = torch.from_numpy(np.array(value))
        if isinstance(value, Tensor):
            state[name] = value
        elif _may_hold(value) and not words(str(key)) & _TRAINING:
            _collect(value, f"{name}.", state, [*above, id(part)], count)


def _may_hold(value: Any) -> bool:
    """Whether tensors may be inside: in a dictionary, or in a list of anything but numbers and text."""
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], (Tensor, np.ndarray, Mapping, list, tuple))
    return isinstance(value, Mapping)


def words(name: str) -> set[str]:
    """The words of a name, also where capitals or underscores part them."""
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()))


def weight(tensor: Tensor, like: Tensor, name: str, path: str | Path) -> Tensor:
    """A tensor of the file as the network's own can take it."""
    said = f"weights: {path}: {name}"
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta:
        raise SofteqError(f"{said} has no values: it was saved from the meta device, before it was filled")
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() < 2):
        raise SofteqError(f"{said} is quantised ({kind}); expected the weights of the network before quantisation")
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if name.endswith(COUNTER):
        return tensor.reshape(like.shape)
    if like.is_floating_point() and not tensor.is_floating_point():
        hint = "complex numbers" if tensor.is_complex() else "integers without their scale, of a quantised network?"
        raise SofteqError(f"{said} has the dtype {kind} ({hint}); expected floating-point weights")
    if not (like.is_floating_point() or like.is_complex()) and tensor.dtype != like.dtype:
        wide = not (tensor.is_floating_point() or tensor.is_complex() or torch.bool in (tensor.dtype, like.dtype))
        if not (wide and torch.equal(tensor.to(like.dtype).to(tensor.dtype), tensor)):
            raise SofteqError(f"{said} has the dtype {kind}; expected {str(like.dtype).removeprefix('torch.')}")
    if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
        raise SofteqError(f"{said} has NaN or infinite entries")
    return tensor
