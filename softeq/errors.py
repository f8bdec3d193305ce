"""The package's own exceptions and its warning, so that a caller can tell a user's mistake from a defect."""

from __future__ import annotations


class SofteqError(Exception):
    """Base of every error that softeq raises on purpose. The message says what was expected and what came."""


class SofteqValueError(SofteqError, ValueError):
    """An argument has the right type and a wrong value."""


class SofteqTypeError(SofteqError, TypeError):
    """An argument has the wrong type."""


class MissingExtraError(SofteqError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class SofteqWarning(UserWarning):
    """Something was ignored or replaced that the user should know of."""
