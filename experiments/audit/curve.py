"""What real displacements do to a network's answers: the curve over displacement, beside its slope at 0.

The Lie derivative says how the output starts to change. Images move by whole distances: for each the image is moved by
the flow's own motion (exact sub-pixel resampling by the declared stencil), the network runs once, and what it says is
compared with what it said before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.motion.flows import FLOWS, AffineFlow, positions
from softeq.measure.output import Output
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


@dataclass(frozen=True)
class Answers:
    """What a network says of some images, before and after a displacement: per image.

    Attributes:
        relative: (B,), ||after - before|| / ||before||, after the output was moved back where it should move.
        change: (B,), |change of the probability of the class that was the most probable|; None where there are none.
        kept: (B,) bool, whether that class still is; None where there are none.
    """

    relative: Tensor
    change: Tensor | None
    kept: Tensor | None


def curve(
    forward: Callable[[Tensor], Any],
    x: Tensor,
    flow: AffineFlow,
    output: Output,
    *,
    classes: bool,
    batch_size: int,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """The curve of one flow, as it is recorded: a forward pass per displacement and image, and one more.

    Args:
        forward: the network, as it returns its raw output; run without gradients.
        x: (B, C, H, W).
        flow: one of `CURVES`, with the declared stencil and boundary.
        output: the output space.
        classes: whether the output is of classes, so that decisions can be compared.
        batch_size: images at once.
        seed, level: of the bootstrap intervals.

    Returns: ``unit``, ``images``, and ``rows`` with ``step`` and the mean, interval and number of each measure.
    """
    steps, times, unit = displacements(flow.name, (int(x.shape[2]), int(x.shape[3])))
    parts: list[list[Answers]] = [[] for _ in times]
    with torch.no_grad():
        for batch in x.split(batch_size):
            before = output.read(forward(batch))
            for answers, t in zip(parts, times, strict=True):
                after = output.read(forward(flow(batch, t)))
                answers.append(_answers(before, after, batch, flow, output, t, classes))
    rows = [_row(step, found, seed, level) for step, found in zip(steps, parts, strict=True)]
    return {"unit": unit, "images": len(x), "rows": rows}


def _answers(
    before: Tensor, after: Tensor, x: Tensor, flow: AffineFlow, output: Output, t: float, classes: bool
) -> Answers:
    back = output.action.flow(flow, tuple(x.shape), tuple(before.shape))
    moved = back(after, -t).double()
    first = before.double()
    if isinstance(back, AffineFlow):  # what left the frame cannot be compared
        seen = _seen(back, before, t)
        moved, first = moved * seen, first * seen
    size = first.flatten(1).norm(dim=1)
    relative = (moved - first).flatten(1).norm(dim=1) / size
    relative = torch.where(size > 0, relative, torch.nan).cpu()
    if not classes:
        return Answers(relative, None, None)
    p, q = (v.double() if output.name == "probabilities" else v.double().softmax(-1) for v in (before, after))
    top = p.argmax(1, keepdim=True)
    change = (q.gather(1, top) - p.gather(1, top)).abs().squeeze(1)
    return Answers(relative, change.cpu(), (q.argmax(1, keepdim=True) == top).squeeze(1).cpu())


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


def _row(step: float, found: Sequence[Answers], seed: int, level: float) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step}
    for name in ("relative", "change"):
        values = [getattr(part, name) for part in found]
        if values[0] is None:
            continue
        column = torch.cat(values)
        low, high = bootstrap_interval(column, level, seed=seed)
        row[name] = finite_number(float(column.nanmean()))
        row[f"{name}_interval"] = [finite_number(low), finite_number(high)]
    if found[0].kept is not None:
        kept = torch.cat([part.kept for part in found if part.kept is not None])
        row["kept"] = int(kept.sum())
    return row


def own_flow(name: str, stencil: str, boundary: str) -> AffineFlow:
    """One of FLOWS with the declared stencil and boundary; margins, which tear an image apart, are left out."""
    return FLOWS[name].with_(stencil=stencil, boundary=boundary)
