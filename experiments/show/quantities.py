"""What a claim of a page may ask of the records; see `experiments.show.claims`."""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from softeq.errors import SofteqError
from softeq.experiments.engine import record, registry
from softeq.experiments.show import audited, paired
from softeq.experiments.show.tables import current, scalar, select


@dataclass(frozen=True)
class Quantities:
    """What a claim may ask of the records in a folder. ``which`` is ``experiment:preset``; the metric is the headline
    of the experiment unless another is named."""

    results: Path

    def ratio(self, which: str, a: str, b: str, metric: str = "") -> paired.Paired:
        """Variant a over b by seed: ``value``, ``low``, ``high``, ``n``, and ``p`` by Holm (`paired.in_family`)."""
        return self._paired(which, a, b, metric, "ratio")

    def difference(self, which: str, a: str, b: str, metric: str = "") -> paired.Paired:
        """Variant a minus b by seed; ``p`` by Holm (`paired.in_family`)."""
        return self._paired(which, a, b, metric, "difference")

    def mean(self, which: str, variant: str, metric: str = "") -> float:
        """The mean over seeds of the finite values."""
        return statistics.fmean(self._values(which, variant, metric))

    def median(self, which: str, variant: str, metric: str = "") -> float:
        """The median over seeds of the finite values."""
        return statistics.median(self._values(which, variant, metric))

    def largest(self, which: str, variant: str, metric: str = "") -> float:
        """The largest finite value."""
        return max(self._values(which, variant, metric))

    def least(self, which: str, variant: str, metric: str = "") -> float:
        """The least finite value."""
        return min(self._values(which, variant, metric))

    def count(self, which: str, variant: str, metric: str, low: float, high: float) -> int:
        """In how many runs of a variant the metric lies from ``low`` to ``high``."""
        return sum(low <= v <= high for v in self._values(which, variant, metric))

    def runs(self, which: str, variant: str) -> int:
        """How many there are."""
        return sum(r["variant"] == variant for r in self._records(which))

    def above(self, which: str, a: str, others: str, p: float, points: str) -> int:
        """At how many points arm ``a`` is above (accuracies) each of ``others`` with a p below ``p``, Holm over all.

        Args:
            which: the experiment.
            a: a variant.
            others: variants, as ``hard-200 none-200``; or several groups of as many, ``hard-200 none-200, ...``, beside
                as many in ``a``.
            p: the level.
            points: of the metric ``accuracy@point``, as ``0 45 90``.
        """
        groups = list(zip(a.split(","), others.split(","), strict=True))
        names = [(one.strip(), other.split(), point) for one, other in groups for point in points.split()]
        records = self._records(which)
        pairs = [(f"accuracy@{point}", one, b) for one, other, point in names for b in other]
        found = [paired.alone(records, key, one, b, "difference") for key, one, b in pairs]
        adjusted, won = iter(paired.holm(found)), 0
        for _, other, _ in names:
            won += all(c.value > 0 and c.p < p for c in [next(adjusted) for _ in other])
        return won

    def agree(self, which: str, variants: str, a: str, b: str, points: str) -> float:
        """In which share of the seeds and points the variant with the largest ``a`` is the one with the least ``b``.

        Args:
            which: the experiment.
            variants: two or more, as ``hard soft none``; seeds that all of them have count.
            a, b: metrics, asked for as ``a@point``.
            points: as ``0-8 0-16``.
        """
        names, hits = variants.split(), []
        for point in points.split():
            highs, lows = ([paired.by_seed(self._records(which), v, f"{key}@{point}") for v in names] for key in (a, b))
            for seed in set.intersection(*map(set, (*highs, *lows))):
                best = max(range(len(names)), key=lambda k: highs[k][seed])
                hits.append(best == min(range(len(names)), key=lambda k: lows[k][seed]))
        if not hits:
            raise SofteqError(f"{which}: no seed has {a} and {b} of all of {variants}")
        return sum(hits) / len(hits)

    def audited(self, model: str, flow: str, what: str) -> float:
        """A number of an audited network, see `experiments.show.audited`."""
        return audited.value(read(self.results, "audit"), model, flow, what)

    def audited_ratio(self, a: str, b: str, flow: str, what: str) -> paired.Paired:
        """Network a over network b, paired image by image, p by Holm, see `experiments.show.audited`."""
        return audited.compared(read(self.results, "audit"), a, b, flow, what)

    def audited_share(self, model: str, flow: str, module: str) -> paired.Paired:
        """A module's share of an audited network's error, with its interval over images."""
        return audited.share(read(self.results, "audit"), model, flow, module)

    def families(self, which: str, moment: str, stencil: str, output: str, quantity: str) -> paired.Paired:
        """ViTs over CNNs in ``cnn-vs-vit``, paired by seed, p by Holm, see `experiments.images.families.compared`."""
        from softeq.experiments.images.families import compared

        found = compared(self._records(which)).get((moment, stencil, output, quantity))
        if found is None:
            raise SofteqError(f"{which}: {moment}, {stencil}, {output}, {quantity} was not measured")
        return found

    def strength(self, families: str, rule: str, what: str, other: str = "") -> float:
        """A number of a rule in the benchmark of priors' strengths, see `benchmarks.strength_table.number`.

        Args:
            families: one or more, as ``z6/n100 inertia/n200``.
            rule: as ``variational``.
            what: ``mean``, ``worst``, ``least``, ``met`` or ``worse``.
            other: an arm in place of the oracle.
        """
        table, records = _strength()
        return float(table.number(records, families.split(), rule, what, other or None))

    def strength_over(self, problem: str, rule: str, other: str = "") -> paired.Paired:
        """A rule on one problem, as ``z6/n100/e0``, against the oracle or another arm; p by Holm over its row."""
        table, records = _strength()
        found: paired.Paired = table.against(records, problem, rule, other or None)
        return found

    def zero_error(self, seeds: float) -> float:
        """The mean squared error of a network that says 0 on the test rows of ``inertia``, over seeds from 0."""
        return _baseline(int(seeds), "zero")

    def mean_error(self, seeds: float) -> float:
        """The same for a network that always says the training targets' mean."""
        return _baseline(int(seeds), "mean")

    def _paired(self, which: str, a: str, b: str, metric: str, kind: str) -> paired.Paired:
        records, key = self._records(which), metric or self._headline(which)
        reference = registry.get(which.partition(":")[0]).reference
        return paired.in_family(records, key, a, b, kind, reference)

    def _values(self, which: str, variant: str, metric: str) -> list[float]:
        key = metric or self._headline(which)
        found = [scalar(r["metrics"], key) for r in self._records(which) if r["variant"] == variant]
        finite = [v for v in found if v is not None and math.isfinite(v)]
        if not finite:
            raise SofteqError(f"{which}, {variant}: no record has a finite {key}")
        return finite

    def _headline(self, which: str) -> str:
        return registry.get(which.partition(":")[0]).columns[0].key

    def _records(self, which: str) -> list[record.Record]:
        name, _, preset = which.partition(":")
        return current(select(read(self.results, name), name, preset))


@functools.lru_cache(maxsize=64)
def read(results: Path, name: str) -> list[record.Record]:
    """The records of an experiment, read once (`read.cache_clear` forgets them)."""
    return record.read(record.record_path(results, name))


@functools.cache
def _strength() -> tuple[ModuleType, list[dict[str, Any]]]:
    """The tables of the benchmark of priors' strengths and its records, which lie beside it in a checkout."""
    try:
        from benchmarks import strength, strength_table
    except ImportError as error:
        raise SofteqError(
            "claims of the strength benchmark: expected a checkout, in which its records lie, on the import path; "
            "run `python -m softeq.experiments.show.readme` at its root"
        ) from error
    return strength_table, strength.read(strength.RECORDS)


@functools.cache
def _baseline(seeds: int, what: str) -> float:
    from softeq.experiments.data.inertia import inertia_data

    errors = []
    for seed in range(seeds):
        data = inertia_data(seed)
        guess = 0.0 if what == "zero" else data.y_train.mean(0)
        errors.append(float((data.y_test - guess).square().mean()))
    return statistics.fmean(errors)
