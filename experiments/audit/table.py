"""The audit's records as one small Markdown table for the README: a row per model and a column per flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softeq.errors import SofteqError
from softeq.experiments.audit.report.groups import Group, group_records
from softeq.experiments.audit.report.verdict import control_words

FLOWS = ("translation_x", "translation_y", "rotation", "scale")
"""The flows that get a column."""


def audit_table(records: Sequence[Mapping[str, Any]], source: str) -> str:
    """A Markdown table per configuration, with what it is of in the line above.

    Args:
        records: of `experiments.audit.run`.
        source: where they are from, for the line above.

    Raises:
        SofteqError: there is no audit record.
    """
    groups = group_records(records)
    if not groups:
        raise SofteqError(f"{source} holds no audit record: run softeq audit MODEL... --out {source}")
    return "\n\n".join(_table(group, source) for group in groups)


def _table(group: Group, source: str) -> str:
    s = group.settings
    flows = [flow for flow in FLOWS if flow in group.flows]
    title = (
        f"**audit; {s['norm']} LEE of {s['output']}; stencil {s['stencil']}, boundary {s['boundary']},"
        f" margin {s['margin']} px; {s['images']}, n = {s['count']} images; records from {source}**"
    )
    head = ["model", "accuracy (n)", "parameters", *flows, *(f"{flow}, over control" for flow in flows)]
    rule = [":---", *["---:"] * (len(head) - 1)]
    rows = [_row(name, records, flows) for name, records in group.models.items()]
    lines = "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
    return f"{title}\n\n{lines}\n\n{_NOTE}{control_words(s)}."


_NOTE = (
    "Cells: mean over images [95% bootstrap interval]; translations per squared pixel, rotation per squared radian,"
    " scale dimensionless.  \nOver control: the median over images of LEE over that of tangents of the same size: "
)


def _row(name: str, records: Mapping[str, Mapping[str, Any]], flows: Sequence[str]) -> list[str]:
    metrics = {flow: record["metrics"] for flow, record in records.items()}
    first = next(iter(metrics.values()))
    accuracy = "–" if first.get("accuracy") is None else f"{first['accuracy']:.2f} ({first['labelled']})"
    size = f"{first['parameters']:,}" if "parameters" in first else "–"
    values, ratios = [], []
    for flow in flows:
        found = metrics.get(flow, {"not_measurable": "not recorded"})
        if "not_measurable" in found:
            values.append("not measurable")
            ratios.append("–")
            continue
        low, high = found["lee_interval"]
        values.append(f"{found['lee_mean']:.3g} [{low:.3g}, {high:.3g}]")
        ratios.append(f"{found['ratio_to_control']:.2g}")
    return [f"`{name}`", accuracy, size, *values, *ratios]
