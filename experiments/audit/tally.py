"""What `display` shows of an audit: a line for each flow, and where there are no bars how much is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from softeq.experiments.audit.recorder import AuditEvent
from softeq.experiments.show.render import format_number

QUIET_SECONDS = 20.0
"""Without a terminal, how long it stays silent before a line says how much is left."""


class AuditTally:
    """Counts the models that are through, and words the lines.

    Args:
        total: models.
        norm: of the headline number.
        bars: whether bars show how much is left; lines do otherwise.
    """

    title = "all models"

    def __init__(self, total: int, norm: str, *, bars: bool) -> None:
        self.total, self.norm, self.bars = total, norm, bars
        self.recorded = 0
        self.began = self.spoke = time.monotonic()

    def take(self, event: AuditEvent) -> str | None:
        """Count an event; the line to print, if it is worth one."""
        line = None
        if event.kind == "done":
            self.recorded += 1
        elif event.kind == "wait":
            line = f"{event.model}: another audit in this folder is at it, waiting for its records"
        elif event.kind == "loaded":
            line = f"{event.model}: {event.reason}"
        elif event.kind == "record":
            line = f"{event.model}/{event.flow}: {self._result(event)}, {event.seconds:.1f} s"
        elif event.kind == "step" and not self.bars and time.monotonic() - self.spoke >= QUIET_SECONDS:
            line = f"{event.model}: {event.done / max(event.total, 1):.0%}, {self._left(event)}"
        if line is not None:
            self.spoke = time.monotonic()
        return line

    def _result(self, event: AuditEvent) -> str:
        if "not_measurable" in event.metrics:
            return f"not measurable: {event.metrics['not_measurable']}"
        value, ratio = (event.metrics.get(key) for key in ("lee_mean", "ratio_to_control"))
        shown = [("nothing measured" if v is None else format_number(float(v), ".3g")) for v in (value, ratio)]
        followed = event.metrics.get("decibels") or {}
        told = "".join(f", {kind} {_decibels(one)}" for kind, one in followed.items() if "not_measurable" not in one)
        return f"LEE ({self.norm}) {shown[0]}, {shown[1]} of the control{told}"

    def _left(self, event: AuditEvent) -> str:
        share = (self.recorded + event.done / max(event.total, 1)) / self.total
        if share <= 0:
            return "no estimate of the time left yet"
        seconds = (time.monotonic() - self.began) * (1 - share) / share
        return f"about {seconds / 60:.0f} min left for all models" if seconds >= 90 else f"about {seconds:.0f} s left"

    def key(self, event: AuditEvent) -> str:
        """The model."""
        return event.model

    def label(self, event: AuditEvent) -> str:
        """The model's name."""
        return event.model


def _decibels(found: Mapping[str, Any]) -> str:
    return "exact" if found["value"] is None else f"{found['value']:.1f} dB"
