"""The phenomena, in the order of docs/phenomena.md: what the registry asks, see `engine.registry.SOURCES`."""

from __future__ import annotations

from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.phenomena import bound, evidence

MODULES = (bound, evidence)
"""One for each phenomenon, with its ``EXPERIMENTS``."""
EXPERIMENTS: dict[str, Experiment] = {name: one for module in MODULES for name, one in module.EXPERIMENTS.items()}
