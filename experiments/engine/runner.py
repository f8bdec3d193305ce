"""Runs the (variant, seed) pairs of an experiment that a folder does not hold yet, in one process or several.

Two runners in one folder share the work, a killed one is resumed by running the same command again, and a runner
returns only when every pair that it was asked for is recorded, by itself or by another.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import cluster, processes, record, registry
from softeq.experiments.engine.experiment import Config, Experiment
from softeq.experiments.engine.work import (
    Event,
    Job,
    OnEvent,
    check_configs,
    recorded,
    sweep,
    work_through,
)

ENGINES = ("local", "ray")
"""Where runs are executed."""
DEVICES = ("cpu", "cuda")
"""What `run_experiment` can be told to compute on."""
COMPILERS = ("c++", "g++", "clang++", "cl")
"""Of C++, one of which ``torch.compile`` needs on a CPU."""


def plan(
    experiment: Experiment,
    preset: str,
    *,
    seeds: int | None = None,
    variants: Sequence[str] | None = None,
    device: str | None = None,
    compiled: bool = False,
) -> list[Job]:
    """The pairs of a preset, seeds outer and variants inner, so that what is there at any time is balanced.

    Args:
        experiment: what to run.
        preset: one of its presets.
        seeds: run the seeds ``0 .. seeds - 1``; the preset's number by default.
        variants: some of the experiment's variants; all by default.
        device: where to compute, see `placed`; the preset's own by default.
        compiled: whether ``torch.compile`` makes the training steps, see `with_compiler`.

    Raises:
        SofteqValueError: for an unknown preset or variant, for no variants, for fewer seeds than one, and for a device
            or a compiler that is not there.
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
        Job(variant, seed, with_compiler(placed(experiment.configure(preset, variant, seed), device), compiled))
        for seed in range(seeds)
        for variant in chosen
    ]


def placed(config: Config, device: str | None) -> Config:
    """A configuration that computes on another device than the preset's own.

    Raises:
        SofteqValueError: an unknown device, one that is not there, or an experiment that knows no device.
    """
    if device is None:
        return config
    if device not in DEVICES:
        raise registry.unknown("device", device, DEVICES)
    if "device" not in config:
        raise SofteqValueError("device: this experiment computes where torch does by default and takes none")
    if device == "cuda" and not torch.cuda.is_available():
        raise SofteqValueError("device: cuda was asked for and torch finds none; choose cpu or leave it out")
    return {**config, "device": device}


def with_compiler(config: Config, compiled: bool) -> Config:
    """A configuration whose training steps are compiled, if that is asked for: the same sums, rounded differently.

    Raises:
        SofteqValueError: an experiment whose steps torch cannot compile whole, or no compiler on this machine.
    """
    if not compiled:
        return config
    if "compiled" not in config:
        raise SofteqValueError("compile: this experiment's training steps cannot be compiled whole; leave it out")
    if config.get("device") != "cuda" and not any(shutil.which(c) for c in (os.environ.get("CXX"), *COMPILERS) if c):
        raise SofteqValueError("compile: torch needs a C++ compiler and finds none; install g++ or leave it out")
    return {**config, "compiled": True}


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
    engine: str = "local",
    device: str | None = None,
    compiled: bool = False,
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
        engine: ``"local"``, worker processes of this machine; ``"ray"``, see `cluster`.
        device: see `plan`.
        compiled: see `plan`.

    Raises:
        SofteqValueError: for a bad argument, and when ``out`` holds such a pair with another configuration.
        SofteqError: when ``out`` cannot be written, found out before the first run; or what a run raises.
    """
    todo = plan(experiment, preset, seeds=seeds, variants=variants, device=device, compiled=compiled)
    if jobs < 1:
        raise SofteqValueError(f"jobs, --workers: expected 1 or more, got {jobs}")
    if engine not in ENGINES:
        raise registry.unknown("engine", engine, ENGINES)
    out = Path(out)
    record.check_writable(out, experiment.name)
    held = recorded(experiment, preset, out)
    check_configs(experiment, preset, {job.variant for job in todo}, held)
    for job in todo:
        if job.key in held:
            on_event(Event("skip", *job.key))
    todo = [job for job in todo if job.key not in held]
    if engine == "ray" and todo:
        cluster.share(experiment, preset, todo, out, jobs, on_event, sources)
    elif jobs == 1 or len(todo) < 2:
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
    context: Any = processes.context()
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    threads = max(1, torch.get_num_threads() // workers)
    chosen = tuple(registry.sources() if sources is None else sources)
    arguments = (processes.environment(), experiment.name, chosen, preset, todo, out, threads)
    team = [context.Process(target=_begin, args=(*arguments, sender), daemon=True) for _, sender in pipes]
    try:
        with _interrupts_ignored():  # inherited by workers that are started anew, until they see to it themselves
            for process in team:
                process.start()
        for _, sender in pipes:  # the workers have it: when one ends, its end of the pipe closes
            sender.close()
        _relay(dict(zip((receiver for receiver, _ in pipes), team, strict=True)), on_event)
    finally:
        for process in team:
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


def _relay(workers: Mapping[Any, Any], on_event: OnEvent) -> None:
    """Pass the workers' events on, each pair's once, until every worker is through or dead.

    A worker that is killed loses its run alone: its claim goes with it, and another worker takes the pair up.

    Args:
        workers: by the receiving end of its pipe, each process.
        on_event: told the events.
    """
    ours: set[tuple[str, int]] = set()
    open_ends, through, dead = dict(workers), 0, []
    while open_ends:
        for end in wait(list(open_ends)):
            message = _received(end)
            if message is _CLOSED:
                process = open_ends.pop(end)
                process.join()
                dead.append(process.exitcode)
            elif message is None:
                through += 1
                del open_ends[end]
            elif isinstance(message, SofteqError):
                raise message
            elif isinstance(message, str):
                raise RuntimeError(f"a worker process failed:\n{message}")
            else:
                _pass_on(message, ours, on_event)
    if dead and not through:
        raise SofteqError(
            f"every worker process ended, the first with exit code {dead[0]} (-9: killed, often for memory);"
            " finished runs are recorded: run again to resume, perhaps with fewer --workers"
        )


_CLOSED = object()


def _received(end: Any) -> Any:
    try:
        return end.recv()
    except EOFError:  # the worker is gone
        return _CLOSED


def _pass_on(event: Event, ours: set[tuple[str, int]], on_event: OnEvent) -> None:
    pair = event.variant, event.seed
    if event.kind in ("start", "step", "done"):
        ours.add(pair)
        on_event(event)
    elif pair not in ours:  # held or recorded by a runner that is not one of ours
        if event.kind == "skip":
            ours.add(pair)
        on_event(event)


def _begin(variables: Mapping[str, str], *arguments: Any) -> None:
    processes.begin(variables)
    _worker(*arguments)


def _worker(
    name: str, sources: tuple[str, ...], preset: str, todo: list[Job], out: Path, threads: int, channel: Any
) -> None:
    """The body of a worker process: its events go into ``channel``, a pipe, and None at the end."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def emit(event: Event) -> None:
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)  # nobody is left to stop this worker with Ctrl-C
        channel.send(replace(event, metrics=record.decode(record.encode(event.metrics))))

    try:
        work_through(registry.get(name, sources), preset, todo, out, emit)
        channel.send(None)
    except SofteqError as error:
        channel.send(type(error)(str(error)))
    except Exception:
        channel.send(traceback.format_exc())
