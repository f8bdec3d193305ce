"""Energies and forces of molecules as one record type: what is generated here, and published sets in their own formats.

Units: Angstrom, eV, eV/Angstrom; fields V/Angstrom. Files are numpy's ``.npz``, read without pickle.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softeq.errors import SofteqError, SofteqValueError

KCAL_PER_MOL = 0.0433641153087705  # eV
RMD17_VARIABLE = "SOFTEQ_RMD17"
"""The environment variable that names the folder with rMD17's files, ``rmd17_ethanol.npz`` and the like."""
RMD17_SOURCE = (
    f"rMD17 is not here: get it by its DOI 10.6084/m9.figshare.12672038 and set {RMD17_VARIABLE} to the folder with "
    "the files rmd17_NAME.npz"
)
UNITS = {"R": "Angstrom", "E": "eV", "F": "eV/Angstrom", "field": "V/Angstrom"}
_KEYS = ("z", "R", "E", "F", "block", "field", "about")


@dataclass(frozen=True)
class Frames:
    """N frames of one molecule with n atoms.

    Attributes:
        name: of the data, e.g. ``md-ethanol``.
        numbers: ``(n,)`` atomic numbers.
        positions: ``(N, n, 3)``, Angstrom.
        energies: ``(N,)``, eV.
        forces: ``(N, n, 3)``, eV/Angstrom.
        block: ``(N,)``; frames of different blocks are independent, those of one follow each other in time.
        field: ``(3,)``, V/Angstrom.
        about: where they come from: engine, method, seed, temperature and so on; JSON-able.

    Raises:
        SofteqValueError: shapes that do not belong together, or numbers that are not finite.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    block: np.ndarray
    field: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        count, atoms = len(self.energies), len(self.numbers)
        shapes = {"positions": (count, atoms, 3), "forces": (count, atoms, 3), "energies": (count,), "field": (3,)}
        for name, shape in {**shapes, "block": (count,), "numbers": (atoms,)}.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise SofteqValueError(f"{self.name}: expected finite {name} of shape {shape}, got {value.shape}")
        if not count or not atoms:
            raise SofteqValueError(f"{self.name}: expected at least one frame and one atom, got {count} and {atoms}")

    def __len__(self) -> int:
        return len(self.energies)

    def rows(self, index: Any) -> Frames:
        """Some of the frames, as numpy indexes them."""
        picked = {name: getattr(self, name)[index] for name in ("positions", "energies", "forces", "block")}
        return Frames(self.name, self.numbers, **picked, field=self.field, about=self.about)


def save(frames: Frames, path: str | Path) -> None:
    """Write to an ``.npz``, whole or not at all.

    Raises:
        SofteqError: the file cannot be written.
    """
    path = Path(path)
    about = json.dumps({"name": frames.name, "units": UNITS, **frames.about})
    arrays = {"z": frames.numbers, "R": frames.positions, "E": frames.energies, "F": frames.forces}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays, block=frames.block, field=frames.field, about=np.array(about))
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SofteqError(f"{path}: cannot be written: {error.strerror}") from error


def load(path: str | Path) -> Frames:
    """Read what `save` wrote.

    Raises:
        SofteqError: no such file, or it is damaged, or not of this kind.
    """
    found = archive(path, _KEYS)
    try:
        about = json.loads(str(found["about"]))
        name = about.pop("name")
        if about.pop("units") != UNITS:
            raise SofteqError(f"{path}: expected the units {UNITS}")
    except (ValueError, KeyError, AttributeError) as error:
        raise SofteqError(f"{path}: its description is damaged; delete it and generate it again") from error
    return Frames(name, found["z"], found["R"], found["E"], found["F"], found["block"], found["field"], about=about)


def load_rmd17(path: str | Path) -> Frames:
    """A file of the published rMD17 (Christensen, von Lilienfeld 2020): 100,000 frames of a molecule, PBE/def2-SVP.

    Its keys are ``nuclear_charges``, ``coords`` (Angstrom), ``energies`` (kcal/mol) and ``forces`` (kcal/mol/Angstrom).
    Its frames are not in the order of time, so each is a block of its own.

    Raises:
        SofteqError: no such file, or it is damaged, or not of this kind.
    """
    path = Path(path)
    found = archive(path, ("nuclear_charges", "coords", "energies", "forces"))
    energies = found["energies"].reshape(-1).astype(np.float64) * KCAL_PER_MOL
    return Frames(
        name=path.stem.replace("_", "-"),
        numbers=found["nuclear_charges"].astype(np.int64),
        positions=found["coords"].astype(np.float64),
        energies=energies,
        forces=found["forces"].astype(np.float64) * KCAL_PER_MOL,
        block=np.arange(len(energies)),
        about={"source": "rMD17, doi 10.6084/m9.figshare.12672038", "method": "PBE/def2-SVP"},
    )


def rmd17_file(molecule: str) -> Path:
    """Where the file of a molecule should be.

    Raises:
        SofteqError: it is not there; says where to get it.
    """
    folder = os.environ.get(RMD17_VARIABLE)
    path = Path(folder or ".") / f"rmd17_{molecule}.npz"
    if not folder or not path.exists():
        raise SofteqError(RMD17_SOURCE if not folder else f"{path}: no such file; {RMD17_SOURCE}")
    return path


def archive(path: str | Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` by name, read without pickle.

    Raises:
        SofteqError: no such file, it lacks a key, is damaged, or has arrays of Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [key for key in keys if key not in file.files]:
                raise SofteqError(f"{path}: expected the keys {', '.join(keys)}, it lacks {', '.join(missing)}")
            return {key: file[key] for key in keys}
    except FileNotFoundError as error:
        raise SofteqError(f"{path}: no such file") from error
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, AttributeError) as error:
        raise SofteqError(f"{path}: cannot be read ({error}); if it is cut off or corrupt, get it again") from error
    except ValueError as error:  # an array of Python objects, which only unpickling could read; or no npz at all
        raise SofteqError(f"{path}: expected numpy arrays of numbers alone: {error}") from error
