"""The exception of what cannot be measured."""

from __future__ import annotations

from softeq.errors import SofteqError


class NotMeasurable(SofteqError):
    """The quantity has no meaning, or cannot be computed, for this model or output; it is never reported as 0.

    The message says why and what to declare or change.
    """
