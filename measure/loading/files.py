"""Checkpoint files as Python objects: safetensors whole or in shards, and torch's format without any code in it.

What is no checkpoint is refused with what it is: a Git-LFS pointer, a web page, another framework's file.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import pathlib
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softeq.errors import MissingExtraError, SofteqError

_HEAD = 512
_MOST_INDEX = 64 << 20
"""Bytes of the largest index file that is read: one line a tensor, so that larger ones are no index."""
# What torch's reader raises for files that are broken in one way or another, besides pickle.UnpicklingError.
_BROKEN = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
    *(OverflowError, RecursionError, MemoryError, struct.error),
)
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.\w+")
_LIKELY = ("*.safetensors.index.json", "*.bin.index.json", "*.safetensors", "*.bin", "*.ckpt", "*.pt", "*.pth")


class _Settings:
    """Stands for a dictionary of another kind: an ordered one, which torch's reader fills."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def _queue(*args: Any) -> list[Any]:
    """Stands for ``collections.deque``, into which torch's reader does not append."""
    return []


_STAND_INS = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "ml_collections.config_dict.config_dict.ConfigDict",
    "addict.addict.Dict",
    "easydict.EasyDict",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "typing.Any",
)
"""Dictionaries and settings of frameworks, by name: nothing of these packages is imported."""


def _numpy_types() -> list[Any]:
    """numpy's scalars, arrays and the types of their elements, under the names of numpy 1 and 2."""
    newer = int(np.__version__.partition(".")[0]) >= 2
    multiarray = importlib.import_module("numpy._core.multiarray" if newer else "numpy.core.multiarray")
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSUMm"]
    scalars = [np.dtype(code).type for code in "?bBhHiIlLqQefdFDSUMm"]
    named = [
        (getattr(multiarray, name), f"{place}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for place in ("numpy.core", "numpy._core")
    ]
    return [np.dtype, np.ndarray, *dict.fromkeys(kinds), *dict.fromkeys(scalars), *named]


def _allowed() -> list[Any]:
    """What may stand beside tensors: types that hold data and do nothing when they are built."""
    plain = [argparse.Namespace, dict, list, set, frozenset, slice, complex]
    dates = [datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone]
    paths = [pathlib.PosixPath, pathlib.PurePosixPath, pathlib.PurePath, pathlib.Path]
    # A Windows path cannot be built elsewhere; the pure one holds the same text.
    foreign = [(pathlib.PureWindowsPath, name) for name in ("WindowsPath", "PureWindowsPath")]
    named = [*((cls, cls.__name__) for cls in paths), *foreign]
    placed = [(cls, f"{home}.{name}") for cls, name in named for home in ("pathlib", "pathlib._local")]  # 3.13's
    inert = [(_Settings, name) for name in _STAND_INS] + [
        (_queue, "collections.deque"),
        (_Settings, "collections.defaultdict"),
    ]
    return [*plain, *dates, *placed, *_numpy_types(), *inert]


def read_file(path: str | Path) -> Any:
    """What a checkpoint file holds, on the CPU: of safetensors a dictionary, of torch's format what was saved.

    Tensors, numbers, text and containers are read, and the types that training scripts keep beside them
    (``argparse.Namespace``, numpy's scalars and arrays, dates, paths, Lightning's settings). No code of the file runs.
    An index file is read with the shards that it names.

    Raises:
        SofteqError: the file is absent, cut off, no checkpoint, or a pickle that could run code.
        MissingExtraError: safetensors is not installed.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise SofteqError(f"weights: {path} is a folder{_inside(path)}; name a file")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise SofteqError(f"weights: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not head:
        raise SofteqError(f"weights: {path} is empty; expected a safetensors file or a torch state dict")
    # Eight bytes of length, then JSON: safetensors under whatever name.
    if (path.suffix == ".safetensors" and not _known(head)) or (head[8:9] == b"{" and head[:1] != b"{"):
        return _safetensors(path)
    if head.lstrip()[:1] in (b"{", b"["):
        return _sharded(path)
    _refuse_others(path, head)
    return _torch(path)


def _inside(folder: Path) -> str:
    names = [file.name for pattern in _LIKELY for file in sorted(folder.glob(pattern))]
    if (folder / ".metadata").exists():
        return (
            ", a distributed checkpoint: convert it with"
            " torch.distributed.checkpoint.format_utils.dcp_to_torch_save first"
        )
    return f" with {', '.join(list(dict.fromkeys(names))[:4])}" if names else ", and none of its files is a checkpoint"


def _known(head: bytes) -> str | None:
    """What a file is by its first bytes, if it is none that holds tensors for torch."""
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return (
            "is a Git-LFS pointer, a few lines that stand for the file, not the weights themselves: fetch them with"
            " `git lfs pull`, or download the file itself"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "is a web page, not weights: most likely a login or an error page was saved; download the file itself"
    signs: dict[bytes, str] = {
        b"\x89HDF": "an HDF5 file (Keras)",
        b"\x1f\x8b": "a gzip archive: unpack it first",
        b"BZh": "a bzip2 archive: unpack it first",
        b"\xfd7zXZ": "an xz archive: unpack it first",
        b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first",
        b"Rar!": "a rar archive: unpack it first",
        b"7z\xbc\xaf": "a 7z archive: unpack it first",
        b"\x93NUMPY": "a numpy array",
        b"GGUF": "a GGUF file of quantised weights",
        b"%PDF": "a PDF document",
        b"\x89PNG": "a PNG image",
    }
    found = next((words for sign, words in signs.items() if head.startswith(sign)), None)
    return None if found is None else f"is {found}; expected safetensors or a torch state dict"


def _refuse_others(path: Path, head: bytes) -> None:
    said = _known(head)
    if said is None and head.startswith(b"PK"):
        said = _other_archive(path)
    if said:
        raise SofteqError(f"weights: {path} {said}")


def _other_archive(path: Path) -> str | None:
    """What a zip archive is that is no file of `torch.save`; None for one that may be, or that is cut off."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return None
    if any(name.endswith("/constants.pkl") or name.split("/")[1:2] == ["code"] for name in names):
        return (
            "is a TorchScript archive, which holds a program: load the network that it was made from and save its"
            " state_dict()"
        )
    if names and all(name.endswith(".npy") for name in names):
        return "is numpy's npz; save a torch state dict or safetensors"
    if not any(name.endswith("data.pkl") for name in names):
        return f"is a zip archive of {', '.join(names[:3]) or 'nothing'}; expected a file of torch.save"
    return None


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError("reading safetensors needs its package: pip install 'softeq[timm]'") from error
    try:
        return dict(load_file(str(path)))
    except (SafetensorError, *_BROKEN) as error:
        raise SofteqError(f"weights: {path} is no whole safetensors file: {_first(error)}") from error


def _sharded(path: Path) -> dict[str, Any]:
    """All tensors of the files that an index names, as Hugging Face writes it: ``{"weight_map": {tensor: file}}``."""
    try:
        if path.stat().st_size > _MOST_INDEX:
            raise ValueError(f"it has more than {_MOST_INDEX >> 20} MiB")
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise SofteqError(f"weights: {path} begins like JSON and is none: {_first(error)}") from error
    names = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise SofteqError(f"weights: {path} is JSON text without weights, nor an index of shards (weight_map)")
    state: dict[str, Any] = {}
    for file in dict.fromkeys(names.values()):
        if Path(file).name != file or file in ("", ".", ".."):
            raise SofteqError(f"weights: {path} names the shard {file!r}; expected a file beside it")
        shard = path.with_name(file)
        if not shard.is_file():
            raise SofteqError(f"weights: {path} names the shard {file}, which is not beside it")
        held = read_file(shard)
        if not isinstance(held, Mapping):
            raise SofteqError(f"weights: {shard} holds a {type(held).__name__}; expected a shard of named tensors")
        state |= {str(name): value for name, value in held.items()}
    absent = [name for name in names if name not in state]
    if absent:
        raise SofteqError(f"weights: {len(absent)} tensors of {path} are in no shard, the first is {absent[0]}")
    return {name: state[name] for name in names}


def shard_of(path: str | Path) -> str | None:
    """The words to add to an error where a file is one of several shards; None where its name says nothing of it."""
    found = _SHARD.fullmatch(Path(path).name)
    return None if found is None else f"it is one of {int(found[2])} shards: name the index file (.index.json)"


def _torch(path: Path) -> Any:
    allowed = _allowed()
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SofteqError(f"weights: {path} {_refused(error)}") from error
    except _BROKEN as error:
        raise SofteqError(f"weights: {path} is cut off or no checkpoint: {_first(error)}") from error


def _refused(error: BaseException) -> str:
    found = re.search(r"GLOBAL (\S+) was not", str(error))
    name = found[1] if found else ""
    if name.startswith("torch.nn.modules."):
        what = "holds a whole pickled module"
    elif name:
        what = f"holds a {name}, which is neither a tensor nor a setting of a known kind,"
    else:
        what = "is cut off or holds more than tensors"
    return f"{what} and is not loaded, as a pickle can run code; save the model's state_dict() alone, or as safetensors"


def _first(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
