"""Statistics over images: summaries, bootstrap intervals and paired comparisons of per-sample values.

Values of the local equivariance error span decades over images, so the median and quantiles stand beside the mean,
and two models are compared image by image on a logarithmic scale. A NaN is a sample that could not be measured: it is
left out, and counted as missing wherever a number is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from softeq.errors import SofteqTypeError, SofteqValueError

Statistic = Literal["mean", "median"]

QUANTILES = (0.05, 0.25, 0.75, 0.95)
_DRAWN_AT_ONCE = 2**22  # resampled values held in memory at a time


def _median(values: Tensor) -> Tensor:
    """The median over the last axis, midway between the two middle values (torch.median takes the lower one)."""
    return torch.quantile(values, 0.5, dim=-1)


_STATISTICS = {"mean": lambda values: values.mean(dim=-1), "median": _median}


def finite_number(value: float) -> float | None:
    """`value`, or None where JSON has no name for it (NaN, infinities)."""
    return float(value) if math.isfinite(value) else None


def measured(values: Tensor) -> Tensor:
    """The entries (m,) of `values` (n,) that are not NaN, on the CPU in float64."""
    if not isinstance(values, Tensor):
        raise SofteqTypeError(f"values: expected a tensor, got {type(values).__name__}; use torch.as_tensor")
    if values.ndim != 1:
        raise SofteqValueError(
            f"values: expected one axis (n,), got shape {tuple(values.shape)}; take one flow's column"
        )
    values = values.detach().to("cpu", torch.float64)
    return values[~values.isnan()]


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise SofteqValueError(f"level: expected a number between 0 and 1, got {level}; .95 gives a 95% interval")


def bootstrap_interval(
    values: Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0, statistic: Statistic = "mean"
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean or the median (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: (n,), NaN for a sample that was not measured (left out).
        level: coverage, in (0, 1).
        draws: resamples, at least 1.
        seed: of the generator that resamples.
        statistic: "mean" or "median".

    Returns:
        (low, high); (nan, nan) for fewer than two measured samples, from which no spread can be told.
    """
    _check_level(level)
    if draws < 1:
        raise SofteqValueError(f"draws: expected at least 1, got {draws}")
    if statistic not in _STATISTICS:
        raise SofteqValueError(f"statistic: expected one of {', '.join(_STATISTICS)}, got {statistic!r}")
    kept = measured(values)
    n = len(kept)
    if n < 2:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _DRAWN_AT_ONCE // n)
    resampled = [
        _STATISTICS[statistic](kept[torch.randint(n, (min(step, draws - done), n), generator=generator)])
        for done in range(0, draws, step)
    ]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    # "lower" and "higher" widen outwards and, unlike interpolation, stay right where a value is infinite.
    drawn = torch.cat(resampled)
    low = torch.quantile(drawn, tails[0], interpolation="lower")
    high = torch.quantile(drawn, tails[1], interpolation="higher")
    return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """What a column of per-sample values comes to. Every number is NaN where nothing was measured.

    Attributes:
        count: samples that were measured.
        missing: samples that were not (NaN), left out of everything below.
        mean, median: over the measured samples.
        quantiles: level -> value, for the levels .05, .25, .75 and .95.
        interval: bootstrap interval of the mean.
        level: that interval's coverage.
    """

    count: int
    missing: int
    mean: float
    median: float
    quantiles: Mapping[float, float]
    interval: tuple[float, float]
    level: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes null."""
        return {
            "count": self.count,
            "missing": self.missing,
            "mean": finite_number(self.mean),
            "median": finite_number(self.median),
            "quantiles": {f"{q:g}": finite_number(value) for q, value in self.quantiles.items()},
            "interval": [finite_number(end) for end in self.interval],
            "level": self.level,
        }


def quantile(values: Tensor, q: float) -> float:
    """The q-quantile, q in [0, 1], of the measured entries of `values` (n,), linearly interpolated; NaN if none."""
    if not 0.0 <= q <= 1.0:
        raise SofteqValueError(f"q: expected a number from 0 to 1, got {q}; .5 is the median")
    kept = measured(values)
    return float(torch.quantile(kept, q)) if len(kept) else math.nan


def summary(values: Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Summary:
    """Mean, median, quantiles and the mean's bootstrap interval of `values` (n,); NaN entries are counted out."""
    kept = measured(values)
    return Summary(
        count=len(kept),
        missing=len(values) - len(kept),
        mean=float(kept.mean()),  # of nothing: NaN
        median=quantile(kept, 0.5),
        quantiles={q: quantile(kept, q) for q in QUANTILES},
        interval=bootstrap_interval(kept, level, draws, seed),
        level=level,
    )


def sign_test(differences: Tensor) -> float:
    """Two-sided exact sign test of a zero median: p in (0, 1]; zero differences are left out; 1 if all are zero.

    Args:
        differences: (n,); NaN entries are left out. NaN is returned where nothing was measured.
    """
    kept = measured(differences)
    if not len(kept):
        return math.nan
    above, below = int((kept > 0).sum()), int((kept < 0).sum())
    n = torch.tensor(float(above + below), dtype=torch.float64)
    i = torch.arange(min(above, below) + 1, dtype=torch.float64)
    log_terms = torch.lgamma(n + 1) - torch.lgamma(i + 1) - torch.lgamma(n - i + 1) - n * math.log(2.0)
    return min(1.0, 2.0 * float(torch.logsumexp(log_terms, 0).exp()))


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same images, image by image.

    Attributes:
        scale: "log_ratio" (differences are ln a - ln b), or "difference" (a - b) if some value is not positive.
        count, missing: pairs with both values measured, and the others.
        mean, median: of the differences; below 0 where a is the smaller.
        interval: bootstrap interval of the mean difference, with coverage `level`.
        share_greater: share of the pairs with a > b, in [0, 1].
        p_value: two-sided sign test, which asks nothing of the differences' distribution.
    """

    scale: str
    count: int
    missing: int
    mean: float
    median: float
    interval: tuple[float, float]
    level: float
    share_greater: float
    p_value: float

    @property
    def ratio(self) -> float:
        """Geometric mean of a / b; NaN on the "difference" scale."""
        return float(torch.tensor(self.mean).exp()) if self.scale == "log_ratio" else math.nan

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes null."""
        numbers = {
            name: finite_number(getattr(self, name)) for name in ("mean", "median", "share_greater", "p_value", "ratio")
        }
        interval = [finite_number(end) for end in self.interval]
        counts = {"scale": self.scale, "count": self.count, "missing": self.missing}
        return {**counts, **numbers, "interval": interval, "level": self.level}

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.scale} mean {self.mean:.3g} [{low:.3g}, {high:.3g}], median {self.median:.3g}, "
            f"first greater in {self.share_greater:.0%} of {self.count}, sign test p = {self.p_value:.2g}"
        )


def paired_comparison(a: Tensor, b: Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0) -> PairedComparison:
    """Compare per-sample values of two models on the same images, in the same order.

    Args:
        a, b: (n,) each. A pair with a NaN in it is left out and counted.
        level, draws, seed: of the bootstrap interval.

    Raises:
        SofteqValueError: the shapes differ, or have more than one axis.
    """
    if a.shape != b.shape:
        raise SofteqValueError(f"a, b: expected one value per image, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    both = ~(a.isnan() | b.isnan())
    first, second = measured(a[both]), measured(b[both])
    logarithmic = bool((first > 0).all() and (second > 0).all())
    differences = first.log() - second.log() if logarithmic else first - second
    return PairedComparison(
        scale="log_ratio" if logarithmic else "difference",
        count=len(differences),
        missing=len(a) - len(differences),
        mean=float(differences.mean()),
        median=quantile(differences, 0.5),
        interval=bootstrap_interval(differences, level, draws, seed),
        level=level,
        share_greater=float((differences > 0).to(torch.float64).mean()),
        p_value=sign_test(differences),
    )
