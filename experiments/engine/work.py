"""One process's share of an experiment: claim a pair, run it, record it, and wait for the pairs that others hold.

Every (variant, seed) pair is claimed by a lock file that the operating system releases when its process ends, however
it ends, so that no pair is run twice and none is lost.
"""

from __future__ import annotations

import copy
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import provenance, record
from softeq.experiments.engine.experiment import Config, Experiment, Metrics, Progress

STEP_INTERVAL = 0.1
"""Seconds between two ``step`` events of one run: more would cost more than they show."""

POLL_INTERVAL = 0.3
"""Seconds between two looks at a pair that another process holds."""


@dataclass(frozen=True)
class Job:
    """One pair to run, with its complete configuration."""

    variant: str
    seed: int
    config: Config

    @property
    def key(self) -> tuple[str, int]:
        """The pair itself."""
        return self.variant, self.seed


@dataclass(frozen=True)
class Event:
    """What a runner tells its caller about one pair.

    ``start``, then ``step`` with ``done`` of ``total`` steps, then ``done`` with the metrics and the wall seconds;
    ``skip`` when it was recorded before or by another process; ``wait`` when another process holds it.
    """

    kind: Literal["start", "step", "done", "skip", "wait"]
    variant: str
    seed: int
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    metrics: Metrics = field(default_factory=dict)


OnEvent = Callable[[Event], None]


def recorded(experiment: Experiment, preset: str, folder: str | Path, *, warn: bool = True) -> dict[tuple, Config]:
    """The configurations of the pairs that a folder holds for a preset, by ``(variant, seed)``."""
    records = record.read(record.record_path(folder, experiment.name), warn=warn)
    mine = [r for r in records if r["experiment"] == experiment.name and r["preset"] == preset]
    return {(r["variant"], r["seed"]): r["config"] for r in mine}


def check_configs(experiment: Experiment, preset: str, variants: set[str], held: dict[tuple, Config]) -> None:
    """Refuse a folder whose records of these variants were made with other configurations than today's.

    Seeds that are not asked for now are looked at too: one row of a table must not average two configurations. Where
    and how steps are computed, the device and whether they are compiled, is no part of it: that changes rounding alone,
    and every record says it.

    Raises:
        SofteqValueError: naming the first key that differs and what to do.
    """
    for (variant, seed), config in held.items():
        if variant not in variants:
            continue
        now = record.encode(experiment.configure(preset, variant, seed))
        then = _grown(record.encode(config), record.encode(experiment.grown))
        for one in (now, then):
            for key in ("device", "compiled"):
                one.pop(key, None)
        if now == then:
            continue
        key = next(k for k in sorted({*now, *then}) if now.get(k) != then.get(k) or (k in now) != (k in then))
        raise SofteqValueError(
            f"the folder holds {experiment.name}, preset {preset}, variant {variant}, seed {seed} with another"
            f" configuration ({key}: {then.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} now):"
            " choose another --out, or move the old records away"
        )


def _grown(config: Config, defaults: Mapping[str, Any]) -> Config:
    """A recorded configuration with the keys that came later, where it has the place for them."""
    config = copy.deepcopy(config)
    for path, value in defaults.items():
        *parents, key = path.split(".")
        place: Any = config
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.setdefault(key, value)
    return config


def work_through(experiment: Experiment, preset: str, todo: list[Job], out: Path, emit: OnEvent) -> None:
    """Run the jobs that nobody else holds, and return once every one of them is recorded."""
    provenance.code_version()  # before the first run: the code that is loaded now
    announced: set[tuple[str, int]] = set()
    while todo:
        held_elsewhere = [job for job in todo if not _claim_and_run(experiment, preset, job, out, emit)]
        for job in held_elsewhere:
            if job.key not in announced:
                emit(Event("wait", *job.key))
        announced.update(job.key for job in held_elsewhere)
        if len(held_elsewhere) == len(todo):
            time.sleep(POLL_INTERVAL)
        todo = held_elsewhere


def _claim_and_run(experiment: Experiment, preset: str, job: Job, out: Path, emit: OnEvent) -> bool:
    """Whether the job is recorded now; false when another process holds it."""
    with claim(claim_path(experiment, preset, job, out)) as mine:
        if not mine:
            return False
        held = recorded(experiment, preset, out, warn=False)
        if job.key in held:  # finished elsewhere since the plan was made
            check_configs(experiment, preset, {job.variant}, {job.key: held[job.key]})
            emit(Event("skip", *job.key))
        else:
            _run(experiment, preset, job, out, emit)
    return True


def claim_path(experiment: Experiment, preset: str, job: Job, out: Path) -> Path:
    """The lock file of a pair."""
    name = quote("-".join((experiment.name, preset, job.variant, str(job.seed))), safe="@+=, ")
    return claims(out) / f"{name}.lock"


def claims(out: Path) -> Path:
    """The folder of the lock files of a folder of records."""
    return out / ".claims"


def sweep(out: Path) -> None:
    """Remove the claims that nobody holds, such as that of a process killed after its record was written."""
    for path in claims(out).glob("*.lock"):
        with suppress(OSError, SofteqError), claim(path):
            pass
    with suppress(OSError):  # another runner's claims may still be in it
        claims(out).rmdir()


def _run(experiment: Experiment, preset: str, job: Job, out: Path, emit: OnEvent) -> None:
    emit(Event("start", *job.key))
    last = -STEP_INTERVAL

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= STEP_INTERVAL or done >= total:
            last = now
            emit(Event("step", *job.key, done=done, total=total))

    line = executed(experiment, preset, job, progress)
    record.append(record.record_path(out, experiment.name), line)
    emit(Event("done", *job.key, seconds=line["provenance"]["seconds"], metrics=line["metrics"]))


def executed(experiment: Experiment, preset: str, job: Job, progress: Progress) -> record.Record:
    """Run a pair; its record, not written yet."""
    begin = time.perf_counter()
    metrics = experiment.run(copy.deepcopy(job.config), progress)
    where = provenance.of_run(job.config, time.perf_counter() - begin)
    return record.make(experiment.name, preset, *job.key, config=job.config, metrics=metrics, provenance=where)


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Hold ``path`` as a lock file while the block runs; gives false, at once, when another process holds it.

    The lock goes with its process, also one that is killed. The file is removed at the end.

    Raises:
        SofteqError: when the file cannot be made.
    """
    try:
        descriptor = _lock(path)
    except OSError as error:
        raise SofteqError(
            f"cannot make the lock file {path}: {error.strerror or error}; choose another --out"
        ) from error
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # a file left behind is claimed again by whoever resumes
            path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another runner removed the empty folder in between
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # The holder before us removes its file before it lets go: a lock on a removed file excludes nobody.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)
