"""The audit's page: one HTML file that needs no network and no script. Every text of a record is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from softeq.experiments.audit.report.curves import curves
from softeq.experiments.audit.report.decibels import decibels
from softeq.experiments.audit.report.groups import AuditRecord, Group
from softeq.experiments.audit.report.potentials import potentials
from softeq.experiments.audit.report.ranking import ranking
from softeq.experiments.audit.report.sections import (
    figures,
    layerwise,
    maps,
    stencils,
)
from softeq.experiments.audit.report.tables import tables
from softeq.experiments.audit.report.verdict import control_words, verdicts

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1232px; background: #fff; color: #222;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 24px; margin: 8px 0; } h2 { font-size: 20px; margin: 40px 0 8px; border-top: 2px solid #222;
  padding-top: 12px; } h3 { font-size: 17px; margin: 28px 0 6px; } h4 { font-size: 15px; margin: 0 0 4px; }
p { margin: 6px 0; max-width: 76ch; } .quiet { color: #555; font-size: 13px; }
svg, img { max-width: 100%; } svg { height: auto; font-family: inherit; display: block; }
.flow { display: flex; flex-wrap: wrap; gap: 20px 12px; align-items: flex-start; } .flow > * { min-width: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0; }
dt { color: #555; } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; max-width: 620px; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #555; padding: 4px 0; } th, td { text-align: right; padding: 3px 5px;
  border-bottom: 1px solid #ddd; vertical-align: top; } th { font-weight: 600; }
th:first-child, .words th, .words td { text-align: left; } .words { max-width: 90ch; }
.words td, .words th, h3, h4, dd, li, p { overflow-wrap: anywhere; } .interval { color: #555; font-weight: 400; }
.model { flex: 1 1 480px; max-width: 590px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px 24px; }
.card { border: 1px solid #ddd; border-radius: 6px; padding: 12px 14px; }
.card ul { margin: 4px 0 0; padding-left: 18px; }
.card li { margin: 3px 0; } li.warning { color: #7A3E00; } .cards > table { align-self: start; }
figure { margin: 0; max-width: 100%; } .flow > figure { width: 372px; }
figcaption { font-size: 13px; color: #555; max-width: 60ch; }
summary { cursor: pointer; font-weight: 600; margin: 8px 0; }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; margin: 6px 0; }
ul.legend li { display: flex; align-items: center; gap: 5px; }
.maps { display: flex; flex-wrap: wrap; gap: 8px; margin: 6px 0 12px; } .maps figure { width: 104px; }
.maps img { width: 104px; height: auto; image-rendering: pixelated; border: 1px solid #ccc; display: block; }
@media (max-width: 560px) { table { font-size: 12px; } th, td { padding: 3px; }
  .model td:nth-child(6), .model th:nth-child(6) { display: none; } }  /* drawn in the section on stencils too */
.maps img.image { image-rendering: auto; } .maps figcaption { font-size: 12px; }
"""

_NORMS = {
    "mean_square": "the mean of (Lf)² over the output's entries (Eq. 4 of Gruver et al., 2023)",
    "mean_abs": "the mean of |Lf| over the output's entries (what the code of Gruver et al. computes)",
    "relative": "‖Lf‖² / ‖f‖²",
    "centred": "‖Lf‖² over the variance of f over the images, so that an offset common to all makes nothing look small",
}
_OUTPUTS = {
    "map": "a map, which should move with the image",
    "tokens": "tokens, which should move with the image",
    "vector": "a vector, taken as invariant",
    "probabilities": "softmax probabilities, taken as invariant",
    "logits": "raw outputs, taken as invariant",
}


_INTRODUCTION = (
    "<p>Does a network answer alike when its image is transformed? Real displacements say what happens in use. The Lie"
    " derivative Lf says how fast the output leaves its proper place when the image starts to move, and the local"
    " equivariance error (LEE) is its expected size: 0 for an equivariant network. A flat network has a small error"
    " too, so each is set beside the answer to changes of the image that are no motion, the control.</p>"
)


def html_text(
    groups: Sequence[Group],
    *,
    failures: Sequence[tuple[str, str]] = (),
    calculators: Sequence[AuditRecord] = (),
) -> str:
    """The whole page.

    Args:
        groups: see `experiments.audit.report.groups.group_records`; each gets its own chapter.
        failures: models of this run that have no record, with the reason.
        calculators: records of `experiments.audit.calculators`.
    """
    atoms = potentials(calculators)
    several = (
        f"<p><strong>{len(groups)} configurations</strong> are in these records. Each has its own chapter;"
        " numbers of different chapters are not comparable.</p>"
        if len(groups) > 1
        else ""
    )
    chapters = "".join(_chapter(group, i, len(groups)) for i, group in enumerate(groups, 1))
    empty = "" if groups or atoms else "<p>There are no records.</p>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>softeq audit</title><style>{_STYLE}</style></head>\n<body><main>"
        "<h1>Learned equivariance: an audit</h1>"
        f"{'' if atoms and not groups else _INTRODUCTION}{several}{_failures(failures)}{empty}{chapters}{atoms}"
        "</main></body></html>\n"
    )


def _failures(failures: Sequence[tuple[str, str]]) -> str:
    if not failures:
        return ""
    rows = "".join(f'<tr><th scope="row">{escape(m)}</th><td>{escape(reason)}</td></tr>' for m, reason in failures)
    head = '<thead><tr><th scope="col">model</th><th scope="col">reason</th></tr></thead>'
    return f'<table class="words"><caption>Models that failed in this run</caption>{head}<tbody>{rows}</tbody></table>'


def _chapter(group: Group, index: int, total: int) -> str:
    settings = group.settings
    title = f"{settings.get('norm', '?')} of {settings.get('output', '?')}, stencil {settings.get('stencil', '?')}"
    which = f" (configuration {index} of {total})" if total > 1 else ""
    measured = {
        label: {flow: r for flow, r in flows.items() if "not_measurable" not in r["metrics"]}
        for label, flows in group.models.items()
    }
    measured = {label: flows for label, flows in measured.items() if flows}
    shown = (
        verdicts(settings, measured)
        + ranking(settings, measured)
        + curves(measured)
        + decibels(measured)
        + figures(settings, measured)
        + layerwise(measured)
        + maps(measured)
        + tables(group, measured)
        + stencils(settings, measured)
        if measured
        else ""
    )
    return (
        f"<h2>{escape(title + which)}</h2>{_summary(group)}{shown}"
        + _not_measurable(group)
        + _skipped(group)
        + _settings(group)
        + _provenance(group)
    )


def _summary(group: Group) -> str:
    s = group.settings
    images = f"{s.get('count')} image{'s' * (s.get('count') != 1)}"
    words = f"{len(group.models)} network{'s' * (len(group.models) != 1)}, n = {images}"
    return f'<p class="quiet">{escape(words)} ({escape(str(s.get("images")))}).</p>'


def _settings(group: Group) -> str:
    s = dict(group.settings)
    norm, output = s.pop("norm", None), s.pop("output", None)
    count, images = s.pop("count", None), s.pop("images", None)
    stencil, boundary, margin = s.pop("stencil", None), s.pop("boundary", None), s.pop("margin", 0)
    rows = [
        ("norm", f"{norm}: {_NORMS.get(str(norm), '')}"),
        ("control", control_words({"control": s.pop("control", None)})),
        ("output space", f"{output}: {_OUTPUTS.get(str(output), '')}"),
        ("stencil", f"{stencil}, boundary {boundary}, margin {margin} pixels"),
        ("images", f"{images}, n = {count}, hash {s.pop('source_hash', '?')}"),
        *((key.replace("_", " "), str(value)) for key, value in s.items()),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    return f"<details><summary>How it was measured</summary><dl>{listed}</dl></details>"


def _not_measurable(group: Group) -> str:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for label, flows in group.models.items():
        for flow, record in flows.items():
            for what, why in _reasons(record["metrics"]):
                reasons.setdefault((label, what, why), []).append(flow)
    if not reasons:
        return "<h3>Not measurable</h3><p>Everything that was asked for could be measured.</p>"
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td>{escape(what)}</td><td>{escape(", ".join(flows))}</td>'
        f"<td>{escape(why)}</td></tr>"
        for (label, what, why), flows in reasons.items()
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("model", "what", "flows", "why"))
    return f'<h3>Not measurable</h3><table class="words"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _reasons(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("LEE", str(m["not_measurable"]))] if "not_measurable" in m else []
    for name, entry in (m.get("stencils") or {}).items():
        found += [(f"stencil {name}", str(entry["not_measurable"]))] if "not_measurable" in entry else []
    for key, what in (("layerwise", "layer by layer"), ("map", "map"), ("directions", "directions")):
        entry = m.get(key) or {}
        found += [(what, str(entry["not_measurable"]))] if "not_measurable" in entry else []
    return found


def _skipped(group: Group) -> str:
    lost = dict.fromkeys(
        (str(file), str(why))
        for flows in group.models.values()
        for record in flows.values()
        for file, why in record["metrics"].get("skipped") or []
    )
    if not lost:
        return ""
    items = "".join(f"<li>{escape(file)}: {escape(why)}</li>" for file, why in lost)
    return f"<h3>Images left out</h3><ul>{items}</ul>"


def _provenance(group: Group) -> str:
    told: dict[str, None] = {}
    for flows in group.models.values():
        for record in flows.values():
            p = record.get("provenance") or {}
            commit = (
                f"commit {str(p['commit'])[:10]}{' (changed)' if p.get('dirty') else ''}" if p.get("commit") else ""
            )
            parts = (f"softeq {p.get('softeq')}", commit, f"torch {p.get('torch')}", str(p.get("device")))
            told[", ".join(part for part in parts if part)] = None
    dates = sorted(str((r.get("provenance") or {}).get("utc")) for f in group.models.values() for r in f.values())
    return f'<p class="quiet">Made by {escape("; ".join(told))}; {escape(dates[0])} to {escape(dates[-1])}.</p>'
