"""The command ``softeq data``: compute, with both cores and a progress bar, what an experiment would compute itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from softeq.errors import SofteqValueError

try:
    import typer
except ImportError:  # `experiments.cli.main` says which extra is missing
    typer = None  # type: ignore[assignment]

EXAMPLE = "softeq data md-field --preset short --workers 2"


def data(
    name: Annotated[
        str,
        typer.Argument(help="md-field, md-ethanol, md-aspirin, qm9-like; or ethanol, malonaldehyde, aspirin."),
    ],
    preset: Annotated[str, typer.Option(help="Of the experiment: smoke, short, default or paper.")] = "default",
    field: Annotated[float | None, typer.Option(help="Of a molecule's set: along z, in atomic units.")] = None,
    jobs: Annotated[int, typer.Option("--workers", "--jobs", help="Processes; one per core if 0.")] = 0,
) -> None:
    """Generate the molecules that an experiment reads, or one molecule's frames; keep them; go on where one was killed.

    A molecule walks without a field; with ``--field``, its frames are rotated at random and labelled in that field.
    """
    if jobs < 0:
        raise SofteqValueError(f"jobs, --workers: expected 0 or more, got {jobs}")
    points, molecules = _wanted(name, preset, field)
    for point in points:
        _trajectory(point, jobs or os.cpu_count() or 1)
    if molecules is not None:
        _molecules(molecules)


def _wanted(name: str, preset: str, field: float | None) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The trajectories that are to be there, and the set of many molecules."""
    from softeq.experiments.data.walks import MOLECULES
    from softeq.experiments.engine import registry
    from softeq.experiments.molecules import field as molecules

    if name in MOLECULES:
        if preset not in molecules.SIZES:
            raise registry.unknown("preset", preset, molecules.SIZES)
        directions = "walks" if field is None else "uniform"
        sampling = dict(molecules.SIZES[preset].data["sampling"])
        return [{"molecule": name, "field_au": field or 0.0, "directions": directions, "sampling": sampling}], None
    if field is not None:
        raise SofteqValueError(f"field: an experiment has its own fields; name a molecule ({', '.join(MOLECULES)})")
    chosen = registry.get(name)
    if preset not in chosen.presets:
        raise registry.unknown("preset", preset, chosen.presets)
    config = chosen.configure(preset, chosen.variants[0], 0)
    points = [point for point in config.get("points", ()) if point.get("source") == "trajectory"]
    if points:
        return points, None
    if config.get("data", {}).get("source") == "qm9-like":
        return [], config["data"]
    raise SofteqValueError(f"name: {name} reads nothing that is generated here")


def _trajectory(point: dict[str, Any], jobs: int) -> None:
    from softeq.experiments.data.trajectories import data_folder, in_field, set_name, trajectory
    from softeq.experiments.data.walks import Sampling

    sampling = Sampling(**point["sampling"])
    uniform = point["directions"] == "uniform"
    generate, kind = (in_field, "-uniform") if uniform else (trajectory, "")
    name = set_name(point["molecule"], point["field_au"], sampling) + kind
    with _bar(f"{point['molecule']}, {point['field_au']:g} au, walks") as done:
        frames = generate(point["molecule"], point["field_au"], sampling, jobs=jobs, done=done)
    heat = frames.about["kinetic_temperature"]
    typer.echo(f"{data_folder() / name}.npz: {len(frames)} frames, {heat:.0f} K ({sampling.temperature:g} K asked for)")


def _molecules(source: dict[str, Any]) -> None:
    from softeq.experiments.data.small_molecules import qm9_like
    from softeq.experiments.data.trajectories import data_folder

    with _bar("molecules") as done:
        found = qm9_like(limit=source["limit"], done=done)
    left = len(found.about["left_out"])
    typer.echo(f"{data_folder()}: {found.name}, {len(found)} molecules, {left} left out")


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where it is a terminal, told as ``done(finished, total)``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )
    with bars:
        task = bars.add_task(label, total=None)
        yield lambda finished, total: bars.update(task, completed=finished, total=total)
