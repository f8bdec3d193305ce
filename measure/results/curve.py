"""What a displacement curve returns: errors of finite motions beside the slope that the Lie derivative gives at 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.results.classes import familiar
from softeq.measure.results.decisions import Decisions
from softeq.measure.results.result import LeeResult
from softeq.measure.results.statistics import bootstrap_interval, finite_number, quantile


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class DisplacementCurve:
    """Errors under finite motions along one flow, per displacement and sample.

    With d = flow_out(f(flow_in(x, t)), -t) - f(x), over the output's dimensions: `mean_square` is the mean of d^2,
    `mean_abs` the mean of |d|, `relative` ||d||^2 / ||f||^2, `centred` ||d||^2 over the variance of f over the set. Of
    maps and tokens, all are over what is in the frame before and after the motion.
    As t goes to 0 they tend to the local equivariance error times t^2 (`mean_abs`: times |t|).

    Attributes:
        flow, unit: name and unit of t.
        displacements: (S,) float64, in that unit, ascending, without 0.
        exact: per displacement, whether the motion takes pixels to pixels; else the stencil interpolates.
        compared: (S,) float64, the share of the output that is in the frame before and after; 1 where nothing moves.
        norm: the one that methods use when they are not told another.
        output: the output space.
        stencil, boundary, margin: how images were moved ("own": as the flow says, if at all).
        values: norm -> (S, B) float64; NaN where the flow does not move the sample.
        decisions: of classifiers; None for other outputs.
        slope: the local equivariance error of the same samples, the curve's limit; None where it was not asked for, or
            cannot be measured (`no_slope` says why).
        no_slope: the reason, or None.
        level, seed: of the intervals over samples.
    """

    flow: str
    unit: str
    displacements: Tensor
    exact: tuple[bool, ...]
    compared: Tensor
    norm: str
    output: str
    stencil: str
    boundary: str
    margin: int
    values: Mapping[str, Tensor]
    decisions: Decisions | None
    slope: LeeResult | None
    no_slope: str | None = None
    level: float = 0.95
    seed: int = 0

    def __len__(self) -> int:
        """Samples, B."""
        return self.values[self.norm].shape[1]

    def _norm(self, norm: str | None) -> str:
        norm = self.norm if norm is None else norm
        if norm not in self.values:
            raise SofteqValueError(f"norm: expected one of {', '.join(self.values)}, got {norm!r}")
        return norm

    def mean(self, norm: str | None = None) -> Tensor:
        """(S,): mean over the samples that move."""
        return self.values[self._norm(norm)].nanmean(1)

    def intervals(self, norm: str | None = None) -> Tensor:
        """(S, 2): bootstrap intervals of that mean."""
        return self._intervals(self.values[self._norm(norm)])

    def _intervals(self, values: Tensor) -> Tensor:
        return torch.tensor([bootstrap_interval(row, self.level, seed=self.seed) for row in values])

    def per_motion(self, norm: str | None = None) -> Tensor:
        """(S, B): errors over the motion, error / t^2 (`mean_abs`: / |t|); constant where the slope at 0 tells all."""
        norm = self._norm(norm)
        return self.values[norm] / (self.displacements.abs() ** _power(norm))[:, None]

    def tangent(self, norm: str | None = None) -> Tensor:
        """(S,): the mean error that the slope at 0 alone would give at each displacement.

        Raises:
            NotMeasurable: there is no slope; the message says why.
        """
        norm = self._norm(norm)
        if self.slope is None:
            raise NotMeasurable(f"slope: {self.no_slope or 'it was not asked for'}")
        return self.slope.mean(norm)[self.flow] * self.displacements.abs() ** _power(norm)

    def agreement(self) -> Tensor:
        """(S,): share of the samples whose decision stays, in [0, 1]."""
        return self._decisions().kept.nanmean(1)

    def agreement_intervals(self) -> Tensor:
        """(S, 2): bootstrap intervals of that share."""
        return self._intervals(self._decisions().kept)

    def loss_share(self) -> Tensor:
        """(S,): of the whole set's cross-entropy, the share that the difference between a sample and its moved twin
        costs (see Decisions)."""
        found = self._decisions()
        if found.loss_share is None or found.loss is None:
            raise NotMeasurable("loss_share: it needs labels; measure with labels=...")
        return (found.loss_share * found.loss).nansum(1) / found.loss.nansum(1)

    def _decisions(self) -> Decisions:
        if self.decisions is None:
            raise NotMeasurable(f"decisions: the output, {self.output}, holds no classes")
        return self.decisions

    def familiar(self) -> tuple[str, Tensor]:
        """The unit in which people think (pixel, degree, percent) and the displacements in it, (S,)."""
        name, size = familiar(self.unit)
        return name, self.displacements / size

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: per displacement the mean, median and interval over samples of the norms and decisions."""
        unit, shown = self.familiar()
        return {
            **{name: getattr(self, name) for name in ("flow", "unit", "norm", "output", "stencil", "boundary")},
            **{name: getattr(self, name) for name in ("margin", "level", "seed", "no_slope")},
            "samples": len(self),
            "displacements": self.displacements.tolist(),
            "familiar_unit": unit,
            "familiar": shown.tolist(),
            "exact": list(self.exact),
            "compared": self.compared.tolist(),
            "errors": {norm: self._summaries(values) for norm, values in self.values.items()},
            "slope": None
            if self.slope is None
            else {norm: finite_number(self.slope.mean(norm)[self.flow]) for norm in self.values},
            "agreement": None if self.decisions is None else self._summaries(self.decisions.kept),
            "probability": None if self.decisions is None else self._summaries(self.decisions.probability.abs()),
            "loss_share": None
            if self.decisions is None or self.decisions.loss_share is None
            else [finite_number(share) for share in self.loss_share().tolist()],
        }

    def _summaries(self, values: Tensor) -> list[dict[str, Any]]:
        ends = self._intervals(values).tolist()
        return [
            {
                "mean": finite_number(float(row.nanmean())),
                "median": finite_number(quantile(row, 0.5)),
                "interval": [finite_number(end) for end in interval],
            }
            for row, interval in zip(values, ends, strict=True)
        ]

    def __str__(self) -> str:
        """A table: displacement, mean error with its interval, what the slope alone would give, decisions kept."""
        unit, shown = self.familiar()
        lines = [
            f"{self.flow}: {self.norm} of {self.output} under finite motions; stencil {self.stencil}, boundary "
            f"{self.boundary}, margin {self.margin} px; {len(self)} samples",
            f"{unit:>10} {'mean':>10} {f'{self.level:.0%} interval':>23} {'by slope':>10} {'kept':>6}",
        ]
        by_slope = self.tangent().tolist() if self.slope is not None else [None] * len(shown)
        kept = self.agreement().tolist() if self.decisions is not None else [None] * len(shown)
        rows = zip(
            shown.tolist(), self.mean().tolist(), self.intervals().tolist(), by_slope, kept, self.exact, strict=True
        )
        for t, mean, (low, high), line, share, exact in rows:
            told = "" if line is None else f"{line:10.3g}"
            stays = "" if share is None else f"{share:6.0%}"
            lines.append(
                f"{t:10.3g} {mean:10.3g} [{low:10.3g},{high:10.3g}] {told:>10} {stays:>6}{'  exact' if exact else ''}"
            )
        if self.no_slope:
            lines.append(f"no slope at 0: {self.no_slope}")
        return "\n".join(lines)


def _power(norm: str) -> int:
    return 1 if norm == "mean_abs" else 2
