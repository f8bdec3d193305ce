"""What real displacements do to a network's answers: the curve over displacement, beside its slope at 0.

The Lie derivative says how the output starts to change. Images move by whole distances: for each the image is moved by
the flow's own motion (exact sub-pixel resampling by the declared stencil), the network runs once, and what it says is
compared with what it said before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.curve import displacement_curve
from softeq.measure.forward.prepare import measurable
from softeq.measure.motion.actions import Action, Invariant
from softeq.measure.motion.flows import FLOWS, AffineFlow, positions
from softeq.measure.output import Output, output_space
from softeq.measure.results.statistics import bootstrap_interval, finite_number

CURVES = ("translation_x", "translation_y", "rotation", "scale")
"""The flows that whole displacements are measured along."""
_SHIFTS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_TURNS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 45.0, 90.0, 135.0, 180.0)
_SCALES = (0.5, 0.625, 0.8, 0.9, 0.98, 1.02, 1.11, 1.25, 1.6, 2.0)


def displacements(flow: str, size: tuple[int, int]) -> tuple[list[float], list[float], str]:
    """Displacements as people say them, the flow's parameters t that make them, and the unit of the first.

    Args:
        flow: one of `CURVES`.
        size: (H, W) of the images; shifts go to a quarter of the side that they are along.

    Returns: pixels of shifts; degrees of rotation, both ways; factors of scale.
    """
    if flow.startswith("translation"):
        side = size[1] if flow.endswith("x") else size[0]
        shifts = [d for d in _SHIFTS if d < side / 4] + [side / 4]
        return shifts, shifts, "pixels"
    if flow == "rotation":
        turns = sorted({*_TURNS, *(-t for t in _TURNS if t < 180)})
        return turns, [math.radians(t) for t in turns], "degrees"
    if flow == "scale":
        return list(_SCALES), [math.log(s) for s in _SCALES], "times the size"
    raise SofteqValueError(f"flow: expected one of {', '.join(CURVES)}, got {flow!r}")


def curve(
    model: Callable[[Tensor], Any],
    x: Tensor,
    flow: AffineFlow,
    output: str | Action,
    *,
    classes: bool,
    labels: Tensor | None = None,
    batch_size: int,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """The curve of one flow, as it is recorded: a forward pass per displacement and image, and few more.

    What should not move is `measure.displacement_curve`'s; a map is compared, after it was moved back, where it was in
    the frame before and after: what left the frame is nobody's error.

    Args:
        model: the network.
        x: (B, C, H, W).
        flow: one of `CURVES`, with the declared stencil and boundary.
        output: the output space.
        classes: whether the output is of classes, so that decisions can be compared.
        labels: (B,), negative where there is none; None.
        batch_size: images at once.
        seed, level: of the bootstrap intervals.

    Returns: ``unit``, ``images``, and ``rows`` with ``step`` and, as far as there are any, the mean and interval of
    ``relative`` (||after - before|| / ||before||), ``change`` (of the probability of the class that the image had) and
    ``loss_share`` (see `measure.results.decisions`), and ``kept``, the number of decisions that stand.
    """
    steps, times, unit = displacements(flow.name, (int(x.shape[2]), int(x.shape[3])))
    if isinstance(output_space(output).action, Invariant):
        options: dict[str, Any] = {"stencil": None, "labels": labels, "slope": False, "batch_size": batch_size}
        found = displacement_curve(model, x, flow, times, output=output, **options)
        columns, decided = {"relative": found.values["relative"].sqrt()}, found.decisions if classes else None
        if decided is not None:
            columns["change"] = decided.probability.abs()
            if decided.loss_share is not None:
                columns["loss_share"] = decided.loss_share
        kept = None if decided is None else decided.kept.nansum(1).long().tolist()
    else:
        columns, kept = {"relative": _within_the_frame(model, x, flow, output_space(output), times, batch_size)}, None
    rows: list[dict[str, Any]] = [{"step": step} for step in steps]
    for name, values in columns.items():
        for row, column in zip(rows, values, strict=True):
            ends = bootstrap_interval(column, level, seed=seed)
            row[name] = finite_number(float(column.nanmean()))
            row[f"{name}_interval"] = [finite_number(end) for end in ends]
    for row, count in zip(rows, kept or [], strict=False):
        row["kept"] = count
    return {"unit": unit, "images": int((~columns["relative"][0].isnan()).sum()), "rows": rows}


def _within_the_frame(
    model: Callable[[Tensor], Any],
    x: Tensor,
    flow: AffineFlow,
    output: Output,
    times: Sequence[float],
    batch_size: int,
) -> Tensor:
    """Relative changes (S, B) of an output that moves along."""
    parts = []
    with measurable(model), torch.no_grad():
        for batch in x.split(batch_size):
            before = output.read(model(batch))
            back = output.action.flow(flow, tuple(batch.shape), tuple(before.shape))
            found = []
            for t in times:
                seen = _seen(back, before, t) if isinstance(back, AffineFlow) else 1.0
                first, moved = before.double() * seen, back(output.read(model(flow(batch, t))), -t).double() * seen
                found.append(_norm(moved - first) / _norm(first))
            parts.append(torch.stack(found).cpu())
    return torch.cat(parts, 1)


def _norm(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _seen(flow: AffineFlow, output: Tensor, t: float) -> Tensor:
    """1 where a place of the map is still in the frame after the motion, else 0; shaped to multiply the output."""
    height, width = flow.images(output).shape[-2:]
    generator = torch.zeros(3, 3, dtype=torch.float64)
    generator[:2, :2], generator[:2, 2] = flow.matrix, flow.shift
    ahead = torch.linalg.matrix_exp(t * generator)
    columns, rows = positions(height, width)
    points = torch.stack(torch.broadcast_tensors(columns, rows), dim=-1) @ ahead[:2, :2].T + ahead[:2, 2]
    inside = (points[..., 0].abs() <= (width - 1) / 2 + 1e-9) & (points[..., 1].abs() <= (height - 1) / 2 + 1e-9)
    return (
        inside.to(output.device, torch.float64)[..., None] if flow.channels_last else inside.to(output.device).double()
    )


def own_flow(name: str, stencil: str, boundary: str) -> AffineFlow:
    """One of FLOWS with the declared stencil and boundary; margins, which tear an image apart, are left out."""
    return FLOWS[name].with_(stencil=stencil, boundary=boundary)
