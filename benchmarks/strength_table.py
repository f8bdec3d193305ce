"""The tables of the benchmark of rules, computed from its records: each rule against an oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.strength_problems import FAMILIES, names
from softeq.experiments.show.paired import Paired, paired

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
        """An arm against the oracle, or against another one, seed by seed; ``None`` where nothing can be compared."""
        mine, theirs = self.errors.get(arm), self.errors.get(other or self.oracle)
        if not mine or not theirs or not mine.keys() & theirs.keys():
            return None
        return paired(dict(mine), dict(theirs), self.kind)

    def best(self, kind: str) -> str:
        """The arm of a kind with the lowest mean error, such as none with its best decay."""
        return min((arm for arm in self.errors if arm.partition("@")[0] == kind), key=lambda arm: _mean(self, arm))


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
    groups: dict[str, list[Cell]] = {}
    for cell in cells(records):
        groups.setdefault(cell.name.rpartition("/")[0], []).append(cell)
    for group, own in groups.items():
        for rule in ("hard", *rules_of(records)):
            found = [(cell, pair) for cell in own for pair in [cell.over(rule)] if pair]
            if found:
                lines.append(
                    f"| {group} | `{rule}` | {_counts(found)} | {_values(group, found)} | {_ends(own, rule)} |"
                )
    return "\n".join(lines)


def _counts(found: Sequence[tuple[Cell, Paired]]) -> str:
    seeds = sorted({pair.n for _, pair in found})
    return f"{len(found)}, {'-'.join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))}"


def _values(group: str, found: Sequence[tuple[Cell, Paired]]) -> str:
    values = [pair.value for _, pair in found]
    if found[0][0].kind == "difference":
        mean, worst = math.fsum(values) / len(values), max(values)
        return f"{mean:+.3f} | {worst:+.3f} | {'met' if worst <= 0.010 else 'no'}"
    mean, worst = math.exp(math.fsum(map(math.log, values)) / len(values)), max(values)
    if group.startswith("molecules"):
        met = worst <= 1.03
    else:
        met = worst <= 1.10 and mean <= (1.00 if group.endswith("n1000") else 0.95)
    return f"{mean:.2f} | {worst:.2f} | {'met' if met else 'no'}"


def _ends(own: Sequence[Cell], rule: str) -> str:
    """Whether a rule is worse, by more than the 95% interval of its pairs, than the arm that knows the answer."""
    texts = []
    for ends, kind in ((WHOLE, "hard"), (BROKEN, "none")):
        pairs = [cell.over(rule, cell.best(kind)) for cell in own if cell.name.rpartition("/")[2] in ends]
        given = [pair for pair in pairs if pair and math.isfinite(pair.low)]
        neutral = 0.0 if own[0].kind == "difference" else 1.0
        texts.append("" if not given else "worse" if any(pair.low > neutral for pair in given) else "yes")
    return " | ".join(texts)


def details(records: Sequence[Mapping[str, Any]]) -> str:
    """A table per family: by problem the oracle's mean error, and each arm against it with the paired 95% interval."""
    by_family: dict[str, list[Mapping[str, Any]]] = {}
    for r in records:
        by_family.setdefault(r["problem"].partition("/")[0], []).append(r)
    ordered = sorted(by_family, key=lambda family: FAMILIES.index(family) if family in FAMILIES else len(FAMILIES))
    return "\n\n".join(_details(by_family[family]) for family in ordered)


def _details(records: Sequence[Mapping[str, Any]]) -> str:
    shown = ["hard", "none", *rules_of(records)]
    lines = ["| problem | oracle | " + " | ".join(shown) + " |", "|---|---|" + "---|" * len(shown)]
    for cell in cells(records):
        texts = []
        for arm in shown:
            pair = cell.over(cell.best("none") if arm == "none" else arm)
            texts.append("" if pair is None else _text(pair))
        head = f"{cell.oracle} of {cell.against}: {_mean(cell, cell.oracle):.3g}"
        lines.append(f"| {cell.name} | {head} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


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
