"""Experiments by name. The modules that define them are imported on the first question, not before."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence

from softeq.errors import SofteqValueError
from softeq.experiments.engine.experiment import Experiment

SOURCES: tuple[str, ...] = (
    "softeq.experiments.physics.comparisons",
    "softeq.experiments.images.architectures",
    "softeq.experiments.images.dial",
    "softeq.experiments.images.cifar10",
    "softeq.experiments.tabular.uci",
    "softeq.experiments.images.finetune",
    "softeq.experiments.molecules.field",
    "softeq.experiments.molecules.sets",
)
"""The modules that are asked: each has ``EXPERIMENTS``, a mapping from name to `Experiment`."""


def all(sources: Sequence[str] | None = None) -> dict[str, Experiment]:
    """Every known experiment by name; ``sources`` are module names, `SOURCES` by default."""
    found: dict[str, Experiment] = {}
    for source in SOURCES if sources is None else sources:
        found |= importlib.import_module(source).EXPERIMENTS
    return found


def get(name: str, sources: Sequence[str] | None = None) -> Experiment:
    """The experiment of that name.

    Raises:
        SofteqValueError: for an unknown name, with the known ones and the closest.
    """
    known = all(sources)
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def unknown(what: str, name: str, known: Iterable[str]) -> SofteqValueError:
    """The error for a name that is none of the known ones: it lists them and suggests the closest."""
    names = list(known)
    closest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {closest[0]!r}?" if closest else ""
    return SofteqValueError(f"unknown {what} {name!r}: expected one of {', '.join(names)}{hint}")
