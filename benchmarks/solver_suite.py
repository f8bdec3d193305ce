"""All maps of a layer of 256 channels over each of emlp's groups, against the package: is it ever slower?

As in `benchmarks.solver`: one call in a process of its own, imports apart, one thread, nothing cached. One round, as
emlp takes minutes for some groups; where it takes more than `LIMIT` seconds, that is the number. Its `RubiksCube` is
left out: its generators move stickers of one piece apart (6 orbits on pairs of stickers, where the cube has 9).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases
from benchmarks.emlp_environment import REQUIREMENTS, EmlpUnavailableError, emlp_python
from benchmarks.report import Report, Row, table
from benchmarks.solver import COLD, EMLP, TookTooLongError, measure
from benchmarks.timing import Spread, digits

NAME = "solver-suite"
LIMIT = 30.0
"""Seconds that emlp gets for one group."""
_QUICK = 2


def run(
    *,
    quick: bool = False,
    threads: Sequence[int] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every group once.

    Args:
        quick: two groups alone, and emlp only where its environment exists.
        threads: not used; both packages solve on one thread.
        say: told what is under way.

    Raises:
        RuntimeError: a worker failed.
    """
    remarks = [f"emlp gets {LIMIT:g} s for a group; its versions: benchmarks/{REQUIREMENTS.name}"]
    python = None
    try:
        python = emlp_python(install=not quick)
    except EmlpUnavailableError as error:
        remarks = [f"{error}; softeq is measured alone"]
    rows, lines = [], []
    for case in list(cases.SUITE.values())[: _QUICK if quick else None]:
        say(f"{NAME}: {case.name}")
        ours, theirs = _both(case.name, python)
        if theirs is not None and theirs["ranks"] != ours["ranks"]:
            remarks.append(f"{case.name}: THE RANKS DIFFER: softeq {ours['ranks']}, emlp {theirs['ranks']}")
        rows += _rows(case.name, ours, theirs)
        lines.append(_line(case, ours, theirs, asked=python is not None))
    columns = ["group", "copies of T(0), T(1), ...", "rank", "emlp s", "softeq ms", "emlp / softeq"]
    caption = "once each; ranks are the same where none is named below"
    return Report(rows, [table("solver-suite: seconds, imports apart", columns, lines, caption)], remarks)


def _both(name: str, python: Path | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What softeq's worker and emlp's handed back; None for emlp where it is not there or was stopped."""
    with tempfile.TemporaryDirectory(prefix="softeq-bench-") as cache:
        ours = measure(Path(sys.executable), "benchmarks.softeq_worker", name, SOFTEQ_CACHE=cache)
    if python is None:
        return ours, None
    try:
        theirs = measure(python, "benchmarks.emlp_worker", name, limit=LIMIT)
    except TookTooLongError:
        return ours, None
    return ours, theirs


def _rows(name: str, ours: dict[str, Any], theirs: dict[str, Any] | None) -> list[Row]:
    if theirs is None:
        return [Row(NAME, name, COLD, Spread.of([ours["seconds"]]), more={"ranks": ours["ranks"]})]
    ratio = Spread.of([theirs["seconds"] / ours["seconds"]])
    more = {"ranks": ours["ranks"], "ratio_is": "emlp / this arm"}
    return [
        Row(NAME, name, EMLP, Spread.of([theirs["seconds"]])),
        Row(NAME, name, COLD, Spread.of([ours["seconds"]]), EMLP, ratio, more=more),
    ]


def _line(case: cases.Uniform, ours: dict[str, Any], theirs: dict[str, Any] | None, *, asked: bool) -> list[str]:
    seconds = ours["seconds"]
    if theirs is not None:
        emlp, ratio = digits(theirs["seconds"]), digits(theirs["seconds"] / seconds)
    else:
        emlp, ratio = (f"> {LIMIT:g}", f"> {digits(LIMIT / seconds)}") if asked else ("-", "-")
    counts = ", ".join(str(count) for count in case.counts)
    return [case.group, counts, str(ours["ranks"][0]), emlp, digits(1e3 * seconds), ratio]
