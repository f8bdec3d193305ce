"""The configuration of a record: all that its numbers depend on, and the record that has it already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softeq.experiments.audit.report.groups import EXPERIMENT
from softeq.experiments.audit.settings import Settings
from softeq.experiments.engine import record
from softeq.measure.loading.images import Images
from softeq.measure.loading.sources import Model


def held(records: Sequence[record.Record], config: Mapping[str, Any]) -> record.Record | None:
    """The last record with this configuration; one with more images layer by layer than asked for serves as well."""
    wanted = record.encode({**config, "layerwise": 0})
    for r in reversed(records):
        own = record.encode(r["config"])
        split = own.get("layerwise")
        alike = r["experiment"] == EXPERIMENT and own | {"layerwise": 0} == wanted
        if alike and isinstance(split, int) and split >= config["layerwise"]:
            return r
    return None


def neutral() -> Model:
    """Preprocessing that is no model's, so that images have one hash for all models."""
    half = (0.5, 0.5, 0.5)
    return Model(
        name="images",
        module=nn.Identity(),
        image_size=(64, 64),
        mean=half,
        std=half,
        interpolation="bicubic",
        classes=None,
        prefix_tokens=None,
        source="",
        crop=1.0,
    )


def configuration(name: str, model: Model, images: Images, settings: Settings, source_hash: str) -> dict[str, Any]:
    """All that the numbers depend on but the flow: the model's part, see measure.report_groups, and the shared one."""
    return {
        "model": name,
        "flow": "",
        "weights": model.source,
        "weights_hash": hash_tensors(model.module.state_dict()),
        "image_size": list(model.image_size),
        "mean": [float(v) for v in model.mean],
        "std": [float(v) for v in model.std],
        "interpolation": model.interpolation,
        "crop": model.crop,
        "images_hash": hash_tensors({"x": images.x}),
        "classes": model.classes,
        **settings.shared_config(len(images.x), source_hash),
    }


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of a SHA-256 over names, dtypes, shapes and bytes; what is no tensor by its repr."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if not isinstance(value, Tensor):
            digest.update(f"{name}={value!r};".encode())
            continue
        digest.update(f"{name}:{value.dtype}{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
