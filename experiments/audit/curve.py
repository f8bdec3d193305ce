"""What real displacements do to a network's answers: the curve over displacement, beside its slope at 0.

The Lie derivative says how the output starts to change. Images move by whole distances: for each the image is
transformed by the flow's own motion (exact sub-pixel resampling by the declared stencil), the network runs once, and
what it says is compared with what it said before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.curve import displacement_curve
from softeq.measure.motion.actions import Action
from softeq.measure.motion.colour import COLOURS
from softeq.measure.motion.flows import Flow
from softeq.measure.results.statistics import bootstrap_interval, finite_number

FACTORS = ("scale", "exposure", "contrast", "saturation")
CURVES = ("translation_x", "translation_y", "rotation", "scale", *COLOURS)
"""The flows that whole displacements are measured along."""
PAIRED = ("relative", "centred")
"""What is recorded image by image."""
_SHIFTS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_TURNS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 45.0, 90.0, 135.0, 180.0)
_INTENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
_SCALES = (0.5, 0.625, 0.8, 0.9, 0.98, 1.02, 1.11, 1.25, 1.6, 2.0)


def displacements(flow: str, size: tuple[int, int]) -> tuple[list[float], list[float], str]:
    """Displacements as people say them, the flow's parameters t that make them, and the unit of the first.

    Args:
        flow: one of `CURVES`.
        size: (H, W) of the images; shifts go to a quarter of the side that they are along.

    Returns: pixels of shifts; degrees of rotation and of hue, both ways; factors of scale, exposure, contrast and
        saturation; intensities that brightness adds, of a range from 0 to 1.
    """
    if flow.startswith("translation"):
        side = size[1] if flow.endswith("x") else size[0]
        shifts = [d for d in _SHIFTS if d < side / 4] + [side / 4]
        return shifts, shifts, "pixels"
    if flow in ("rotation", "hue"):
        turns = sorted({*_TURNS, *(-t for t in _TURNS if t < 180)})
        return turns, [math.radians(t) for t in turns], "degrees"
    if flow in FACTORS:
        unit = "times the size" if flow == "scale" else f"times the {flow}"
        return list(_SCALES), [math.log(s) for s in _SCALES], unit
    if flow == "brightness":
        added = sorted([*_INTENSITIES, *(-i for i in _INTENSITIES)])
        return added, added, "intensity"
    raise SofteqValueError(f"flow: expected one of {', '.join(CURVES)}, got {flow!r}")


def curve(
    model: Callable[[Tensor], Any],
    x: Tensor,
    flow: Flow,
    output: str | Action,
    *,
    classes: bool,
    labels: Tensor | None = None,
    batch_size: int,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """The curve of one flow, as it is recorded: a forward pass per displacement and image, and few more.

    Args:
        model: the network.
        x: (B, C, H, W).
        flow: one of `CURVES`, with the declared stencil and boundary; margins, which tear an image apart, left out.
        output: the output space.
        classes: whether the output is of classes, so that decisions can be compared.
        labels: (B,), negative where there is none; None.
        batch_size: images at once.
        seed, level: of the bootstrap intervals.

    Returns: ``unit``, ``images``, and ``rows`` with ``step`` and, as far as there are any, the mean and interval of
    ``relative`` (||after - before|| / ||before||), ``centred`` (over the spread of the images' outputs), ``change``
    (of the probability of the class that the image had) and ``loss_share`` (see `measure.results.decisions`); the first
    two image by image too, ``relative_per_sample``, so that networks can be compared in pairs; ``kept``, the number of
    decisions that stand; and ``compared``, the share of a map that was in the frame before and after.
    """
    steps, times, unit = displacements(flow.name, (int(x.shape[2]), int(x.shape[3])))
    options: dict[str, Any] = {"stencil": None, "labels": labels, "slope": False, "batch_size": batch_size}
    found = displacement_curve(model, x, flow, times, output=output, **options)
    columns = {name: found.values[name].sqrt() for name in PAIRED}
    decided = found.decisions if classes else None
    if decided is not None:
        columns["change"] = decided.probability.abs()
        if decided.loss_share is not None:
            columns["loss_share"] = decided.loss_share
    rows: list[dict[str, Any]] = [{"step": step} for step in steps]
    for name, values in columns.items():
        for row, column in zip(rows, values, strict=True):
            row |= _column(name, column, level, seed)
    for k, row in enumerate(rows):
        if decided is not None:
            row["kept"] = int(decided.kept[k].nansum())
        if float(found.compared[k]) < 1:
            row["compared"] = round(float(found.compared[k]), 4)
    return {"unit": unit, "images": int((~columns["relative"][0].isnan()).sum()), "rows": rows}


def _column(name: str, values: Tensor, level: float, seed: int) -> dict[str, Any]:
    """One displacement's (B,) values: their mean and interval, and some of them one by one."""
    ends = bootstrap_interval(values, level, seed=seed)
    entry = {
        name: finite_number(float(values.nanmean())),
        f"{name}_interval": [finite_number(end) for end in ends],
    }
    if name in PAIRED:
        entry[f"{name}_per_sample"] = [finite_number(float(f"{v:.4g}")) for v in values.tolist()]
    return entry
