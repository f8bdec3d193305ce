"""`softeq audit`: models one after another, a record for each flow as it is done, and a report over all of them.

What a folder holds with an equal configuration is not measured again, so that the same command resumes. A model that
fails does not stop the others. Two audits in one folder share the work: each model is claimed by one of them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from softeq.errors import SofteqError
from softeq.experiments.audit import calculators
from softeq.experiments.audit.configuration import configuration, hash_tensors, held, neutral
from softeq.experiments.audit.picked import Picked, as_logits, counted
from softeq.experiments.audit.recorder import AuditEvent, OnEvent, Outcome, Recorder
from softeq.experiments.audit.report.groups import EXPERIMENT
from softeq.experiments.audit.report.write import write_report
from softeq.experiments.audit.settings import DTYPES, Settings
from softeq.experiments.engine import provenance, record, work
from softeq.measure.loading.images import Images, load_images
from softeq.measure.loading.sources import Model, load_model

__all__ = ["AuditEvent", "OnEvent", "Outcome", "hash_tensors", "report", "run_audit"]


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
    source_hash = hash_tensors({"x": _images(settings, neutral()).x})
    outcome, todo, told = Outcome(), names, set[str]()
    while todo:
        left = []
        for name in todo:
            with work.claim(_claim(name, settings, Path(out))) as mine:
                if mine:
                    _audited(name, settings, path, source_hash, outcome, on_event)
                    continue
            left.append(name)
            if name not in told:
                on_event(AuditEvent("wait", name))
            told.add(name)
        if len(left) == len(todo):
            time.sleep(work.POLL_INTERVAL)
        todo = left
    work.sweep(Path(out))
    return outcome


def _claim(name: str, settings: Settings, out: Path) -> Path:
    """The lock file of one model under these settings."""
    told = json.dumps([name, asdict(settings)], sort_keys=True, default=str)
    return work.claims(out) / f"{EXPERIMENT}-{hashlib.sha256(told.encode()).hexdigest()[:24]}.lock"


def _audited(name: str, settings: Settings, path: Path, source_hash: str, outcome: Outcome, on_event: OnEvent) -> None:
    on_event(AuditEvent("start", name))
    reason = _one(name, settings, path, source_hash, outcome, on_event)
    if reason:
        outcome.failures.append((name, reason))
    on_event(AuditEvent("done", name, reason=reason or ""))


def report(out: str | Path, failures: Sequence[tuple[str, str]] = ()) -> tuple[Path, Path]:
    """Write ``audit.csv`` and ``audit.html`` from all the audit records in a folder; their paths."""
    found, potentials = (record.read(record.record_path(out, name)) for name in (EXPERIMENT, calculators.EXPERIMENT))
    return write_report(found, out, failures=failures, calculators=potentials)


def _one(
    name: str, settings: Settings, path: Path, source_hash: str, outcome: Outcome, on_event: OnEvent
) -> str | None:
    """Audit one model; the reason if it failed."""
    try:
        model, images = _load(name, settings)
    except (SofteqError, MemoryError) as error:
        outcome.mistakes += 1
        return str(error) or type(error).__name__
    except SystemExit as error:
        return f"the network ends the program (sys.exit({error.code!r}))"
    except Exception as error:  # a factory or a checkpoint of the user's may raise anything
        return f"{type(error).__name__}: {error}"
    on_event(
        AuditEvent("loaded", name, reason="; ".join([f"weights: {model.source}", *model.choices, *images.choices]))
    )
    config = configuration(name, model, images, settings, source_hash)
    images = replace(images, x=images.x.to(settings.torch_device, DTYPES[settings.dtype]))
    records, todo = record.read(path), []
    for flow in dict.fromkeys(settings.flows):
        known = held(records, config | {"flow": flow})
        if known is None:
            todo.append(flow)
            continue
        outcome.held.append(f"{name}/{flow}")
        if "not_measurable" in known["metrics"]:
            outcome.not_measurable.append(f"{name}/{flow}")
        on_event(AuditEvent("skip", name, flow, metrics=known["metrics"]))
    return Recorder(name, config, settings, path, outcome, on_event).measure(model, images, todo) if todo else None


def _images(settings: Settings, model: Model) -> Images:
    return load_images(settings.images, model=model, limit=settings.limit, seed=settings.seed)


def _load(name: str, settings: Settings) -> tuple[Model, Images]:
    model = load_model(
        name,
        weights=settings.weights,
        weights_key=settings.weights_key,
        image_size=settings.image_size,
        num_classes=settings.num_classes,
        preparation=settings.preparation,
        seed=settings.seed,
        dtype=DTYPES[settings.dtype],
        device=settings.torch_device,
    )
    if settings.pick is not None:
        model = replace(model, module=Picked(model.module, settings.pick))
    model = counted(model, settings)
    images = _images(settings, model)
    return as_logits(model, settings, images.x[:1].to(settings.torch_device, DTYPES[settings.dtype])), images
