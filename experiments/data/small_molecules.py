"""Many small molecules with energies and dipoles: the record type, and a set that is generated here.

The generated set is QM9-like and not QM9: molecules of the NCI file that rdkit ships, one conformer each by ETKDG and
MMFF, GFN2-xTB energies and dipoles. Units: Angstrom, eV, e Angstrom.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.data.molecules import archive
from softeq.experiments.data.trajectories import ENGINE, data_folder, held
from softeq.experiments.data.xtb import EXTRA, METHOD, Engine, embedded

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
HEAVY = 9


@dataclass(frozen=True)
class Molecules:
    """M molecules of different sizes.

    Attributes:
        name: of the set.
        numbers: per molecule ``(n,)`` atomic numbers.
        positions: per molecule ``(n, 3)``, Angstrom.
        energies: ``(M,)``, eV.
        dipoles: ``(M, 3)``, e Angstrom; ``None`` where the source has no vectors.
        labels: per molecule its SMILES.
        about: engine, method, seed; JSON-able.
        dipole_sizes: ``(M,)``, e Angstrom, where the source has no vectors but their sizes.

    Raises:
        SofteqValueError: shapes that do not belong together, or numbers that are not finite.
    """

    name: str
    numbers: Sequence[np.ndarray]
    positions: Sequence[np.ndarray]
    energies: np.ndarray
    dipoles: np.ndarray | None
    labels: Sequence[str]
    about: dict[str, Any] = field(default_factory=dict)
    dipole_sizes: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.energies)
        dipoles = np.zeros((count, 3)) if self.dipoles is None else self.dipoles
        lengths = np.zeros(count) if self.dipole_sizes is None else self.dipole_sizes
        sizes = (len(self.numbers), len(self.positions), len(self.labels), len(dipoles), len(lengths))
        finite = all(np.isfinite(values).all() for values in (self.energies, dipoles, lengths))
        if not count or sizes != (count,) * 5 or not finite:
            raise SofteqValueError(f"{self.name}: expected {count} molecules with finite numbers, got {sizes}")
        for index, (number, place) in enumerate(zip(self.numbers, self.positions, strict=True)):
            if place.shape != (len(number), 3) or not len(number) or not np.isfinite(place).all():
                raise SofteqValueError(f"{self.name}: expected finite positions (n, 3) of molecule {index}")

    def __len__(self) -> int:
        return len(self.energies)


def nci_smiles(limit: int | None = None) -> list[str]:
    """SMILES of the neutral molecules of H, C, N, O, F with at most nine heavy atoms, in the file's order.

    Raises:
        MissingExtraError: rdkit is not installed, or without its data.
    """
    try:
        from rdkit import Chem, RDConfig, RDLogger
    except ImportError as error:
        raise MissingExtraError(EXTRA) from error
    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not path.exists():
        raise MissingExtraError(f"this rdkit ships no NCI/first_5K.smi; {EXTRA}")
    logger: Any = RDLogger
    logger.DisableLog("rdApp.*")  # some thousand warnings on molecules that are not wanted
    try:
        found: list[str] = []
        for line in path.read_text().splitlines():
            molecule = Chem.MolFromSmiles(line.split()[0]) if line.split() else None
            if molecule is not None and _wanted(molecule, smiles := Chem.MolToSmiles(molecule)):
                found.append(smiles)
    finally:
        logger.EnableLog("rdApp.*")
    unique = list(dict.fromkeys(found))
    return unique if limit is None else unique[:limit]


def _wanted(molecule: Any, smiles: str) -> bool:
    atoms = list(molecule.GetAtoms())
    plain = all(a.GetSymbol() in ELEMENTS and not a.GetFormalCharge() and not a.GetNumRadicalElectrons() for a in atoms)
    return plain and 1 <= len(atoms) <= HEAVY and "." not in smiles


def qm9_like(
    *,
    seed: int = 0,
    limit: int | None = None,
    folder: str | Path | None = None,
    done: Callable[[int, int], None] = lambda finished, total: None,
) -> Molecules:
    """The generated set: read where it is, else computed (0.05 s per molecule) and kept.

    Molecules without a conformer, or at which the engine finds no solution, are left out and counted in ``about``.

    Args:
        seed: of the conformers.
        limit: the first so many molecules.
        folder: where sets are kept; `data_folder` by default.
        done: told how far it is.

    Raises:
        MissingExtraError: tblite or rdkit is not installed.
        SofteqError: the folder cannot be written.
    """
    place = data_folder() if folder is None else Path(folder)
    path = place / f"qm9-like-{'all' if limit is None else limit}-seed{seed}.npz"
    with held(path.with_suffix(".lock")):
        if not path.exists():
            _write(_computed(nci_smiles(limit), seed, done), path)
        return load(path)


def _computed(smiles: Sequence[str], seed: int, done: Callable[[int, int], None]) -> Molecules:
    rows: list[tuple[np.ndarray, np.ndarray, float, np.ndarray, str]] = []
    left_out = []
    for index, text in enumerate(smiles):
        try:
            numbers, positions = embedded(text, seed + 1)
            found = Engine(numbers)(positions)
            rows.append((numbers, positions, found.energy, found.dipole, text))
        except MissingExtraError:
            raise
        except SofteqError as error:
            left_out.append([text, str(error)])
        done(index + 1, len(smiles))
    numbers_, positions_, energies, dipoles, labels = zip(*rows, strict=True)
    about = {"engine": ENGINE, "method": METHOD, "conformers": "ETKDG and MMFF (rdkit)", "source": "NCI first_5K"}
    return Molecules(
        "qm9-like",
        numbers_,
        positions_,
        np.array(energies),
        np.array(dipoles),
        labels,
        {**about, "seed": seed, "left_out": left_out},
    )


def _write(molecules: Molecules, path: Path) -> None:
    counts = np.array([len(n) for n in molecules.numbers])
    arrays = {
        "counts": counts,
        "z": np.concatenate(molecules.numbers),
        "R": np.concatenate(molecules.positions),
        "E": molecules.energies,
        "dipoles": molecules.dipoles,
        "labels": np.array(list(molecules.labels)),
        "about": np.array(json.dumps(molecules.about)),
    }
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    except OSError as error:
        raise SofteqError(f"{path}: cannot be written: {error.strerror}") from error


def load(path: str | Path) -> Molecules:
    """Read what `qm9_like` wrote.

    Raises:
        SofteqError: no such file, or it is damaged, or not of this kind.
    """
    found = archive(path, ("counts", "z", "R", "E", "dipoles", "labels", "about"))
    ends = np.cumsum(found["counts"])[:-1]
    try:
        about = json.loads(str(found["about"]))
    except ValueError as error:
        raise SofteqError(f"{path}: its description is damaged; delete it and generate it again") from error
    numbers, positions = np.split(found["z"], ends), np.split(found["R"], ends)
    labels = [str(label) for label in found["labels"]]
    return Molecules("qm9-like", numbers, positions, found["E"], found["dipoles"], labels, about)
