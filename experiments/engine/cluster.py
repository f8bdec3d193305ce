"""The runs of an experiment on Ray's workers, on this machine or a cluster: the same records as without.

A worker gets a pair's configuration and gives back its record; this process claims the pairs, hands them out and
appends what comes back, so that workers share no file system with it. A worker that is killed loses its run alone: the
others go on, and the lost pair is named at the end, for the same command to run again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from softeq.errors import MissingExtraError, SofteqError
from softeq.experiments.engine import record, registry
from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.engine.work import Event, Job, OnEvent, claim, claim_path, executed, recorded

_ADDRESS = "RAY_ADDRESS"


def share(
    experiment: Experiment,
    preset: str,
    todo: Sequence[Job],
    out: Path,
    workers: int,
    on_event: OnEvent,
    sources: Sequence[str] | None,
) -> None:
    """Run the jobs on so many workers at once and append each record as it comes back.

    Args:
        experiment: what to run; workers find it by name in ``sources``.
        preset: one of its presets.
        todo: the pairs that ``out`` does not hold.
        out: the folder of the records, of this machine.
        workers: at once. Without a cluster named in ``RAY_ADDRESS`` as many processes are started here.
        on_event: told ``start``, ``done``, ``skip`` and ``wait``.
        sources: modules that define experiments; those of the registry by default.

    Raises:
        MissingExtraError: ray is not installed.
        SofteqError: at the end, when pairs were lost with their workers, naming them; or what a run raises.
    """
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        ray.init(**({} if os.environ.get(_ADDRESS) else {"num_cpus": workers}), **_quiet())
    try:
        lost = _run_all(ray, experiment, preset, list(todo), out, workers, on_event, _sources(sources))
    finally:
        if mine:
            ray.shutdown()
    if lost:
        names = ", ".join(f"{variant} seed {seed}" for variant, seed in lost)
        raise SofteqError(f"workers died during {names}; every other run is recorded: run again to resume")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--engine ray needs ray: pip install 'softeq[ray]'") from error
    return ray


def _quiet() -> dict[str, Any]:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {"env_vars": {"PYTHONPATH": paths, registry.VARIABLE: os.environ.get(registry.VARIABLE, "")}}
    return {"log_to_driver": False, "include_dashboard": False, "runtime_env": environment}


def _sources(sources: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(registry.sources() if sources is None else sources)


def _run_all(
    ray: Any,
    experiment: Experiment,
    preset: str,
    todo: list[Job],
    out: Path,
    workers: int,
    on_event: OnEvent,
    sources: tuple[str, ...],
) -> list[tuple[str, int]]:
    """The pairs that were lost with their workers."""
    remote = ray.remote(max_retries=0, num_cpus=1)(_executed)
    lost: list[tuple[str, int]] = []
    running: dict[Any, tuple[Job, ExitStack]] = {}
    with ExitStack() as everything:
        while todo or running:
            while todo and len(running) < workers:
                job, held = todo.pop(0), everything.enter_context(ExitStack())
                if not _mine(experiment, preset, job, out, held, on_event):
                    held.close()
                    continue
                on_event(Event("start", *job.key))
                running[remote.remote(experiment.name, sources, preset, job)] = job, held
            if not running:
                break
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            job, held = running.pop(done)
            try:
                line = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                cause = error.as_instanceof_cause()
                raise (
                    cause if isinstance(cause, SofteqError) else RuntimeError(f"a worker failed:\n{error}")
                ) from error
            except ray.exceptions.RayError:
                lost.append(job.key)
            else:
                record.append(record.record_path(out, experiment.name), line)
                seconds = line["provenance"]["seconds"]
                on_event(Event("done", *job.key, seconds=seconds, metrics=record.decode(line["metrics"])))
            held.close()
    return lost


def _mine(experiment: Experiment, preset: str, job: Job, out: Path, held: ExitStack, on_event: OnEvent) -> bool:
    """Whether the pair is claimed here and not recorded yet; it is told of otherwise."""
    if not held.enter_context(claim(claim_path(experiment, preset, job, out))):
        on_event(Event("wait", *job.key))
        return False
    if job.key in recorded(experiment, preset, out, warn=False):
        on_event(Event("skip", *job.key))
        return False
    return True


def _executed(name: str, sources: tuple[str, ...], preset: str, job: Job) -> record.Record:
    """In a worker: one run, as a record that can be written."""
    import torch

    torch.set_num_threads(1)
    nothing: Callable[[int, int], None] = lambda done, total: None
    return record.encode(executed(registry.get(name, sources), preset, job, nothing))
