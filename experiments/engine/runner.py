"""Runs the (variant, seed) pairs of an experiment that a folder does not hold yet, in one process or several.

Two runners in one folder share the work, a killed one is resumed by running the same command again, and a runner
returns only when every pair that it was asked for is recorded, by itself or by another.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record, registry
from softeq.experiments.engine.experiment import Experiment
from softeq.experiments.engine.work import (
    POLL_INTERVAL,
    Event,
    Job,
    OnEvent,
    check_configs,
    recorded,
    sweep,
    work_through,
)


def plan(
    experiment: Experiment, preset: str, *, seeds: int | None = None, variants: Sequence[str] | None = None
) -> list[Job]:
    """The pairs of a preset, seeds outer and variants inner, so that what is there at any time is balanced.

    Args:
        experiment: what to run.
        preset: one of its presets.
        seeds: run the seeds ``0 .. seeds - 1``; the preset's number by default.
        variants: some of the experiment's variants; all by default.

    Raises:
        SofteqValueError: for an unknown preset or variant, for no variants, and for fewer seeds than one.
    """
    if preset not in experiment.presets:
        raise registry.unknown("preset", preset, experiment.presets)
    seeds = experiment.presets[preset] if seeds is None else seeds
    if seeds < 1:
        raise SofteqValueError(f"seeds: expected 1 or more, got {seeds}")
    chosen = tuple(dict.fromkeys(experiment.variants if variants is None else variants))
    if not chosen:
        raise SofteqValueError(f"variants: expected some of {', '.join(experiment.variants)}, got none")
    for variant in chosen:
        if variant not in experiment.variants:
            raise registry.unknown("variant", variant, experiment.variants)
    return [
        Job(variant, seed, experiment.configure(preset, variant, seed)) for seed in range(seeds) for variant in chosen
    ]


def run_experiment(
    experiment: Experiment,
    preset: str,
    *,
    out: str | Path,
    seeds: int | None = None,
    variants: Sequence[str] | None = None,
    jobs: int = 1,
    on_event: OnEvent = lambda event: None,
    sources: Sequence[str] | None = None,
) -> None:
    """Run what ``out`` does not hold yet and append a record as each pair ends; a run that diverged is recorded too.

    Args:
        experiment: what to run.
        preset: one of its presets.
        out: the folder of the records; made when absent.
        seeds: see `plan`.
        variants: see `plan`.
        jobs: worker processes. With more than one, each gets its share of torch's threads, and finds the experiment
            by name in ``sources``.
        on_event: called with every `Event`, in this process.
        sources: modules that define experiments, see `registry.all`.

    Raises:
        SofteqValueError: for a bad argument, and when ``out`` holds such a pair with another configuration.
        SofteqError: when ``out`` cannot be written, found out before the first run; or what a run raises.
    """
    todo = plan(experiment, preset, seeds=seeds, variants=variants)
    if jobs < 1:
        raise SofteqValueError(f"jobs: expected 1 or more, got {jobs}")
    out = Path(out)
    record.check_writable(out, experiment.name)
    held = recorded(experiment, preset, out)
    check_configs(experiment, preset, {job.variant for job in todo}, held)
    for job in todo:
        if job.key in held:
            on_event(Event("skip", *job.key))
    todo = [job for job in todo if job.key not in held]
    if jobs == 1 or len(todo) < 2:
        work_through(experiment, preset, todo, out, on_event)
    else:
        _share(experiment, preset, todo, out, min(jobs, len(todo)), on_event, sources)
    sweep(out)


def _share(
    experiment: Experiment,
    preset: str,
    todo: list[Job],
    out: Path,
    workers: int,
    on_event: OnEvent,
    sources: Sequence[str] | None,
) -> None:
    """Let worker processes go through the same list, each taking what the others have not claimed."""
    context = multiprocessing.get_context("spawn")
    channel: Any = context.Queue()
    threads = max(1, torch.get_num_threads() // workers)
    chosen = tuple(registry.sources() if sources is None else sources)
    arguments = (experiment.name, chosen, preset, todo, out, threads, channel)
    processes = [context.Process(target=_worker, args=arguments, daemon=True) for _ in range(workers)]
    try:
        with _interrupts_ignored():  # inherited by the workers: Ctrl-C is for this process, which stops them
            for process in processes:
                process.start()
        _relay(processes, channel, on_event)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _relay(processes: Sequence[BaseProcess], channel: Any, on_event: OnEvent) -> None:
    """Pass the workers' events on, each pair's once, until every worker has said that it is through."""
    ours: set[tuple[str, int]] = set()
    through = 0
    while through < len(processes):
        dead = [process for process in processes if process.exitcode not in (None, 0)]
        try:
            message = channel.get(timeout=POLL_INTERVAL)
        except queue.Empty:
            if dead:
                raise SofteqError(
                    f"a worker process ended with exit code {dead[0].exitcode} (-9: killed, often for memory);"
                    " finished runs are recorded: run again to resume, perhaps with fewer --jobs"
                ) from None
            continue
        if message is None:
            through += 1
        elif isinstance(message, SofteqError):
            raise message
        elif isinstance(message, str):
            raise RuntimeError(f"a worker process failed:\n{message}")
        elif message.kind in ("start", "step", "done"):
            ours.add((message.variant, message.seed))
            on_event(message)
        elif (message.variant, message.seed) not in ours:  # held or recorded by a runner that is not one of ours
            if message.kind == "skip":
                ours.add((message.variant, message.seed))
            on_event(message)


def _worker(
    name: str, sources: tuple[str, ...], preset: str, todo: list[Job], out: Path, threads: int, channel: Any
) -> None:
    """The body of a worker process: its events go into ``channel``, and None at the end."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def emit(event: Event) -> None:
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)  # nobody is left to stop this worker with Ctrl-C
        channel.put(replace(event, metrics=record.decode(record.encode(event.metrics))))

    try:
        work_through(registry.get(name, sources), preset, todo, out, emit)
        channel.put(None)
    except SofteqError as error:
        channel.put(type(error)(str(error)))
    except Exception:
        channel.put(traceback.format_exc())
