"""Tables as text: Markdown, CSV and LaTeX, cells as mean ± std (n)."""

from __future__ import annotations

import csv
import io
import math
import re

from softeq.experiments.engine import registry
from softeq.experiments.show.tables import Stat, Table

FORMATS = ("md", "csv", "latex")
WIDE = 13
"""The most columns of a Markdown table; with more, variants stand side by side and metrics below each other."""


def format_number(value: float, spec: str) -> str:
    """``value`` in a format specification, also one for whole numbers; en dash for NaN."""
    if math.isnan(value):
        return "–"
    return format(round(value) if spec.endswith("d") else value, spec)


def format_stat(stat: Stat, spec: str) -> str:
    """``mean ± std (n)``; ``value (n)`` where all are equal or n is 1; how many diverged or are missing, if any."""
    lost = [f"{count} {what}" for count, what in ((stat.diverged, "diverged"), (stat.missing, "missing")) if count]
    if stat.n == 0:
        return f"diverged ({stat.diverged})" if stat.diverged else "–"
    spread = f" ± {format_number(stat.std, '.2g' if spec.endswith('d') else spec)}" if stat.varies else ""
    return f"{format_number(stat.mean, spec)}{spread} ({'; '.join([str(stat.n), *lost])})"


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text: the variant, the headline metric, its median and published number, the others."""
    head = table.columns[0]
    with_median = any(row.stats[0].varies for row in table.rows)
    with_published = table.has_published
    extra = [f"{head.header}, median"] * with_median + ["published"] * with_published
    header = ["variant", head.header, *extra, *(c.header for c in table.columns[1:])]
    lines = []
    for row in table.rows:
        cells = [format_stat(stat, column.format) for stat, column in zip(row.stats, table.columns, strict=True)]
        more = [format_number(row.stats[0].median, head.format)] * with_median
        more += [row.published or "–"] * with_published
        lines.append([row.variant, cells[0], *more, *cells[1:]])
    return header, lines


def render(table: Table, format: str = "md") -> str:
    """The table as text that ends in a newline.

    Raises:
        SofteqValueError: for a format that is not one of `FORMATS`.
    """
    if format not in FORMATS:
        raise registry.unknown("format", format, FORMATS)
    return {"md": _markdown, "csv": _csv, "latex": _latex}[format](table)


def _markdown(table: Table) -> str:
    header, lines = _cells(table)
    if len(header) > WIDE:
        header, *lines = [list(cells) for cells in zip(["metric", *header[1:]], *lines, strict=True)]
    text = [[cell.replace("|", r"\|") for cell in line] for line in (header, *lines)]
    widths = [max(len(line[i]) for line in text) for i in range(len(header))]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in text]
    rule = "|" + "|".join(":" + "-" * w + "-" if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    notes = "  \n".join(table.footnotes)
    return "\n".join([f"**{table.caption}**", "", padded[0], rule, *padded[1:], "", notes, ""])


def _csv(table: Table) -> str:
    """One row per variant in full precision: ``<metric>_mean``, ``_std``, ``_median``, ``_n``, ``_diverged``."""
    fields = ("mean", "std", "median", "n", "diverged")
    names = [f"{column.key}_{field}" for column in table.columns for field in fields]
    header = ["experiment", "preset", "variant", "runs", *names, "published", "published_source", "source", "commits"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        values = [getattr(stat, field) for stat in row.stats for field in fields]
        shown = ["" if isinstance(v, float) and math.isnan(v) else v for v in values]
        origin = [
            row.published,
            table.published_source if row.published else "",
            table.source,
            "; ".join(table.commits),
        ]
        writer.writerow([table.experiment, table.preset, row.variant, row.runs, *shown, *origin])
    return out.getvalue()


_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_LATEX |= {
    "±": r"$\pm$",
    "–": "--",
    "²": "$^2$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "<": "$<$",
    ">": "$>$",
}


def _escape(text: str) -> str:
    escaped = "".join(_LATEX.get(c, c) for c in text)
    return re.sub(r"(?<![\w.@])(-?\d+(?:\.\d+)?)e([+-]?)0*(\d+)\b", _power, escaped)


def _power(match: re.Match[str]) -> str:
    sign = "-" if match[2] == "-" else ""
    return rf"${match[1]} \times 10^{{{sign}{match[3]}}}$"


def _latex(table: Table) -> str:
    header, lines = _cells(table)
    body = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in (header, *lines)]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escape(table.caption)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"    \toprule",
            f"    {body[0]}",
            r"    \midrule",
            *(f"    {line}" for line in body[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par\footnotesize {_escape(note)}" for note in table.footnotes),
            r"\end{table}",
            "",
        ]
    )
