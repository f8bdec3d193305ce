"""What a motion does to a classifier's probabilities, in units that people know: per pixel, per degree, per percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.results.statistics import Summary, summary

# unit of a flow's parameter -> (familiar unit, how many of the former make one of the latter)
FAMILIAR = {"pixels": ("pixel", 1.0), "radians": ("degree", math.pi / 180), "dimensionless": ("percent", 0.01)}


def familiar(unit: str) -> tuple[str, float]:
    """The unit in which people think, and its size in `unit`; other units stand for themselves."""
    return FAMILIAR.get(unit, (unit, 1.0))


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class ClassChange:
    """Derivatives of class probabilities along flows, signed, per unit of each flow's parameter.

    Attributes:
        flows, units: names and units, one each.
        top: (B, n_flows) float64, of the probability of the class that is the largest at the sample; NaN where the
            sample could not be measured.
        true: (B, n_flows), of the label's class; NaN for samples without one; None without labels.
    """

    flows: tuple[str, ...]
    units: tuple[str, ...]
    top: Tensor
    true: Tensor | None = None

    def _chosen(self, which: str) -> Tensor:
        if which not in ("top", "true"):
            raise SofteqValueError(f"which: expected 'top' or 'true', got {which!r}")
        found = self.top if which == "top" else self.true
        if found is None:
            raise SofteqValueError("which: 'true' needs labels; measure with labels=...")
        return found

    def per_unit(self, which: str = "top") -> dict[str, Tensor]:
        """Flow -> (B,): |change of the probability| per pixel, degree or percent (see `familiar`)."""
        found = self._chosen(which)
        sizes = [familiar(unit)[1] for unit in self.units]
        return {name: found[:, k].abs() * sizes[k] for k, name in enumerate(self.flows)}

    def summary(self, which: str = "top", level: float = 0.95, seed: int = 0) -> dict[str, Summary]:
        """Flow -> mean, median and interval of the absolute change per pixel, degree or percent."""
        return {name: summary(values, level, seed=seed) for name, values in self.per_unit(which).items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: per flow the familiar unit and the summaries of the absolute change."""
        kinds = ["top"] if self.true is None else ["top", "true"]
        summaries = {which: self.summary(which) for which in kinds}
        return {
            name: {"per": familiar(unit)[0], **{which: summaries[which][name].to_dict() for which in kinds}}
            for name, unit in zip(self.flows, self.units, strict=True)
        }


def class_change(
    flows: Sequence[str],
    units: Sequence[str],
    value: Tensor,
    derivatives: Tensor,
    hidden: Tensor,
    *,
    output: str,
    labels: Tensor | None,
) -> ClassChange | None:
    """From what was measured on a classifier's outputs; None for other outputs.

    Args:
        flows, units: names and units.
        value: (B, K), probabilities or logits as `output` says.
        derivatives: (B, n_flows, K) of them.
        hidden: (B, n_flows) bool, not measured.
        output: the output space.
        labels: (B,) class indices, negative where there is none; None.
    """
    if output not in ("probabilities", "logits") or value.ndim != 2 or value.shape[1] < 2:
        return None
    value, derivatives = value.to(torch.float64), derivatives.to(torch.float64)
    if output == "logits":
        p = value.softmax(1)
        derivatives = p[:, None] * (derivatives - (p[:, None] * derivatives).sum(-1, keepdim=True))

    def of(classes: Tensor) -> Tensor:
        known = (classes >= 0) & (classes < value.shape[1])
        index = torch.where(known, classes, 0)[:, None, None].expand(-1, derivatives.shape[1], 1)
        return derivatives.gather(2, index)[..., 0].masked_fill(hidden | ~known[:, None], torch.nan).cpu()

    true = None if labels is None else of(labels.to(value.device, torch.long))
    return ClassChange(tuple(flows), tuple(units), of(value.argmax(1)), true)


def joined_changes(parts: Sequence[ClassChange | None]) -> ClassChange | None:
    """Over the samples of all parts; None if one has none."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    trues = [part.true for part in known if part.true is not None]
    true = torch.cat(trues) if len(trues) == len(known) else None
    return ClassChange(known[0].flows, known[0].units, torch.cat([part.top for part in known]), true)
