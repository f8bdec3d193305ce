"""What a measurement of the local equivariance error returns: per-sample values with all that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.results.classes import ClassChange, joined_changes
from softeq.measure.results.directions import Directions, affine_directions
from softeq.measure.results.spread import Spread, joined
from softeq.measure.results.statistics import (
    PairedComparison,
    Statistic,
    Summary,
    bootstrap_interval,
    finite_number,
    paired_comparison,
    quantile,
    summary,
)

NORMS = ("mean_square", "mean_abs", "relative", "centred")

# What two results must share before their numbers may stand in one column.
_CONDITIONS = ("flows", "units", "norm", "output", "stencil", "boundary", "margin", "image_size", "control_kind")


def _nested(values: Tensor) -> list[Any]:
    return [[finite_number(v) for v in row] for row in values.tolist()]


@dataclass(frozen=True, eq=False)  # tensors have no single truth of equality
class LeeResult:
    """Local equivariance error per sample and flow, beside its control.

    Per sample, over the output's dimensions: `mean_square` is the mean of L^2 (Gruver et al. 2023, Eq. 4), `mean_abs`
    the mean of |L| (their code's metric), `relative` is ||L||^2 / ||f||^2, and `centred` is ||L||^2 over the variance
    of f over the set, so that an offset common to all outputs (of features, of logits) makes no error look small. A NaN
    is a sample that could not be measured: an image that the flow does not move, or one at which the model answers to
    nothing; `centred` is NaN for a set of one.

    Attributes:
        flows, units: names of the flows and the units of their parameter, one each.
        norm: the norm that methods use when they are not told another.
        output: the output space ("probabilities", "logits", or the action's name).
        stencil, boundary, margin: how the images' derivatives were taken ("own": as each flow says, if at all).
        values: norm -> (B, n_flows) float64.
        control: norm -> (B, n_flows): the same norms of J_f applied to other directions as long as the flow's tangent,
            the mean over the draws; NaN where f answers to none of them but by rounding.
        gram: (B, 6, 6) over GENERATORS, <L_k f, L_l f> / dim; None where the data are no images.
        image_size: (H, W), None where the data are no images.
        level: coverage of the intervals.
        seed: of the control and of the bootstrap.
        control_kind: where those directions come from, of measure.controls.CONTROLS; None without a control.
        draws: directions per sample and kind of flow.
        control_spread: norm -> (B, n_flows): standard deviation of the control over the draws, NaN for a single one.
        spread: mean and variance of f over the set.
        classes: change of class probabilities per pixel and degree; None for outputs that are no classes.
    """

    flows: tuple[str, ...]
    units: tuple[str, ...]
    norm: str
    output: str
    stencil: str
    boundary: str
    margin: int
    values: Mapping[str, Tensor]
    control: Mapping[str, Tensor] | None
    gram: Tensor | None
    image_size: tuple[int, int] | None
    level: float = 0.95
    seed: int = 0
    control_kind: str | None = None
    draws: int = 0
    control_spread: Mapping[str, Tensor] | None = None
    spread: Spread | None = None
    classes: ClassChange | None = None

    def __len__(self) -> int:
        """Samples measured or not, B."""
        return len(self.values[self.norm])

    def _norm(self, norm: str | None) -> str:
        norm = self.norm if norm is None else norm
        if norm not in self.values:
            raise SofteqValueError(f"norm: expected one of {', '.join(self.values)}, got {norm!r}")
        return norm

    def _index(self, flow: str) -> int:
        if flow not in self.flows:
            raise SofteqValueError(f"flow: expected one that was measured ({', '.join(self.flows)}), got {flow!r}")
        return self.flows.index(flow)

    def per_sample(self, norm: str | None = None) -> Tensor:
        """(B, n_flows) float64, NaN where a sample could not be measured."""
        return self.values[self._norm(norm)]

    def _by_flow(self, values: Tensor, statistic: Callable[[Tensor], Any]) -> dict[str, Any]:
        return {name: statistic(values[:, k]) for k, name in enumerate(self.flows)}

    def mean(self, norm: str | None = None) -> dict[str, float]:
        """Flow -> mean over the measured samples: the local equivariance error itself. NaN if none was measured."""
        return self._by_flow(self.per_sample(norm), lambda column: float(column.nanmean()))

    def median(self, norm: str | None = None) -> dict[str, float]:
        """Flow -> median over the measured samples."""
        return self.quantile(0.5, norm)

    def quantile(self, q: float, norm: str | None = None) -> dict[str, float]:
        """Flow -> q-quantile over the measured samples, q in [0, 1]."""
        return self._by_flow(self.per_sample(norm), lambda column: quantile(column, q))

    def summary(self, norm: str | None = None) -> dict[str, Summary]:
        """Flow -> count, mean, median, quantiles and interval over the measured samples."""
        return self._by_flow(self.per_sample(norm), lambda column: summary(column, self.level, seed=self.seed))

    def interval(
        self, flow: str, norm: str | None = None, statistic: Statistic = "mean", draws: int = 2000
    ) -> tuple[float, float]:
        """Bootstrap interval over images of one flow's mean (or median) error."""
        column = self.per_sample(norm)[:, self._index(flow)]
        return bootstrap_interval(column, self.level, draws, self.seed, statistic)

    def ratio_to_control(self, norm: str | None = None) -> Tensor:
        """(B, n_flows): error over the control's (see measure.controls); NaN where neither could be measured.

        About 1 says that the flow's tangent is to the model like any other change of that size; only a ratio far
        below 1 is equivariance, however small the error itself.
        """
        if self.control is None:
            raise NotMeasurable("ratio_to_control: this result has no control; measure again with control=True")
        return self.per_sample(norm) / self.control[self._norm(norm)]

    def directions(self) -> Directions:
        """The affine directions that the model is most and least equivariant to (see measure.directions)."""
        if self.gram is None or self.image_size is None:
            raise NotMeasurable(
                "directions: the Gram matrix is of the affine flows of images, and this is no measurement of one"
            )
        return affine_directions(self.gram, self.image_size)

    def _known_directions(self) -> Directions | None:
        try:
            return self.directions()
        except NotMeasurable:
            return None

    def compare(self, other: LeeResult, flow: str, norm: str | None = None) -> PairedComparison:
        """This result (a) against `other` (b) on the same images in the same order, under the same conditions.

        Images of different sizes may be compared, except along flows in pixels: those would be different distances.
        """
        norm = self._norm(norm)
        in_pixels = self.units[self._index(flow)] == "pixels"
        _check_alike([self, other], ["output", "stencil", "boundary", "margin", *(["image_size"] if in_pixels else [])])
        a, b = (result.per_sample(norm)[:, result._index(flow)] for result in (self, other))
        return paired_comparison(a, b, level=self.level, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, per-sample values included; NaN and infinities become null."""
        named = ("norm", "output", "stencil", "boundary", "margin", "level", "seed")
        return {
            "flows": list(self.flows),
            "units": list(self.units),
            **{name: getattr(self, name) for name in named},
            "image_size": None if self.image_size is None else list(self.image_size),
            "summary": {norm: {k: s.to_dict() for k, s in self.summary(norm).items()} for norm in self.values},
            "values": {norm: _nested(v) for norm, v in self.values.items()},
            "control": None if self.control is None else {norm: _nested(v) for norm, v in self.control.items()},
            "control_kind": self.control_kind,
            "draws": self.draws,
            "control_spread": None
            if self.control_spread is None
            else {norm: _nested(v) for norm, v in self.control_spread.items()},
            "variance": None if self.spread is None else finite_number(self.spread.variance()),
            "classes": None if self.classes is None else self.classes.to_dict(),
            "ratio_to_control": None if self.control is None else self._ratio_medians(),
            "gram": None if self.gram is None else _nested(self.gram.nanmean(0)),
            "directions": None if (found := self._known_directions()) is None else found.to_dict(),
        }

    def _ratio_medians(self) -> dict[str, float | None]:
        medians = self._by_flow(self.ratio_to_control(), lambda column: quantile(column, 0.5))
        return {name: finite_number(value) for name, value in medians.items()}

    def __str__(self) -> str:
        """A table: per flow the mean with its interval, the median, the control's median and the median ratio to it."""
        told = "" if self.control_kind is None else f"; control: {self.control_kind}, {self.draws} draws"
        head = f"{'flow':14} {'unit':14} {'mean':>10} {f'{self.level:.0%} interval':>23} {'median':>10}"
        lines = [
            f"local equivariance error, {self.norm}, of {self.output}; stencil {self.stencil}, "
            f"boundary {self.boundary}, margin {self.margin} px; {len(self)} samples{told}",
            head + (f" {'control':>10} {'ratio':>8}" if self.control is not None else ""),
        ]
        for k, (name, s) in enumerate(self.summary().items()):
            low, high = s.interval
            line = f"{name:14} {self.units[k]:14} {s.mean:10.3g} [{low:10.3g},{high:10.3g}] {s.median:10.3g}"
            if self.control is not None:
                ratio = quantile(self.ratio_to_control()[:, k], 0.5)
                line += f" {quantile(self.control[self.norm][:, k], 0.5):10.3g} {ratio:8.2g}"
            lines.append(line + (f"  ({s.missing} not measurable)" if s.missing else ""))
        found = self._known_directions()
        if found is not None:
            lines.append(str(found))
        return "\n".join(lines)


def _check_alike(results: Sequence[LeeResult], names: Sequence[str]) -> None:
    for name in names:
        found = {getattr(result, name) for result in results}
        if len(found) > 1:
            listed = " and ".join(sorted(map(repr, found)))
            raise SofteqValueError(f"results: expected the same {name}, got {listed}; measure them alike first")


def concatenate(results: Sequence[LeeResult]) -> LeeResult:
    """One result over the samples of several measured under the same conditions, in their order.

    Raises:
        SofteqValueError: there is none, or conditions differ. A control or a Gram matrix stays only if all have it.
    """
    if not results:
        raise SofteqValueError("results: expected at least one LeeResult, got none")
    _check_alike(results, _CONDITIONS)
    first = results[0]
    controls = [r.control for r in results if r.control is not None]
    spreads = [r.control_spread for r in results if r.control_spread is not None]
    grams = [r.gram for r in results if r.gram is not None]
    outputs = [r.spread for r in results if r.spread is not None]
    return with_centred(
        replace(
            first,
            values={norm: torch.cat([r.values[norm] for r in results]) for norm in first.values},
            control=_joined(controls) if len(controls) == len(results) else None,
            control_spread=_joined(spreads) if len(spreads) == len(results) else None,
            gram=torch.cat(grams) if len(grams) == len(results) else None,
            spread=joined(outputs) if len(outputs) == len(results) else None,
            classes=joined_changes([r.classes for r in results]),
        )
    )


def with_centred(result: LeeResult) -> LeeResult:
    """The result with its errors relative to the variance of f over its samples, as far as that is known."""
    if result.spread is None:
        return result
    variance = result.spread.variance()

    def add(norms: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
        return None if norms is None else {**norms, "centred": norms["mean_square"] / variance}

    values = add(result.values) or {}
    return replace(result, values=values, control=add(result.control), control_spread=add(result.control_spread))


def _joined(controls: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {norm: torch.cat([c[norm] for c in controls]) for norm in controls[0]}
