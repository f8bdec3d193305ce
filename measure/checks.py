"""Checks of options, one clear line each."""

from __future__ import annotations

from typing import Any

from softeq.errors import SofteqTypeError, SofteqValueError


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value`, or an error naming the option: no whole number (a bool is none), or out of [least, most].

    Raises:
        SofteqTypeError, SofteqValueError: as said.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise SofteqTypeError(f"{name}: expected a whole number, got {value!r}")
    number = int(value)
    if number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"a number from {least} to {most}"
        raise SofteqValueError(f"{name}: expected {limits}, got {number}")
    return number
