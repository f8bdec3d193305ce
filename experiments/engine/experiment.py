"""What an experiment is: the one type that the runner, the tables, the plots and the command line share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]
"""The complete, JSON-able configuration of one run: what is needed to run it again."""

Metrics = dict[str, Any]
"""JSON-able results of one run; keys carry the unit where there is one (``seconds_per_step``)."""

Progress = Callable[[int, int], None]
"""Called as ``progress(steps_done, steps_total)`` during a run."""


@dataclass(frozen=True)
class Column:
    """One metric of a table: its key in the record's ``metrics``, its header and how a number is printed."""

    key: str
    header: str
    format: str = ".3g"


@dataclass(frozen=True)
class Experiment:
    """A comparison of variants, repeated over seeds.

    Args:
        name: the name on the command line, e.g. ``modified-inertia``.
        summary: one line for ``softeq list``.
        variants: in the order of the table's rows.
        presets: seeds per preset, e.g. ``{"smoke": 1, "default": 3, "paper": 10}``.
        configure: ``(preset, variant, seed)`` to the complete configuration of that run.
        run: executes one configuration and returns its metrics; calls ``progress(done, total)`` on the way.
        columns: the table's columns, the headline metric first.
        published: per variant, the paper's number as printed, for the column beside ours.
        published_source: where those numbers come from, in one line.
        notes: lines printed under the table.
        levels: metrics whose mean is a line across the common figure, for what every variant is to be held against.
        plot: draws the experiment's own figure from its records to a path; ``None`` for the common one.
        grown: keys that the configuration gained since there were records, dotted where nested, with what they say of
            records without them: ``{"training.clip": 10.0}``. A new key without such a default parts old runs from new.
        group: a line that `softeq list` prints once, above the experiments that share it.
        protocol: the version of docs/protocol.md that its runs follow and name in their configurations; 0 for none.
        reference: the arm that the line under the table holds against every other.
    """

    name: str
    summary: str
    variants: tuple[str, ...]
    presets: Mapping[str, int]
    configure: Callable[[str, str, int], Config]
    run: Callable[[Config, Progress], Metrics]
    columns: tuple[Column, ...]
    published: Mapping[str, str] = field(default_factory=dict)
    published_source: str = ""
    notes: tuple[str, ...] = ()
    levels: tuple[Column, ...] = ()
    plot: Callable[[list[dict[str, Any]], Any], None] | None = None
    grown: Mapping[str, Any] = field(default_factory=dict)
    protocol: int = 0
    group: str = ""
    reference: str = "soft"
