"""Frames of a molecule in motion, in vacuum or in a uniform electric field: Langevin dynamics on GFN2-xTB, by ase.

A set is many short walks. Each starts from the molecule's GFN2-xTB minimum rotated at random, with Maxwell velocities,
walks to equilibrium and is then sampled; its frames are one block, and splits go by blocks.

The field is the dial: it breaks SO(3) to the rotations about it. A molecule that walks in it aligns within a quarter of
a picosecond (ethanol in .02 atomic units: the mean cosine of dipole and field is .93 in the first frame kept), and a
set of aligned molecules hides from a model what the field does to others. So `in_field` takes the frames of walks in
vacuum, turns each at random and has the engine label it in the field: geometries and directions are the same at every
field, and what the dial changes is the labels alone.

A walk is kept as a file of its own, so a killed generation goes on where it was, and several processes share it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from softeq._cache import cache_folder
from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.data.molecules import Frames, load, save
from softeq.experiments.data.walks import MOLECULES, Sampling, minimum, random_rotation, walk
from softeq.experiments.data.xtb import FIELD_UNIT, METHOD, Engine
from softeq.experiments.engine import processes

ENGINE = "tblite"
_TURNED = 200
_DIRECTIONS = 1
Done = Callable[[int, int], None]
"""Called as ``done(walks_done, walks_total)``."""


def trajectory(
    molecule: str,
    field: float,
    sampling: Sampling,
    *,
    folder: str | Path | None = None,
    jobs: int = 1,
    done: Done = lambda finished, total: None,
) -> Frames:
    """The frames of a molecule in a field along z: read where they are, else generated and kept.

    Args:
        molecule: a key of `MOLECULES`.
        field: along z, in atomic units (51.4 V/Angstrom).
        sampling: how.
        folder: where sets are kept; `data_folder` by default.
        jobs: processes.
        done: told how many walks are there.

    Raises:
        MissingExtraError: tblite, ase or rdkit is not installed and the set is not there.
        SofteqValueError: an unknown molecule, or a field that is not finite.
        SofteqError: the folder cannot be written.
    """
    if molecule not in MOLECULES:
        raise SofteqValueError(f"molecule: expected one of {', '.join(MOLECULES)}, got {molecule!r}")
    if not np.isfinite(field) or jobs < 1:
        raise SofteqValueError(f"field, jobs: expected a finite number and at least 1, got {field} and {jobs}")
    place = data_folder() if folder is None else Path(folder)
    name = set_name(molecule, field, sampling)
    path = place / f"{name}.npz"
    with held(place / f"{name}.lock"):
        if path.exists():
            return load(path)
        walks = _walks(molecule, field, sampling, place / name, jobs, done)
        frames = _joined(walks, molecule, field, sampling)
        save(frames, path)
        for part in (place / name).glob("*.npz"):
            part.unlink()
        (place / name).rmdir()
    return frames


def data_folder() -> Path:
    """Where generated sets are kept: ``molecules`` in the folder of `softeq._cache`; without one, ``data`` here."""
    found = cache_folder()
    return Path("data") if found is None else found / "molecules"


def is_kept(molecule: str, field: float, sampling: Sampling) -> bool:
    """Whether `trajectory` finds the set in `data_folder`."""
    return (data_folder() / f"{set_name(molecule, field, sampling)}.npz").exists()


def set_name(molecule: str, field: float, sampling: Sampling) -> str:
    """A file's name that no other settings have."""
    key = json.dumps([METHOD, molecule, MOLECULES[molecule], float(field), asdict(sampling)], sort_keys=True)
    return f"md-{molecule}-{field:g}au-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _walks(molecule: str, field: float, sampling: Sampling, folder: Path, jobs: int, done: Done) -> list[Frames]:
    paths = [folder / f"{number:04d}.npz" for number in range(sampling.walks)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    finished = len(paths) - len(missing)
    done(finished, len(paths))
    if missing:
        numbers, start = minimum(molecule, sampling.seed)
        tasks = [(molecule, numbers, start, field, sampling, number, paths[number]) for number in missing]
        for _ in _each(tasks, min(jobs, len(missing))):
            finished += 1
            done(finished, len(paths))
    return [load(path) for path in paths]


def _each(tasks: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[None]:
    if jobs == 1:
        for task in tasks:
            _walk_to_file(*task)
            yield
        return
    with ProcessPoolExecutor(jobs, processes.context(), _one_thread, (processes.environment(),)) as pool:
        futures = [pool.submit(_walk_to_file, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # Ctrl-C too: walks that are under way end, others do not begin
            pool.shutdown(cancel_futures=True)
            raise


def _one_thread(variables: Mapping[str, str]) -> None:
    processes.begin(variables)
    os.environ["OMP_NUM_THREADS"] = "1"


def _walk_to_file(
    molecule: str, numbers: np.ndarray, start: np.ndarray, field: float, sampling: Sampling, number: int, path: Path
) -> None:
    save(replace(walk(numbers, start, field, sampling, number), name=f"md-{molecule}"), path)


def _joined(walks: Sequence[Frames], molecule: str, field: float, sampling: Sampling) -> Frames:
    parts = {
        name: np.concatenate([getattr(one, name) for one in walks])
        for name in ("positions", "energies", "forces", "block")
    }
    about = {
        "engine": ENGINE,
        "method": METHOD,
        "molecule": molecule,
        "smiles": MOLECULES[molecule],
        "dynamics": "Langevin (ase)",
        "field_au": field,
        "sampling": asdict(sampling),
        "kinetic_temperature": float(np.mean([one.about["kinetic_temperature"] for one in walks])),
    }
    return Frames(f"md-{molecule}", walks[0].numbers, **parts, field=walks[0].field, about=about)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """One process at a time generates a set; the others wait. The system lets go of a killed one's lock.

    Raises:
        SofteqError: the folder cannot be written.
    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise SofteqError(f"{path.parent}: cannot be written: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def in_field(
    molecule: str,
    field: float,
    sampling: Sampling,
    *,
    folder: str | Path | None = None,
    jobs: int = 1,
    done: Done = lambda finished, total: None,
) -> Frames:
    """The frames of `trajectory` in vacuum, each rotated at random and labelled in a field along z; kept beside them.

    The arguments and errors are those of `trajectory`; geometries and directions do not depend on ``field``.
    """
    if not np.isfinite(field):
        raise SofteqValueError(f"field: expected a finite number, got {field}")
    walks = trajectory(molecule, 0.0, sampling, folder=folder, jobs=jobs, done=done)
    about = walks.about | {"field_au": field, "directions": "uniform"}
    along = np.array([0.0, 0.0, field * FIELD_UNIT])
    name = f"{set_name(molecule, field, sampling)}-uniform"
    return _relabelled(replace(walks, field=along, about=about), [sampling.seed, _DIRECTIONS], name, folder)


def _relabelled(frames: Frames, seed: list[int], name: str, folder: str | Path | None) -> Frames:
    """Each frame rotated at random and labelled by the engine in the frames' field; read where it is."""
    place = data_folder() if folder is None else Path(folder)
    path = place / f"{name}.npz"
    with held(place / f"{name}.lock"):
        if path.exists():
            return load(path)
        generator, engine = np.random.default_rng(seed), Engine(frames.numbers, frames.field)
        positions = np.stack([x @ random_rotation(generator).T for x in frames.positions])
        found = [engine(x) for x in positions]
        energies, forces = np.array([f.energy for f in found]), np.array([f.forces for f in found])
        again = replace(frames, positions=positions, energies=energies, forces=forces)
        save(again, path)
    return again


def turned(frames: Frames, sampling: Sampling, *, first_block: int, folder: str | Path | None = None) -> Frames:
    """The frames of blocks from ``first_block`` on, each rotated at random, labelled by the engine in the same field.

    At most 200 of them, evenly over the blocks. Kept beside the set.

    Args:
        frames: of `trajectory` or `in_field`.
        sampling: how they were sampled.
        first_block: turned are this one and later ones.
        folder: see `trajectory`.
    """
    field = float(frames.about["field_au"])
    kind = "-uniform" if frames.about.get("directions") == "uniform" else ""
    name = f"{set_name(frames.about['molecule'], field, sampling)}{kind}-turned-{first_block}"
    rows = (frames.block >= first_block).nonzero()[0]
    chosen = frames.rows(rows[np.linspace(0, len(rows) - 1, min(_TURNED, len(rows))).round().astype(int)])
    return _relabelled(replace(chosen, name=f"{frames.name}-turned"), [sampling.seed, _TURNED], name, folder)
