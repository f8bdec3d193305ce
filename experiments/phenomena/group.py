"""The phenomena, in the order of docs/phenomena.md: what the registry asks, see `engine.registry.SOURCES`."""

from __future__ import annotations

from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.phenomena import (
    airline,
    benign,
    bound,
    connectivity,
    evidence,
    evidence_digits,
    guess_and_check,
    kernel,
    rates,
    structure,
    uncertainty,
    widths,
)

MODULES = (
    bound,
    evidence,
    evidence_digits,
    uncertainty,
    benign,
    widths,
    airline,
    kernel,
    connectivity,
    structure,
    guess_and_check,
    rates,
)
"""One for each phenomenon, with its ``EXPERIMENTS``."""
EXPERIMENTS: dict[str, Experiment] = {name: one for module in MODULES for name, one in module.EXPERIMENTS.items()}
