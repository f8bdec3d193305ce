"""Sentences that compare, computed from the records: what they say, and whether it still holds.

A claim stands in a page between two comments:

    <!-- claim NAMES | TEST | TEXT -->what the reader sees<!-- /claim -->

``NAMES`` binds names to quantities (``r = ratio("inertia:paper", "soft", "hard"); m = mean(...)``), ``TEST`` is a
condition on them that has to be true (``r.high < 0.5 and r.p < 0.01``), and ``TEXT`` is the sentence with the names in
braces (``{r.value:.2g}``, ``{r}``), which is filled in by ``python -m experiments.show.readme``. The suite fails where
a test is not true, or the text is not what the records give. Quantities are those of `Quantities`; nothing else can be
called, and there is no other Python in it than numbers, comparisons and arithmetic.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record, registry
from softeq.experiments.show import audited, paired
from softeq.experiments.show.tables import current, scalar, select

_CLAIM = re.compile(r"<!-- claim (?P<body>.*?) -->(?P<shown>.*?)<!-- /claim -->", re.DOTALL)
_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
_OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Quantities:
    """What a claim may ask of the records in a folder. ``which`` is ``experiment:preset``; the metric is the headline
    of the experiment unless another is named."""

    results: Path

    def ratio(self, which: str, a: str, b: str, metric: str = "") -> paired.Paired:
        """Variant a over b, paired by seed: ``value``, ``low``, ``high``, ``p``, ``n``."""
        return self._paired(which, a, b, metric, "ratio")

    def difference(self, which: str, a: str, b: str, metric: str = "") -> paired.Paired:
        """Variant a minus b, paired by seed."""
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
        found = [self.difference(which, one, b, f"accuracy@{point}") for one, other, point in names for b in other]
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
        return audited.value(_read(self.results, "audit"), model, flow, what)

    def audited_ratio(self, a: str, b: str, flow: str, what: str) -> paired.Paired:
        """Network a over network b, paired image by image, p by Holm, see `experiments.show.audited`."""
        return audited.compared(_read(self.results, "audit"), a, b, flow, what)

    def audited_share(self, model: str, flow: str, module: str) -> paired.Paired:
        """A module's share of an audited network's error, with its interval over images."""
        return audited.share(_read(self.results, "audit"), model, flow, module)

    def families(self, which: str, moment: str, stencil: str, output: str, quantity: str) -> paired.Paired:
        """ViTs over CNNs in ``cnn-vs-vit``, paired by seed, p by Holm, see `experiments.images.families.compared`."""
        from softeq.experiments.images.families import compared

        found = compared(self._records(which)).get((moment, stencil, output, quantity))
        if found is None:
            raise SofteqError(f"{which}: {moment}, {stencil}, {output}, {quantity} was not measured")
        return found

    def zero_error(self, seeds: float) -> float:
        """The mean squared error of a network that says 0 on the test rows of ``inertia``, over seeds from 0."""
        return _baseline(int(seeds), "zero")

    def mean_error(self, seeds: float) -> float:
        """The same for a network that always says the training targets' mean."""
        return _baseline(int(seeds), "mean")

    def _paired(self, which: str, a: str, b: str, metric: str, kind: str) -> paired.Paired:
        records, key = self._records(which), metric or self._headline(which)
        return paired.paired(paired.by_seed(records, a, key), paired.by_seed(records, b, key), kind)

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
        return current(select(_read(self.results, name), name, preset))


@functools.lru_cache(maxsize=64)
def _read(results: Path, name: str) -> list[record.Record]:
    return record.read(record.record_path(results, name))


@functools.cache
def _baseline(seeds: int, what: str) -> float:
    from softeq.experiments.data.inertia import inertia_data

    errors = []
    for seed in range(seeds):
        data = inertia_data(seed)
        guess = 0.0 if what == "zero" else data.y_train.mean(0)
        errors.append(float((data.y_test - guess).square().mean()))
    return statistics.fmean(errors)


@dataclass(frozen=True)
class Claim:
    """A claim of a page: its place in the text, its three parts, and what the page shows."""

    start: int
    end: int
    names: str
    test: str
    text: str
    shown: str


def find(text: str) -> list[Claim]:
    """The claims of a page, in order.

    Raises:
        SofteqValueError: one that has not three parts.
    """
    found = []
    for match in _CLAIM.finditer(text):
        parts = [part.strip() for part in match["body"].split(" | ")]
        if len(parts) != 3:
            raise SofteqValueError(f"claim: expected NAMES | TEST | TEXT, got {match['body']!r}")
        found.append(Claim(match.start("shown"), match.end("shown"), parts[0], parts[1], parts[2], match["shown"]))
    return found


def holds(claim: Claim, results: str | Path) -> bool:
    """Whether its test is true of the records.

    Raises:
        SofteqError: a quantity that the records do not give, or an expression that is none.
    """
    return bool(_evaluate(claim.test, _bound(claim, results)))


def filled(claim: Claim, results: str | Path) -> str:
    """Its text with the numbers of the records.

    Raises:
        SofteqError: as `holds`.
    """
    names = _bound(claim, results)
    return _FIELD.sub(lambda match: format(_evaluate(match[1], names), match[2] or ""), claim.text)


def refill(text: str, results: str | Path) -> str:
    """A page with every claim filled in anew."""
    parts, place = [], 0
    for claim in find(text):
        parts += [text[place : claim.start], filled(claim, results)]
        place = claim.end
    return "".join([*parts, text[place:]])


def broken(text: str, results: str | Path) -> list[str]:
    """The claims of a page whose test is not true or whose text is not what the records give, in words."""
    found = []
    for claim in find(text):
        if not holds(claim, results):
            found.append(f"does not hold: {claim.test} ({filled(claim, results)})")
        elif filled(claim, results) != claim.shown:
            found.append(f"says {claim.shown!r}, the records say {filled(claim, results)!r}")
    return found


def _bound(claim: Claim, results: str | Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for part in filter(None, map(str.strip, claim.names.split(";"))):
        name, equals, expression = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SofteqValueError(f"claim: expected name = quantity, got {part!r}")
        names[name.strip()] = _evaluate(expression.strip(), names, Quantities(Path(results)))
    return names


def _evaluate(expression: str, names: Mapping[str, Any], quantities: Quantities | None = None) -> Any:
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise SofteqValueError(f"claim: {expression!r} is no expression") from error
    return _value(tree, names, quantities)


def _value(node: ast.expr, names: Mapping[str, Any], quantities: Quantities | None) -> Any:
    again = functools.partial(_value, names=names, quantities=quantities)
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Attribute(value=inner, attr=("value" | "low" | "high" | "p" | "n" | "interval") as attribute):
            return getattr(again(inner), attribute)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](again(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](again(left), again(right))
        case ast.BoolOp(op=op, values=values):
            return (all if isinstance(op, ast.And) else any)(again(v) for v in values)
        case ast.Compare(left=left, ops=ops, comparators=right):
            values = [again(v) for v in (left, *right)]
            pairs = zip(ops, values, values[1:], strict=False)
            return all(_OPERATORS[type(op)](a, b) for op, a, b in pairs)
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if quantities and not name.startswith("_"):
            quantity = getattr(quantities, name, None)
            if callable(quantity):
                return quantity(*map(again, given))
    raise SofteqValueError(f"claim: {ast.unparse(node)!r} is none of what a claim may say")
