"""Records as the report can read them: what has another type than it should, written by hand, is left out and told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _real(value: Any) -> bool:
    """A number, one of the floats that are not finite, or none."""
    return value is None or _number(value) or (isinstance(value, float) and not math.isfinite(value))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list(of: Check, length: int | None = None) -> Check:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(of, value))


def _pairs(second: Check) -> Check:
    return _list(lambda value: isinstance(value, list) and len(value) == 2 and _text(value[0]) and second(value[1]))


def _table(**fields: Check) -> Check:
    """A mapping whose entries of these names are right; others are nobody's concern."""
    return lambda value: (
        isinstance(value, dict) and all(check(value[name]) for name, check in fields.items() if name in value)
    )


def _each(of: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


def _or_none(of: Check) -> Check:
    return lambda value: value is None or of(value)


_REASON = {"not_measurable": _text}
_INTERVAL = _or_none(_list(_or_none(_number), 2))
_ROW = _table(
    step=_number,
    relative=_or_none(_number),
    relative_interval=_INTERVAL,
    relative_per_sample=_list(_or_none(_number)),
    centred=_or_none(_number),
    centred_interval=_INTERVAL,
    centred_per_sample=_list(_or_none(_number)),
    compared=_number,
    kept=_count,
    change=_or_none(_number),
    change_interval=_INTERVAL,
    loss_share=_or_none(_number),
    loss_share_interval=_INTERVAL,
)


def _curve(value: Any) -> bool:
    rows_have_steps = _table(**_REASON, unit=_text, images=_count, rows=_list(_ROW))
    return rows_have_steps(value) and all("step" in row for row in value.get("rows", []))


def _split(value: Any) -> bool:
    """Where there are intervals, there is one for each share."""
    parts = {"shares": _pairs(_real), "intervals": _list(_INTERVAL), "gap": _real, "not_attributable": _pairs(_text)}
    if not _table(**_REASON, **parts)(value):
        return False
    return len(value.get("intervals") or []) in (0, len(value.get("shares") or []))


_METRICS: Mapping[str, Check] = {
    "unit": _text,
    "control": _text,
    **dict.fromkeys(("lee_mean", "lee_median", "control_mean", "ratio_to_control"), _real),
    **dict.fromkeys(("lee_interval", "ratio_interval"), _or_none(_list(_real, 2))),
    "lee_quantiles": _each(_real),
    "other_norms": _each(_each(_real)),
    "missing": _count,
    "per_sample": _list(_real),
    "control_per_sample": _list(_real),
    "relative_per_sample": _list(_or_none(_number)),
    "top_slope_per_sample": _list(_or_none(_number)),
    "curve": _or_none(_curve),
    "decibels": _or_none(
        _each(_table(**_REASON, value=_or_none(_number), interval=_INTERVAL, peak=_number, error=_number))
    ),
    "accuracy": _real,
    "labelled": _count,
    "parameters": _number,
    "skipped": _pairs(_text),
    "choices": _list(_text),
    "stencils": _each(_table(**_REASON, lee_mean=_real)),
    "directions": _table(**_REASON, most=_table(text=_text), least=_table(text=_text)),
    "layerwise": _or_none(_split),
    "map": _table(**_REASON, height=_count, width=_count, mean=_text, first=_text, mean_peak=_real, first_peak=_real),
    "image": _text,
    "not_measurable": _text,
}
_CONFIG: Mapping[str, Check] = {
    "image_size": _list(_number),
    "mean": _list(_number),
    "std": _list(_number),
    "count": _count,
    "limit": _count,
    "classes": _or_none(_count),
}


def checked(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A record whose known entries have their types, and the names of those that had another and were left out."""
    wrong: list[str] = []
    parts = {}
    for part, checks in (("config", _CONFIG), ("metrics", _METRICS)):
        held = record.get(part)
        if not isinstance(held, Mapping):
            held = {}
            wrong.append(part)
        bad = [name for name, check in checks.items() if name in held and not check(held[name])]
        wrong += bad
        parts[part] = {name: value for name, value in held.items() if name not in bad}
    told = record.get("provenance")
    return {**record, **parts, "provenance": told if isinstance(told, Mapping) else {}}, wrong
