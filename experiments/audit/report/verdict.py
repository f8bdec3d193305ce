"""What an audit found, in sentences that are computed from the records, and what to be warned of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from softeq.experiments.audit.report.drawing import number
from softeq.experiments.audit.report.groups import AuditRecord

FEW = 50
"""Images below which the intervals are wide."""
_CONTROLS = {
    "samples": "the motions of other images",
    "phase": "changes with the image's own spectrum",
    "noise": "white noise of the same size",
}
_SHIFTS = ("translation_x", "translation_y")
_OVERSTATED = 2.0


def verdicts(settings: Mapping[str, Any], measured: Mapping[str, Mapping[str, AuditRecord]]) -> str:
    """A card for each model: what it does under real motions, where that arises, and warnings."""
    cards = []
    for label, flows in measured.items():
        items = "".join(f"<li>{escape(text)}</li>" for text in sentences(flows, settings))
        cautions = "".join(f'<li class="warning">{escape(text)}</li>' for text in warnings_of(flows, settings))
        cards.append(f'<section class="card"><h4>{escape(label)}</h4><ul>{items}{cautions}</ul></section>')
    common = "".join(f'<li class="warning">{escape(text)}</li>' for text in common_warnings(settings, measured))
    shared = f"<ul>{common}</ul>" if common else ""
    return f'<h3>What was found</h3>{shared}<div class="cards">{"".join(cards)}</div>'


def sentences(flows: Mapping[str, AuditRecord], settings: Mapping[str, Any]) -> list[str]:
    """The findings of one model, most important first."""
    metrics = {flow: record["metrics"] for flow, record in flows.items()}
    found = [
        _moved("Moved by one pixel", metrics, [(flow, 1.0) for flow in _SHIFTS]),
        _moved("Moved by eight pixels", metrics, [(flow, 8.0) for flow in _SHIFTS]),
        _moved("Rotated by 10 degrees", metrics, [("rotation", -10.0), ("rotation", 10.0)]),
        _moved("A tenth smaller or larger", metrics, [("scale", 0.9), ("scale", 1.11)]),
        _moved("A tenth of the range brighter or darker", metrics, [("brightness", -0.1), ("brightness", 0.1)]),
        _arises(metrics),
        _against_control(metrics, control_words(settings)),
        _slope(metrics),
    ]
    return [text for text in found if text]


def control_words(settings: Mapping[str, Any]) -> str:
    """What the control of a chapter is."""
    kind = str(settings.get("control") or "noise")
    return _CONTROLS.get(kind, kind)


def _rows(metrics: Mapping[str, Mapping[str, Any]], wanted: Sequence[tuple[str, float]]) -> list[Mapping[str, Any]]:
    rows = []
    for flow, step in wanted:
        held = ((metrics.get(flow) or {}).get("curve") or {}).get("rows") or []
        rows += [row for row in held if math.isclose(row["step"], step)]
    return rows


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _moved(how: str, metrics: Mapping[str, Mapping[str, Any]], wanted: Sequence[tuple[str, float]]) -> str:
    rows = _rows(metrics, wanted)
    if not rows:
        return ""
    change = _mean([row.get("change") for row in rows])
    kept = [row["kept"] for row in rows if "kept" in row]
    if change is not None and kept:
        images = next(m["curve"]["images"] for m in metrics.values() if (m.get("curve") or {}).get("rows"))
        total = images * len(kept)
        share = _mean([row.get("loss_share") for row in rows])
        cost = "" if share is None else f"; the difference costs {100 * share:.2g} % of the loss"
        return (
            f"{how}, an image changes the probability of its class by {number(change)} on average, and"
            f" {sum(kept)} of {total} decisions stand{cost}."
        )
    relative = _mean([row.get("relative") for row in rows])
    return "" if relative is None else f"{how}, an image changes the output by {100 * relative:.2g} % of its size."


def _arises(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The part of the network that has most of the error under shifts."""
    totals: dict[str, float] = {}
    count = 0
    for flow in _SHIFTS:
        shares = ((metrics.get(flow) or {}).get("layerwise") or {}).get("shares") or []
        count += bool(shares)
        around = wrapped([str(name) for name, _ in shares])
        for name, share in shares:
            inside = str(name).startswith(around)
            part = around + stage(str(name).removeprefix(around)) if inside else stage(str(name))
            totals[part] = totals.get(part, 0.0) + float(share or 0.0)
    if not count:
        return ""
    part, share = max(totals.items(), key=lambda pair: pair[1])
    share /= count
    if share > 1.005:
        return f"The error under shifts arises in {part} ({100 * share:.0f} % of what is left: others take some away)."
    most = "Most" if share > 0.5 else "The largest part"
    return f"{most} of the error under shifts arises in {part} ({100 * share:.0f} % of it)."


def wrapped(names: Sequence[str]) -> str:
    """What the paths of all modules have before their own parts, as ``model.backbone.``; it says nothing of where."""
    paths = [name.split(".") for name in names if ":" not in name and name != "the model"]
    depth = 0
    while paths and all(len(path) > depth + 1 for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    return "".join(f"{part}." for part in paths[0][:depth]) if depth else ""


def stage(name: str) -> str:
    """A module's part of the network: the first word of its path, with its number where it is one of several."""
    path = name.partition(":")[0]
    if path == "the model":
        return "what it computes between its modules" if ":" in name else path
    parts = path.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[1].isdecimal() else parts[0]


def _against_control(metrics: Mapping[str, Mapping[str, Any]], control: str) -> str:
    known = [metrics[f] for f in _SHIFTS if f in metrics and metrics[f].get("ratio_to_control") is not None]
    if not known:
        return ""
    ratio = math.exp(sum(math.log(max(float(m["ratio_to_control"]), 1e-300)) for m in known) / len(known))
    ends = [m.get("ratio_interval") or (None, None) for m in known]
    above_one = any(high is None or float(high) >= 1 for _, high in ends)
    if above_one and ratio > 0.5:
        words = "it is no calmer under shifts than under any change of that size: smooth at best, not equivariant"
    elif ratio > 0.5:
        words = "it is hardly calmer under shifts than under any change of that size"
    elif ratio > 0.1:
        words = "it has learned part of the symmetry"
    else:
        words = "it has learned most of the symmetry"
    return f"Under shifts the error is {number(ratio)} of the answer to {control}: {words}."


def _slope(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the derivative at 0 says what a whole pixel does."""
    rows = [r for r in _rows(metrics, [(flow, 1.0) for flow in _SHIFTS]) if r.get("change") is not None]
    at_zero = [_mean(metrics[flow].get("top_slope_per_sample") or []) for flow in _SHIFTS if flow in metrics]
    slope, change = _mean([v for v in at_zero if v is not None]), _mean([row["change"] for row in rows])
    if not slope or not change or slope / change < _OVERSTATED:
        return ""
    return (
        f"The slope at 0 ({number(slope)} per pixel) overstates whole pixels {number(slope / change)} times: judge by"
        " the curve."
    )


def warnings_of(flows: Mapping[str, AuditRecord], settings: Mapping[str, Any]) -> list[str]:
    """What makes one model's numbers mean less than they seem to."""
    record = next(iter(flows.values()))
    m, config = record["metrics"], record["config"]
    found = []
    if untrained(config):
        found.append("Its weights are random: the numbers say nothing of what it would learn.")
    elif str(config.get("weights")) == "as the factory made it":
        found.append("Its weights are as its factory made them: nothing here shows that they are trained.")
    accuracy, labelled, classes = m.get("accuracy"), m.get("labelled") or 0, config.get("classes")
    if accuracy is not None and labelled and isinstance(classes, int) and classes > 1:
        chance = 1 / classes
        if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / labelled):
            found.append(f"Its accuracy ({100 * accuracy:.0f} % on {labelled} images) is that of guessing.")
    if settings.get("output") == "logits" and classes is None:
        found.append(
            "It has no class head: its features have another offset and size than class logits, so compare ratios to"
            " the control or centred numbers, not relative ones."
        )
    missing = max((record["metrics"].get("missing") or 0) for record in flows.values())
    if missing:
        found.append(f"{missing} of the images could not be measured.")
    return [*found, *(f"Chosen for you: {text}." for text in m.get("choices") or [])]


def common_warnings(settings: Mapping[str, Any], measured: Mapping[str, Mapping[str, AuditRecord]]) -> list[str]:
    """What concerns all models of a chapter."""
    found = []
    count = settings.get("count")
    if count == 1:
        found.append("It is one image: nothing is known of others, and numbers have no intervals.")
    elif isinstance(count, int) and count < FEW:
        found.append(f"{count} images are few: read the intervals, not the digits.")
    if settings.get("images") == "noise":
        found.append("The images are noise, on which a network was not trained: real ones may tell another story.")
    heads = {next(iter(f.values()))["config"].get("classes") is None for f in measured.values()}
    if settings.get("output") == "logits" and len(heads) > 1:
        found.append("Class logits stand beside features here: relative numbers of the two are not comparable.")
    return found


def untrained(config: Mapping[str, Any]) -> bool:
    """Whether a model's weights are known to be random."""
    return str(config.get("weights")) == "random"
