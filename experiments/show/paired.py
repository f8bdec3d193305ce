"""Two variants compared seed by seed: their difference or ratio with a 95% interval and a p-value.

A seed draws the data and the order for every variant alike, so what differs within a seed is the variants. Errors are
positive and spread with their size: their ratio is compared, on a logarithmic scale; accuracies by their difference.
Intervals and p-values are those of Student's t; where several comparisons stand together p is Holm's (Scandinavian
Journal of Statistics, 1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from softeq.errors import MissingExtraError, SofteqError
from softeq.experiments.engine.record import Record
from softeq.experiments.show.metrics import scalar
from softeq.experiments.training.arms import parse

LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """One comparison: ``value`` [``low``, ``high``] over ``n`` pairs, ``p`` of no difference.

    ``value`` is a ratio (``kind`` ``"ratio"``: 1 where nothing differs) or a difference (0). With fewer than two pairs
    the interval is NaN and ``p`` is 1: nothing is known.
    """

    kind: str
    value: float
    low: float
    high: float
    p: float
    n: int

    @property
    def interval(self) -> str:
        """Value and interval as text."""
        spec = ".3g" if self.kind == "ratio" else "+.3f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    @property
    def inverse(self) -> Paired:
        """The other variant against the one."""
        if self.kind == "ratio":
            return replace(self, value=1 / self.value, low=1 / self.high, high=1 / self.low)
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def __str__(self) -> str:
        return f"{self.interval}, {p_text(self.p)}, n = {self.n}"


def p_text(p: float) -> str:
    """A p-value as it is printed."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


def paired(a: dict[int, float], b: dict[int, float], kind: str) -> Paired:
    """Compare a's values with b's on the seeds that both have, where both are finite (and positive, of ratios).

    Args:
        a, b: by seed.
        kind: ``"ratio"`` (a / b, geometric mean) or ``"difference"`` (a - b).

    Raises:
        SofteqError: no common seed.
        MissingExtraError: scipy is not installed.
    """
    usable = (lambda v: math.isfinite(v) and v > 0) if kind == "ratio" else math.isfinite
    seeds = [s for s in sorted(a.keys() & b.keys()) if usable(a[s]) and usable(b[s])]
    if not seeds:
        raise SofteqError(f"paired: no seed at which both have a finite value, of {sorted(a)} and {sorted(b)}")
    differences = [math.log(a[s] / b[s]) if kind == "ratio" else a[s] - b[s] for s in seeds]
    mean, half, p = student(differences)
    back = math.exp if kind == "ratio" else float
    return Paired(kind, back(mean), back(mean - half), back(mean + half), p, len(seeds))


def student(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, half width of its 95% interval, and p of a mean of 0, by Student's t; NaN and 1 for a single value."""
    try:
        from scipy.stats import t
    except ImportError as error:
        raise MissingExtraError("comparing variants needs scipy: pip install 'softeq[experiments]'") from error
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return mean, math.nan, 1.0
    spread = statistics.stdev(values) / math.sqrt(n)
    if spread == 0:
        return mean, 0.0, 1.0 if mean == 0 else 0.0
    return mean, spread * float(t.ppf((1 + LEVEL) / 2, n - 1)), float(2 * t.sf(abs(mean) / spread, n - 1))


def holm(found: Sequence[Paired]) -> list[Paired]:
    """The comparisons with p adjusted for their number, in the same order."""
    order = sorted(range(len(found)), key=lambda k: found[k].p)
    adjusted, largest = [1.0] * len(found), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(found) - rank) * found[k].p))
        adjusted[k] = largest
    return [replace(one, p=p) for one, p in zip(found, adjusted, strict=True)]


def by_seed(records: Iterable[Record], variant: str, key: str) -> dict[int, float]:
    """A metric of a variant by seed, where there is a number."""
    found = {r["seed"]: scalar(r["metrics"], key) for r in records if r["variant"] == variant}
    return {seed: value for seed, value in found.items() if value is not None}


def kind_of(key: str) -> str:
    """How a metric is compared: accuracies and logarithms of likelihoods by their difference, errors by their ratio."""
    return "difference" if "accuracy" in key or "nll" in key else "ratio"


def in_family(records: Sequence[Record], key: str, a: str, b: str, kind: str, reference: str) -> Paired:
    """Variant a against b, p by Holm over one arm's comparisons with every other arm, see `differences`.

    The one arm is the table's reference where it is one of the two, so that p is the table's, else that of a. Variants
    that have different numbers of training samples, or stand beside some that are no arms, have no family: p is their
    own.
    """
    try:
        arms = {r["variant"]: parse(r["variant"]).arm.name for r in records}
    except SofteqError:
        arms = {}
    turned = arms.get(b) == reference != arms.get(a)
    family = differences(records, key, arms[b if turned else a], kind) if {a, b} <= arms.keys() else {}
    found = family.get((b, a) if turned else (a, b))
    if found is None:
        return alone(records, key, a, b, kind)
    return found.inverse if turned else found


def alone(records: Sequence[Record], key: str, a: str, b: str, kind: str) -> Paired:
    """Variant a against b with the p of this one comparison; raises as `paired` does."""
    return paired(by_seed(records, a, key), by_seed(records, b, key), kind)


def differences(
    records: Sequence[Record], key: str, reference: str = "soft", kind: str = ""
) -> dict[tuple[str, str], Paired]:
    """The reference arm against every other arm at the same number of training samples, p by Holm over all of them.

    Args:
        records: of one experiment and preset.
        key: the metric.
        reference: an arm's name.
        kind: ``"ratio"`` or ``"difference"``; by default that of the metric, see `kind_of`.

    Returns:
        by (the reference's variant, the other variant); empty where the reference is absent or alone, also where the
        variants are no arms.
    """
    variants = list(dict.fromkeys(r["variant"] for r in records))
    if not any(variant.startswith(reference) for variant in variants):
        return {}
    pairs, found = [], []
    for variant in variants:
        mine = parse(variant)
        own = reference if mine.samples is None else f"{reference}-{mine.samples}"
        if variant == own or own not in variants or mine.precision is not None:
            continue
        try:
            one = alone(records, key, own, variant, kind or kind_of(key))
        except SofteqError:
            continue
        if one.n > 1:  # of a single pair nothing is known
            found.append(one)
            pairs.append((own, variant))
    return dict(zip(pairs, holm(found), strict=True))
