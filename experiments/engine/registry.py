"""Experiments by name. The modules that define them are imported on the first question, not before."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine.experiment import Experiment

VARIABLE = "SOFTEQ_EXPERIMENTS"
"""The environment variable that names modules with a user's own experiments, as ``mine.comparisons,mine.others``."""

SOURCES: tuple[str, ...] = (
    "softeq.experiments.physics.comparisons",
    "softeq.experiments.images.architectures",
    "softeq.experiments.images.dial",
    "softeq.experiments.images.cifar10",
    "softeq.experiments.tabular.uci",
    "softeq.experiments.images.finetune",
    "softeq.experiments.molecules.field",
    "softeq.experiments.molecules.sets",
    "softeq.experiments.phenomena.group",
)
"""The modules that are asked: each has ``EXPERIMENTS``, a mapping from name to `Experiment`, and may have
``COMPARISONS``, from name to `training.comparison.Comparison`. Those of `VARIABLE` are asked after them."""


TABLES: Mapping[str, str] = {"audit": "softeq.experiments.audit.table:audit_table"}
"""What makes the table of records that are no experiment's (an audit has models and flows instead of variants and
seeds), ``module:function`` by the records' name; see `table`."""


def sources() -> tuple[str, ...]:
    """`SOURCES`, and what the environment adds."""
    own = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return (*SOURCES, *filter(None, own))


def _modules(names: Sequence[str] | None) -> list[ModuleType]:
    return [_imported(name) for name in (sources() if names is None else names)]


def _imported(name: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name in SOURCES or error.name is None or not name.startswith(error.name):
            raise
        raise SofteqError(f"{VARIABLE}: there is no module {name!r} on python's path") from error
    if not hasattr(module, "EXPERIMENTS"):
        raise SofteqError(f"{name}: expected a module with EXPERIMENTS, a mapping from name to Experiment")
    return module


def all(sources: Sequence[str] | None = None) -> dict[str, Experiment]:
    """Every known experiment by name; ``sources`` are module names, those of `sources` by default.

    Raises:
        SofteqError: a module of the environment that is not there, or has no experiments.
    """
    found: dict[str, Experiment] = {}
    for module in _modules(sources):
        found |= module.EXPERIMENTS
    return found


def comparisons(sources: Sequence[str] | None = None) -> dict[str, Any]:
    """Every experiment that is a `training.comparison.Comparison`, by name; see `all`."""
    found: dict[str, Any] = {}
    for module in _modules(sources):
        found |= getattr(module, "COMPARISONS", {})
    return found


def comparison(name: str, sources: Sequence[str] | None = None) -> Any:
    """The comparison of that name.

    Raises:
        SofteqValueError: for an unknown name, with the known ones and the closest.
    """
    known = comparisons(sources)
    if name not in known:
        raise unknown("comparison", name, known)
    return known[name]


def get(name: str, sources: Sequence[str] | None = None) -> Experiment:
    """The experiment of that name.

    Raises:
        SofteqValueError: for an unknown name, with the known ones and the closest.
    """
    known = all(sources)
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def table(name: str) -> Callable[[Sequence[Mapping[str, Any]], str], str]:
    """The function of records, and where they are from, to the Markdown table; ``name`` is a key of `TABLES`."""
    module, _, function = TABLES[name].partition(":")
    made: Callable[[Sequence[Mapping[str, Any]], str], str] = getattr(importlib.import_module(module), function)
    return made


def unknown(what: str, name: str, known: Iterable[str]) -> SofteqValueError:
    """The error for a name that is none of the known ones: it lists them and suggests the closest."""
    names = list(known)
    closest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {closest[0]!r}?" if closest else ""
    return SofteqValueError(f"unknown {what} {name!r}: expected one of {', '.join(names)}{hint}")
