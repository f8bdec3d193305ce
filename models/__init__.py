"""Whole networks out of softeq layers; ``models.build(name, **config)`` makes one by name."""

from __future__ import annotations

from typing import Any

if __name__ == "models":  # imported by its folder's name, from a checkout
    from softeq._names import same_modules

    same_modules(__name__)

__all__ = ["build", "matched"]


def __getattr__(name: str) -> Any:
    """`build` and `matched`, imported on first use, so that one network does not import all."""
    if name == "build":
        from softeq.models.images import build

        return build
    if name == "matched":
        from softeq.models.matching import matched

        return matched
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
