"""The tables of the benchmark of rules, computed from its records: each rule against an oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.strength_problems import FAMILIES, names
from softeq.errors import SofteqError
from softeq.experiments.show.paired import Paired, holm, paired

Errors = Mapping[str, Mapping[int, float]]
"""Per arm the test error by seed."""

FIXED = ("hard", "none", "soft")
WHOLE, BROKEN = ("e0", "turned", "0"), ("e1", "upright", "angle", "0.02")
"""Ends of the names of problems whose symmetry holds, and is broken outright."""


@dataclass(frozen=True)
class Cell:
    """One problem: the oracle, which is the fixed arm with the lowest mean *test* error: what nobody can choose.

    Attributes:
        name, errors: the problem and its errors.
        oracle: the best of hard, none and the fixed precisions, over the seeds that all of them have.
        against: how many fixed arms it was the best of.
    """

    name: str
    errors: Errors
    oracle: str
    against: int

    @property
    def kind(self) -> str:
        """Errors of classifiers are compared by their difference, others by their ratio."""
        return "difference" if self.name.startswith("images") else "ratio"

    def over(self, arm: str, other: str | None = None) -> Paired | None:
        """An arm against the oracle, or against another one, seed by seed; ``None`` where nothing can be compared.

        ``none`` is that with its best decay.
        """
        mine, theirs = (self.errors.get(self._named(name)) for name in (arm, other or self.oracle))
        if not mine or not theirs or not mine.keys() & theirs.keys():
            return None
        return paired(dict(mine), dict(theirs), self.kind)

    def best(self, kind: str) -> str:
        """The arm of a kind with the lowest mean error, such as none with its best decay."""
        return min((arm for arm in self.errors if arm.partition("@")[0] == kind), key=lambda arm: _mean(self, arm))

    def row(self, arms: Sequence[str], other: str | None = None) -> dict[str, Paired]:
        """What can be compared of some arms with the oracle, or with another one; p by Holm over all but itself."""
        pairs = {arm: pair for arm in arms for pair in [self.over(arm, other)] if pair}
        rivals = [arm for arm in pairs if self._named(arm) != self._named(other or self.oracle)]
        return pairs | dict(zip(rivals, holm([pairs[arm] for arm in rivals]), strict=True))

    def _named(self, arm: str) -> str:
        return self.best("none") if arm == "none" else arm


@dataclass(frozen=True)
class Line:
    """A rule on the problems of one family and size.

    Attributes:
        pairs: per problem, against the oracle.
        mean, worst: of their values; the mean of ratios is geometric.
        met: whether the aims are.
        worse: than hard on a problem that is whole, and than none on one that is broken, by the 95% interval of its
            pairs; ``None`` where nothing can be compared.
    """

    pairs: Sequence[Paired]
    mean: float
    worst: float
    met: bool
    worse: tuple[bool | None, bool | None]


def cells(records: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Per problem what can be compared, in the benchmark's order; one without hard, none or a precision is left out."""
    by_problem: dict[str, dict[str, dict[int, float]]] = {}
    for r in records:
        by_problem.setdefault(r["problem"], {}).setdefault(r["arm"], {})[r["seed"]] = r["error"]
    found = []
    for name, errors in by_problem.items():
        fixed = [arm for arm in errors if arm.partition("@")[0] in FIXED]
        if {arm.partition("@")[0] for arm in fixed} != set(FIXED):
            continue
        seeds = set.intersection(*(set(errors[arm]) for arm in fixed))
        if seeds:
            best = min(fixed, key=lambda arm: _mean_over(errors[arm], seeds))
            found.append(Cell(name, errors, best, len(fixed)))
    order = [name for family in FAMILIES for name in names(family)]
    return sorted(found, key=lambda cell: order.index(cell.name) if cell.name in order else len(order))


def _mean_over(by_seed: Mapping[int, float], seeds: set[int]) -> float:
    value = math.fsum(by_seed[s] for s in seeds) / len(seeds)
    return value if math.isfinite(value) else math.inf


def _mean(cell: Cell, arm: str) -> float:
    return _mean_over(cell.errors[arm], set(cell.errors[arm]))


def rules_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms that are no fixed priors: rules as they are, in the order in which they were met, then with options."""
    met = dict.fromkeys(r["arm"] for r in records if r["arm"].partition("@")[0] not in FIXED)
    return sorted(met, key=lambda arm: ":" in arm)


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """A line per family, size and rule: the mean and the worst against the oracle, and which reaches are met."""
    lines = [
        "| family | rule | problems, seeds | against the oracle: mean | worst | reach | whole: no worse than hard | "
        "broken: no worse than none |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, own in _groups(records).items():
        for rule in ("hard", *rules_of(records)):
            found = _line(group, own, rule)
            if found:
                lines.append(f"| {group} | `{rule}` | {_line_text(found)} |")
    return "\n".join(lines)


def number(
    records: Sequence[Mapping[str, Any]], groups: Sequence[str], rule: str, what: str, other: str | None = None
) -> float:
    """A number of a rule over some families and sizes, such as ``z6/n100``.

    Args:
        records: those of the benchmark.
        groups: whose problems count.
        rule: or ``hard``.
        what: ``mean``, ``worst`` or ``least`` over all their problems, against the oracle; in how many of them the aims
            are ``met``; in how many it is shown to be ``worse`` than hard where the symmetry holds, or than none where
            it is broken.
        other: an arm in place of the oracle, of ``mean``, ``worst`` and ``least``.

    Raises:
        SofteqError: the records lack one of the families or the rule there, or there is no such number.
    """
    by_group = _groups(records)
    lines = [line for group in groups for line in [_line(group, by_group.get(group, []), rule, other)] if line]
    if len(lines) < len(groups):
        raise SofteqError(f"strength: expected records of {rule!r} in each of {list(groups)}; {len(lines)} have them")
    pairs = [pair for line in lines for pair in line.pairs]
    numbers = {
        "mean": lambda: _mean_of(pairs),
        "worst": lambda: max(pair.value for pair in pairs),
        "least": lambda: min(pair.value for pair in pairs),
        "met": lambda: sum(line.met for line in lines),
        "worse": lambda: sum(any(line.worse) for line in lines),
    }
    if what not in numbers or (other and what in ("met", "worse")):
        raise SofteqError(f"strength: expected one of {list(numbers)}, the last two against the oracle; got {what!r}")
    if what not in ("met", "worse") and len({pair.kind for pair in pairs}) > 1:
        raise SofteqError(f"strength: {list(groups)} are ratios and differences, which have no {what} in common")
    return float(numbers[what]())


def against(records: Sequence[Mapping[str, Any]], problem: str, rule: str, other: str | None = None) -> Paired:
    """A rule on one problem against the oracle or another arm, p by Holm over the problem's row in the table.

    Raises:
        SofteqError: nothing can be compared.
    """
    for cell in cells(records):
        pair = cell.row(_shown(records), other).get(rule) if cell.name == problem else None
        if pair:
            return pair
    raise SofteqError(f"strength: {problem} has no {rule!r} to be compared with {other or 'the oracle'}")


def _groups(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells(records):
        groups.setdefault(cell.name.rpartition("/")[0], []).append(cell)
    return groups


def _line(group: str, own: Sequence[Cell], rule: str, other: str | None = None) -> Line | None:
    pairs = [pair for cell in own for pair in [cell.over(rule, other)] if pair]
    if not pairs:
        return None
    mean, worst = _mean_of(pairs), max(pair.value for pair in pairs)
    if group.startswith("images"):
        met = worst <= 0.010
    elif group.startswith("molecules"):
        met = worst <= 1.03
    else:
        met = worst <= 1.10 and mean <= (1.00 if group.endswith("n1000") else 0.95)
    return Line(pairs, mean, worst, met, (_worse(own, rule, WHOLE, "hard"), _worse(own, rule, BROKEN, "none")))


def _mean_of(pairs: Sequence[Paired]) -> float:
    values = [pair.value for pair in pairs]
    if pairs[0].kind == "difference":
        return math.fsum(values) / len(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _worse(own: Sequence[Cell], rule: str, ends: Sequence[str], kind: str) -> bool | None:
    pairs = [cell.over(rule, kind) for cell in own if cell.name.rpartition("/")[2] in ends]
    given = [pair for pair in pairs if pair and math.isfinite(pair.low)]
    neutral = 0.0 if own[0].kind == "difference" else 1.0
    return any(pair.low > neutral for pair in given) if given else None


def _line_text(line: Line) -> str:
    spec = "+.3f" if line.pairs[0].kind == "difference" else ".2f"
    seeds = sorted({pair.n for pair in line.pairs})
    texts = [
        f"{len(line.pairs)}, {'-'.join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))}",
        f"{line.mean:{spec}}",
        f"{line.worst:{spec}}",
        "met" if line.met else "no",
        *("" if worse is None else "worse" if worse else "yes" for worse in line.worse),
    ]
    return " | ".join(texts)


def details(records: Sequence[Mapping[str, Any]]) -> str:
    """A table per family: by problem the oracle's mean error, and each arm against it with the paired 95% interval."""
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for r in records:
        by_family.setdefault(r["problem"].partition("/")[0], []).append(r)
    ordered = sorted(by_family, key=lambda family: FAMILIES.index(family) if family in FAMILIES else len(FAMILIES))
    return "\n\n".join(_details(by_family[family]) for family in ordered)


def _details(records: Sequence[Mapping[str, Any]]) -> str:
    shown = _shown(records)
    lines = ["| problem | oracle | " + " | ".join(shown) + " |", "|---|---|" + "---|" * len(shown)]
    for cell in cells(records):
        row = cell.row(shown)
        texts = [_text(row[arm]) if arm in row else "" for arm in shown]
        head = f"{cell.oracle} of {cell.against}: {_mean(cell, cell.oracle):.3g}"
        lines.append(f"| {cell.name} | {head} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _shown(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["hard", "none", *rules_of(records)]


def _text(pair: Paired) -> str:
    spec = ".2f" if pair.kind == "ratio" else "+.3f"
    if pair.n < 2:
        return f"{pair.value:{spec}} (1)"
    return f"{pair.value:{spec}} [{pair.low:{spec}}, {pair.high:{spec}}] ({pair.n})"


BEGIN, END = "<!-- strength: begin -->", "<!-- strength: end -->"
"""Between them a page has the tables."""


def with_tables(page: str, records: Sequence[Mapping[str, Any]]) -> str:
    """A page with the tables of these records between its markers.

    Raises:
        ValueError: the markers are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"page: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{summary(records)}\n\n{details(records)}\n\n{END}{after}"
