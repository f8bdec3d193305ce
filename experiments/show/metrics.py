"""One metric of one record as a number: what tables, comparisons and figures all begin with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def scalar(metrics: Mapping[str, Any], key: str) -> float | None:
    """A metric as a number: ``weight_defect`` as its mean over layers; None where it is absent or no number."""
    value = metrics.get(key)
    if key == "weight_defect" and isinstance(value, Mapping):
        layers = [float(v) for v in value.values() if _is_number(v)]
        return math.fsum(layers) / len(layers) if layers else None
    return float(value) if value is not None and _is_number(value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
