"""What an audit tells while it works, what became of it, and the records of one model as they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.audit.model import measure_model
from softeq.experiments.audit.report.groups import EXPERIMENT
from softeq.experiments.audit.settings import Settings
from softeq.experiments.engine import provenance, record
from softeq.measure.errors import NotMeasurable
from softeq.measure.loading.images import Images
from softeq.measure.loading.sources import Model

PRESET = "audit"
"""What the records have in the field that is the preset of other experiments."""
STEP_INTERVAL = 0.1
"""Seconds between two ``step`` events."""


@dataclass(frozen=True)
class AuditEvent:
    """What an audit tells its caller.

    For each model ``start``, or ``wait`` while another audit in the same folder is at it; ``loaded`` with what was
    chosen for the user as ``reason``; ``step`` with ``done`` of ``total``; ``record`` for each flow with the metrics;
    ``skip`` for each flow that was recorded before; at last ``done``, with the ``reason`` if the model failed.
    """

    kind: Literal["start", "wait", "loaded", "step", "record", "skip", "done"]
    model: str
    flow: str = ""
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


OnEvent = Callable[[AuditEvent], None]


@dataclass
class Outcome:
    """What became of an audit.

    Attributes:
        recorded: variants recorded now.
        held: variants that were recorded before.
        failures: model and reason; of these, ``mistakes`` are models that could not be loaded, or not so be asked.
        not_measurable: variants recorded, now or before, as not measurable.
    """

    recorded: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    mistakes: int = 0
    not_measurable: list[str] = field(default_factory=list)

    @property
    def failed_models(self) -> list[str]:
        """Models that failed or of which some flow is not measurable, each once."""
        lost = [variant.rpartition("/")[0] for variant in self.not_measurable]
        return list(dict.fromkeys([*(model for model, _ in self.failures), *lost]))

    @property
    def exit_code(self) -> int:
        """0; 2 when nothing but mistakes came of it; 1 when some model failed or could not be measured."""
        if self.failures and not (self.recorded or self.held) and self.mistakes == len(self.failures):
            return 2
        return 1 if self.failed_models else 0


@dataclass
class Recorder:
    """Measures the flows of one model and appends each as it is done."""

    name: str
    config: Mapping[str, Any]
    settings: Settings
    path: Path
    outcome: Outcome
    on_event: OnEvent
    told: float = -STEP_INTERVAL
    began: float = 0.0

    def measure(self, model: Model, images: Images, todo: Sequence[str]) -> str | None:
        """Measure the flows ``todo``; the reason if the model failed."""
        self.began = time.perf_counter()
        found = measure_model(model, images, self.settings, todo, self.tell)
        done: set[str] = set()
        while True:
            try:
                flow, metrics = next(found)
            except StopIteration:
                return None
            except NotMeasurable as error:
                for flow in todo:
                    if flow not in done:
                        self.append(flow, {"not_measurable": str(error)})
                return None
            except SofteqError as error:
                self.outcome.mistakes += isinstance(error, SofteqValueError)
                return str(error)
            except SystemExit as error:
                return f"the network ends the program (sys.exit({error.code!r}))"
            except Exception as error:  # the model is the user's, and the others shall go on
                return f"{type(error).__name__}: {error}"
            self.append(flow, metrics)
            done.add(flow)

    def tell(self, done: int, total: int) -> None:
        """Pass on the work done, not too often."""
        now = time.monotonic()
        if now - self.told >= STEP_INTERVAL or done >= total:
            self.told = now
            self.on_event(AuditEvent("step", self.name, done=done, total=total))

    def append(self, flow: str, metrics: Mapping[str, Any]) -> None:
        """Outside of every ``except``: a full disk ends the whole audit."""
        seconds, self.began = time.perf_counter() - self.began, time.perf_counter()
        config = {**self.config, "flow": flow}
        where = provenance.of_run(config | {"device": str(self.settings.torch_device)}, seconds)
        variant = f"{self.name}/{flow}"
        line = record.make(
            EXPERIMENT, PRESET, variant, self.settings.seed, config=config, metrics=metrics, provenance=where
        )
        record.append(self.path, line)
        self.outcome.recorded.append(variant)
        if "not_measurable" in metrics:
            self.outcome.not_measurable.append(variant)
        self.on_event(AuditEvent("record", self.name, flow, seconds=seconds, metrics=metrics))
