"""`softeq audit`: models one after another, a record for each flow as it is done, and a report over all of them.

What a folder holds with an equal configuration is not measured again, so that the same command resumes. A model that
fails does not stop the others.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softeq.errors import SofteqError
from softeq.experiments.audit.model import measure_model
from softeq.experiments.audit.report.groups import EXPERIMENT
from softeq.experiments.audit.report.write import write_report
from softeq.experiments.audit.settings import DTYPES, Settings
from softeq.experiments.engine import provenance, record
from softeq.measure.errors import NotMeasurable
from softeq.measure.loading.images import Images, load_images
from softeq.measure.loading.sources import Model, load_model

PRESET = "audit"
"""What the records have in the field that is the preset of other experiments."""
STEP_INTERVAL = 0.1
"""Seconds between two ``step`` events."""


@dataclass(frozen=True)
class AuditEvent:
    """What an audit tells its caller.

    For each model ``start``; ``step`` with ``done`` of ``total``; ``record`` for each flow with the metrics; ``skip``
    for each flow that was recorded before; at last ``done``, with the ``reason`` if the model failed.
    """

    kind: Literal["start", "step", "record", "skip", "done"]
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
        failures: model and reason; of these, ``mistakes`` are models that could not even be loaded.
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


def run_audit(
    models: Sequence[str], settings: Settings, out: str | Path, on_event: OnEvent = lambda event: None
) -> Outcome:
    """Audit the models; records go to ``out/audit.jsonl`` as they are done. See `report` for the rest.

    Args:
        models: names that `measure.loading.sources.load_model` knows; repeated ones count once.
        settings: how.
        out: a folder; made when absent.
        on_event: called with every `AuditEvent`.

    Raises:
        SofteqError: a user's mistake that concerns every model, found before the first is loaded; or ``out`` cannot be
            written.
    """
    names = list(dict.fromkeys(models))
    settings.check(names)
    record.check_writable(out, EXPERIMENT)
    provenance.code_version()  # the code that is loaded now
    path = record.record_path(out, EXPERIMENT)
    source_hash = hash_tensors({"x": load_images(settings.images, model=_neutral(), **_choice(settings)).x})
    outcome = Outcome()
    for name in names:
        on_event(AuditEvent("start", name))
        reason = _one(name, settings, path, source_hash, outcome, on_event)
        if reason:
            outcome.failures.append((name, reason))
        on_event(AuditEvent("done", name, reason=reason or ""))
    return outcome


def report(out: str | Path, failures: Sequence[tuple[str, str]] = ()) -> tuple[Path, Path]:
    """Write ``audit.csv`` and ``audit.html`` from all the audit records in a folder; their paths."""
    return write_report(record.read(record.record_path(out, EXPERIMENT)), out, failures=failures)


def _one(
    name: str, settings: Settings, path: Path, source_hash: str, outcome: Outcome, on_event: OnEvent
) -> str | None:
    """Audit one model; the reason if it failed."""
    try:
        model, images = _load(name, settings)
    except (SofteqError, MemoryError) as error:
        outcome.mistakes += 1
        return str(error) or type(error).__name__
    except Exception as error:  # a factory or a checkpoint of the user's may raise anything
        return f"{type(error).__name__}: {error}"
    config = _config(name, model, images, settings, source_hash)
    images = replace(images, x=images.x.to(settings.torch_device, DTYPES[settings.dtype]))
    records, todo = record.read(path), []
    for flow in dict.fromkeys(settings.flows):
        held = _held(records, config | {"flow": flow})
        if held is None:
            todo.append(flow)
            continue
        outcome.held.append(f"{name}/{flow}")
        if "not_measurable" in held["metrics"]:
            outcome.not_measurable.append(f"{name}/{flow}")
        on_event(AuditEvent("skip", name, flow, metrics=held["metrics"]))
    return _Recorder(name, config, settings, path, outcome, on_event).measure(model, images, todo) if todo else None


@dataclass
class _Recorder:
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
                return str(error)
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


def _held(records: Sequence[record.Record], config: Mapping[str, Any]) -> record.Record | None:
    """The last record with this configuration; one with more images layer by layer than asked for serves as well."""
    wanted = record.encode({**config, "layerwise": 0})
    for r in reversed(records):
        own = record.encode(r["config"])
        split = own.get("layerwise")
        alike = r["experiment"] == EXPERIMENT and own | {"layerwise": 0} == wanted
        if alike and isinstance(split, int) and split >= config["layerwise"]:
            return r
    return None


def _neutral() -> Model:
    """Preprocessing that is no model's, so that images have one hash for all models."""
    half = (0.5, 0.5, 0.5)
    return Model(
        name="images",
        module=nn.Identity(),
        image_size=(64, 64),
        mean=half,
        std=half,
        interpolation="bicubic",
        classes=None,
        prefix_tokens=None,
        source="",
        crop=1.0,
    )


def _choice(settings: Settings) -> dict[str, Any]:
    return {"limit": settings.limit, "seed": settings.seed}


def _load(name: str, settings: Settings) -> tuple[Model, Images]:
    device, dtype = settings.torch_device, DTYPES[settings.dtype]
    model = load_model(name, weights=settings.weights, seed=settings.seed, dtype=dtype, device=device)
    images = load_images(settings.images, model=model, **_choice(settings))
    return model, images


def _config(name: str, model: Model, images: Images, settings: Settings, source_hash: str) -> dict[str, Any]:
    """All that the numbers depend on but the flow: the model's part, see measure.report_groups, and the shared one."""
    return {
        "model": name,
        "flow": "",
        "weights": model.source,
        "weights_hash": hash_tensors(model.module.state_dict()),
        "image_size": list(model.image_size),
        "mean": [float(v) for v in model.mean],
        "std": [float(v) for v in model.std],
        "interpolation": model.interpolation,
        "crop": model.crop,
        "images_hash": hash_tensors({"x": images.x}),
        "classes": model.classes,
        **settings.shared_config(len(images.x), source_hash),
    }


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of a SHA-256 over names, dtypes, shapes and bytes; what is no tensor by its repr."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if not isinstance(value, Tensor):
            digest.update(f"{name}={value!r};".encode())
            continue
        digest.update(f"{name}:{value.dtype}{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
