"""Regenerates the tables and claims of the README and the pages of docs/ from the records, and says which differ.

A table stands between the markers ``<!-- table:EXPERIMENT:PRESET -->`` and ``<!-- /table -->``; a claim see `claims`.
Run as ``python -m experiments.show.readme`` in the checkout to rewrite README.md and docs/*.md from ``results/``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from softeq.errors import SofteqError
from softeq.experiments.engine import record, registry
from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.show import claims, render, tables

_START = re.compile(r"<!-- table:(?P<name>[^:\s]+):(?P<preset>\S+) -->")
_END = "<!-- /table -->"


def readme_block(experiment: Experiment, preset: str, records: Sequence[record.Record], *, source: str) -> str:
    """What stands between the markers: the Markdown table between two empty lines.

    Raises:
        SofteqError: when there are no such records.
    """
    return f"\n\n{render.render(tables.build(records, experiment, preset, source=source), 'md')}\n"


def regenerate(text: str, results: str | Path, *, sources: Sequence[str] | None = None) -> str:
    """``text`` with every table between markers made anew from the records in ``results``.

    Raises:
        SofteqError: for a start without an end, an unknown experiment, or a preset without records.
    """
    parts, position = [], 0
    for start in _START.finditer(text):
        end = text.find(_END, start.end())
        following = _START.search(text, start.end())
        if end < 0 or (following and following.start() < end):
            raise SofteqError(f"README: {start[0]} has no {_END} after it; add it below the table")
        fill = _filler(start["name"], start["preset"], sources)
        records = record.read(record.record_path(results, start["name"]))
        try:
            block = fill(records, Path(results).name)
        except SofteqError as error:
            raise SofteqError(f"README: {start[0]} cannot be filled from {results}: {error}") from error
        parts += [text[position : start.end()], block]
        position = end
    return "".join([*parts, text[position:]])


def _filler(name: str, preset: str, sources: Sequence[str] | None) -> Callable[[list[record.Record], str], str]:
    """What makes a block of records and their source."""
    if name in registry.TABLES:
        table = registry.table(name)
        return lambda records, source: f"\n\n{table(records, source)}\n\n"
    experiment = registry.get(name, sources)
    return lambda records, source: readme_block(experiment, preset, records, source=source)


def stale_tables(path: str | Path, results: str | Path, *, sources: Sequence[str] | None = None) -> list[str]:
    """The names ``EXPERIMENT:PRESET`` of the tables in a README that the records do not give.

    Raises:
        SofteqError: as `regenerate`.
    """
    text = Path(path).read_text(encoding="utf-8")
    now, then = _blocks(regenerate(text, results, sources=sources)), _blocks(text)
    return [name for (name, new), (_, old) in zip(now, then, strict=True) if new != old]


def _blocks(text: str) -> list[tuple[str, str]]:
    return [
        (f"{start['name']}:{start['preset']}", text[start.end() : text.index(_END, start.end())])
        for start in _START.finditer(text)
    ]


def update_readme(path: str | Path, results: str | Path, *, sources: Sequence[str] | None = None) -> bool:
    """Rewrite the tables and claims of a page in place; whether anything changed.

    Raises:
        SofteqError: as `regenerate`; the file is then as it was.
    """
    path = Path(path)
    before = path.read_text(encoding="utf-8")
    after = claims.refill(regenerate(before, results, sources=sources), results)
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def pages(root: Path) -> list[Path]:
    """The files with tables or claims in a checkout."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    for page in pages(root):
        try:
            changed = update_readme(page, root / "results")
        except SofteqError as error:
            sys.exit(f"softeq: {page.name}: {error}")
        sys.stdout.write(f"{page.name} {'rewritten' if changed else 'is up to date'}\n")
        for fault in claims.broken(page.read_text(encoding="utf-8"), root / "results"):
            sys.exit(f"softeq: {page.name}: a claim {fault}")
