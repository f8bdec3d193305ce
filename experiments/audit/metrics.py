"""The parts of a record's metrics that are made of finished measurements: numbers, directions, maps, the image."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from softeq.errors import MissingExtraError
from softeq.measure.errors import NotMeasurable
from softeq.measure.loading.images import Images
from softeq.measure.loading.sources import Model
from softeq.measure.results.layers import LayerwiseResult
from softeq.measure.results.result import NORMS, LeeResult
from softeq.measure.results.statistics import bootstrap_interval, finite_number, quantile

CELLS = 40
"""The longer side of a recorded map; larger images are averaged down."""
THUMBNAIL = 96
"""The longer side of the recorded image, pixels."""


def numbers(result: LeeResult, k: int, *, classes: bool) -> dict[str, Any]:
    """What is recorded of one flow, see `report.groups`; of class probabilities only where there are ``classes``."""
    flow, norm = result.flows[k], result.norm
    whole, ratios = result.summary()[flow], result.ratio_to_control()[:, k]
    controls = {name: result.control[name][:, k] for name in NORMS} if result.control else {}
    others = {
        name: {"lee_mean": finite_number(float(result.values[name][:, k].nanmean()))}
        | {"control_mean": finite_number(float(column.nanmean()))}
        for name, column in controls.items()
        if name != norm
    }
    changes = result.classes if classes else None
    slopes = [] if changes is None else [finite_number(v) for v in changes.top[:, k].abs().tolist()]
    interval = bootstrap_interval(ratios, result.level, seed=result.seed, statistic="median")
    return {
        "unit": result.units[k],
        "lee_mean": finite_number(whole.mean),
        "lee_median": finite_number(whole.median),
        "lee_quantiles": whole.to_dict()["quantiles"],
        "lee_interval": [finite_number(end) for end in whole.interval],
        "control_mean": finite_number(float(controls[norm].nanmean())),
        "ratio_to_control": finite_number(quantile(ratios, 0.5)),
        "ratio_interval": [finite_number(end) for end in interval],
        "other_norms": others,
        "top_slope_per_sample": slopes,
        "relative_per_sample": [finite_number(v) for v in result.values["relative"][:, k].tolist()],
        "missing": whole.missing,
        "per_sample": [finite_number(v) for v in result.per_sample()[:, k].tolist()],
        "control_per_sample": [finite_number(v) for v in controls[norm].tolist()],
    }


def directions(result: LeeResult) -> dict[str, Any]:
    """The affine directions to which the model is most and least equivariant, or why there are none."""
    try:
        return result.directions().to_dict()
    except NotMeasurable as error:
        return {"not_measurable": str(error)}


def split(result: LayerwiseResult, flow: str, inside: str, seed: int, around: str = "the model") -> dict[str, Any]:
    """The modules' shares of one flow with their intervals over images, by names as the user knows them.

    Args:
        result: of the flow, perhaps among others.
        flow: its name.
        inside: the part of all names that is the audit's own wrapper.
        seed: of the bootstrap.
        around: what the outermost module is called.
    """
    own = [_own_name(name, inside, around) for name in result.names]
    names = [f"{name}{'' if leaf else ': between its modules'}" for name, leaf in zip(own, result.leaf, strict=True)]
    intervals = result.intervals(flow, seed=seed).values()
    return {
        "shares": [list(pair) for pair in zip(names, result.shares(flow).values(), strict=True)],
        "intervals": [[finite_number(end) for end in ends] for ends in intervals],
        "gap": result.gap(flow),
        "not_attributable": [[_own_name(name, inside, around), why] for name, why in result.not_attributable],
    }


def _own_name(name: str, inside: str, around: str) -> str:
    """A module's name as the user knows it."""
    if name == "":
        return around
    return name.removeprefix(inside) if name.startswith(inside) else "the model"


def tile(mean: Tensor, first: Tensor) -> dict[str, Any]:
    """Two maps (H, W) in bytes, 255 for the largest, at most CELLS wide."""
    side = max(mean.shape)
    height, width = (max(1, round(n * min(1.0, CELLS / side))) for n in mean.shape)
    found: dict[str, Any] = {"height": height, "width": width}
    for name, field in (("mean", mean), ("first", first)):
        cells = functional.adaptive_avg_pool2d(field[None], (height, width))[0]
        peak = float(cells.max())
        levels = (cells / peak * 255).round() if peak > 0 else torch.zeros_like(cells)
        found[name] = base64.b64encode(levels.to(torch.uint8).numpy().tobytes()).decode()
        found[f"{name}_peak"] = peak
    return found


def thumbnail(model: Model, images: Images) -> str:
    """The first image, its normalisation undone, as base64 of a JPEG; see measure.report_groups."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("images need Pillow: pip install 'softeq[audit]'") from error
    image = images.x[0].float().cpu()
    mean, std = (torch.tensor(list(part)).reshape(-1, 1, 1) for part in (model.mean, model.std))
    levels = ((image * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    rgb = levels if len(levels) == 3 else levels[:1].expand(3, -1, -1)
    small = Image.fromarray(rgb.movedim(0, -1).contiguous().numpy())
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
