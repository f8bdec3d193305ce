"""Sentences that compare, computed from the records: what they say, and whether it still holds.

A claim stands in a page between two comments:

    <!-- claim NAMES | TEST | TEXT -->what the reader sees<!-- /claim -->

``NAMES`` binds names to quantities (``r = ratio("inertia:paper", "soft", "hard"); m = mean(...)``), ``TEST`` is a
condition on them that has to be true (``r.high < 0.5 and r.p < 0.01``), and ``TEXT`` is the sentence with the names in
braces (``{r.value:.2g}``, ``{r}``), which is filled in by ``python -m experiments.show.readme``. The suite fails where
a test is not true, or the text is not what the records give. Quantities are those of
`experiments.show.quantities.Quantities`; nothing else can be called, and there is no other Python in it than numbers,
comparisons and arithmetic.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softeq.errors import SofteqValueError
from softeq.experiments.show.quantities import Quantities

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
