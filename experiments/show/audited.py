"""Numbers of an audit's records, for claims: of one network, and of two compared image by image.

``what`` is a metric (``ratio_to_control``, ``lee_mean``, ...), or one of a curve at a displacement, ``centred@8``,
``change@1``, ``kept@1``. Image by image there are ``control`` (LEE over its control), ``lee``, and ``relative`` and
``centred`` of the curve at a displacement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from softeq.errors import SofteqError
from softeq.experiments.engine.record import Record
from softeq.experiments.show.paired import Paired, holm, paired

_SHIFTED = ("control", "lee", "centred@.1", "centred@1", "centred@8", "centred@32")
COMPARED: Mapping[str, tuple[str, ...]] = {
    "translation_x": _SHIFTED,
    "translation_y": _SHIFTED,
    "rotation": ("control", "centred@10", "centred@90"),
    "scale": ("control", "centred@.9", "centred@1.11"),
}
"""What is compared of two networks, fixed beforehand: p-values are adjusted for all of it."""


def value(records: Sequence[Record], model: str, flow: str, what: str) -> float:
    """One number.

    Raises:
        SofteqError: the records do not hold it.
    """
    metrics, (name, _, step) = _metrics(records, model, flow), what.partition("@")
    found = (_row(metrics, step) if step else metrics).get(name)
    if not isinstance(found, int | float) or not math.isfinite(found):
        raise SofteqError(f"audit: {model}/{flow} has no number {what}")
    return float(found)


def per_image(records: Sequence[Record], model: str, flow: str, what: str) -> dict[int, float]:
    """Numbers by image, those that are known.

    Raises:
        SofteqError: the records do not hold them.
    """
    metrics, (name, _, step) = _metrics(records, model, flow), what.partition("@")
    if what == "control":
        errors, controls = metrics.get("per_sample") or [], metrics.get("control_per_sample") or []
        found = [None if a is None or not b else a / b for a, b in zip(errors, controls, strict=True)]
    elif what == "lee":
        found = metrics.get("per_sample") or []
    else:
        found = (_row(metrics, step) if step else metrics).get(f"{name}_per_sample") or []
    if not found:
        raise SofteqError(f"audit: {model}/{flow} has no {what} image by image")
    return {k: float(v) for k, v in enumerate(found) if v is not None}


def compared(records: Sequence[Record], a: str, b: str, flow: str, what: str) -> Paired:
    """Network a over network b, paired image by image; p by Holm over all that is compared of two networks.

    That is `COMPARED`, as far as the records hold it of both, whatever a text may choose to tell of it.

    Raises:
        SofteqError: ``what`` is not compared, or not recorded.
    """
    if what not in COMPARED.get(flow, ()):
        raise SofteqError(
            f"audit: {what} along {flow} is none of what is compared: {', '.join(COMPARED.get(flow, ()))}"
        )
    found = {(flow, what): _ratio(records, a, b, flow, what)}
    for other, names in COMPARED.items():
        for name in names:
            with suppress(SofteqError):
                found.setdefault((other, name), _ratio(records, a, b, other, name))
    return holm(list(found.values()))[0]


def _ratio(records: Sequence[Record], a: str, b: str, flow: str, what: str) -> Paired:
    own, other = (per_image(records, model, flow, what) for model in (a, b))
    return paired(own, other, "ratio")


def share(records: Sequence[Record], model: str, flow: str, module: str) -> Paired:
    """A module's share of the squared error with its interval over images; `Paired` for its numbers' sake.

    Raises:
        SofteqError: the records do not hold it.
    """
    metrics = _metrics(records, model, flow)
    split = metrics.get("layerwise") or {}
    shares = split.get("shares") or []
    held = zip(shares, split.get("intervals") or [(None, None)] * len(shares), strict=True)
    found = [(value, ends) for (name, value), ends in held if name == module and None not in ends]
    if not found:
        raise SofteqError(f"audit: {model}/{flow} has no share of {module} with an interval")
    value, (low, high) = found[0]
    return Paired("ratio", value, low, high, math.nan, len(metrics.get("per_sample") or []))


def _metrics(records: Sequence[Record], model: str, flow: str) -> Mapping[str, Any]:
    held = [r["metrics"] for r in records if (r["config"].get("model"), r["config"].get("flow")) == (model, flow)]
    if not held:
        raise SofteqError(f"audit: no record of {model}/{flow}")
    return held[-1]


def _row(metrics: Mapping[str, Any], step: str) -> Mapping[str, Any]:
    rows = (metrics.get("curve") or {}).get("rows") or []
    return next((row for row in rows if math.isclose(row["step"], float(step))), {})
