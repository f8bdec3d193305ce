"""The published QM9 (Ramakrishnan et al., Scientific Data 2014): the package ``qm9pack``, or its own xyz files.

130,831 molecules of H, C, N, O, F with at most nine heavy atoms, B3LYP/6-31G(2df,p): one geometry each, energies, and
the size of the dipole, not its direction. Units: Angstrom, eV, e Angstrom.
"""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.data.small_molecules import ELEMENTS, Molecules
from softeq.experiments.data.xtb import HARTREE

FOLDER_VARIABLE = "SOFTEQ_QM9"
"""The environment variable that names the folder with QM9's files, ``dsgdb9nsd_000001.xyz`` and so on."""
SOURCE = (
    "QM9 is not here: pip install 'softeq[qm9]' (230 MB), or get it by its DOI 10.1038/sdata.2014.22 and set "
    f"{FOLDER_VARIABLE} to the unpacked folder"
)
DEBYE = 0.20819433442462576  # e Angstrom
TARGETS = {
    "U0": ("InternalEnergy_0K_au", 12),
    "U": ("InternalEnergy_298K_au", 13),
    "H": ("Enthalphy_298K_au", 14),
    "G": ("GibbsFreeEnergy_298K_au", 15),
    "ZPVE": ("ZPVE_au", 11),
    "HOMO": ("HOMO_au", 7),
    "LUMO": ("LUMO_au", 8),
    "gap": ("HOMO_LUMO_gap_au", 9),
}
"""Energies by name: the column of the package's tables, and the place in the second line of an xyz file."""
_DIPOLE, _NUMBERS = ("Dipole_debye", 5), 17
_TENSORS = ("A_xx", "A_xy", "A_yy", "A_xz", "A_yz", "A_zz", "polarizability", "polarisability")
_PLAIN = str.maketrans("", "", "[]' ")


class Row(NamedTuple):
    """One molecule: ``(n,)``, ``(n, 3)`` Angstrom, eV, e Angstrom, SMILES."""

    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    dipole_size: float
    label: str


def qm9(limit: int | None = None, *, target: str = "U0", folder: str | Path | None = None) -> Molecules:
    """The published set, or part of it.

    Args:
        limit: so many molecules, evenly over the set's order, which goes from small to large.
        target: the energy, a key of `TARGETS`.
        folder: with the package's ``qm9_part*.csv`` or the published xyz files; by default the one that
            `FOLDER_VARIABLE` names, else the installed package's.

    Raises:
        SofteqValueError: a target that is not an energy, or the polarisability, whose tensors are of no use with the
            geometries.
        MissingExtraError: the set is not there.
        SofteqError: a file is damaged, or the folder has none.
    """
    _check_target(target)
    place = Path(folder or os.environ.get(FOLDER_VARIABLE) or _package())
    tables, files = sorted(place.glob("qm9_part*.csv")), sorted(place.glob("dsgdb9nsd_*.xyz"))
    if tables:
        rows = _from_tables(tables, limit, target)
    elif files:
        rows = [read_xyz(files[k], target) for k in _evenly(len(files), limit)]
    else:
        raise SofteqError(f"{place}: neither qm9_part*.csv nor dsgdb9nsd_*.xyz is in it; {SOURCE}")
    about = {
        "source": "QM9, doi 10.1038/sdata.2014.22",
        "method": "B3LYP/6-31G(2df,p)",
        "energy": target,
        "files": "tables of qm9pack" if tables else "xyz",
    }
    numbers, positions, energies, sizes, labels = (list(part) for part in zip(*rows, strict=True))
    return Molecules("qm9", numbers, positions, np.array(energies), None, labels, about, dipole_sizes=np.array(sizes))


def _check_target(target: str) -> None:
    if target in _TENSORS:
        raise SofteqValueError(
            f"target: {target} is a part of tensors in the quantum chemistry program's own axes, not in those of the "
            f"published geometries, so that no network can learn them from these; expected one of {', '.join(TARGETS)}"
        )
    if target not in TARGETS:
        raise SofteqValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")


def _package() -> Path:
    found = importlib.util.find_spec("qm9pack")  # its own loader is not needed: it reads everything into pandas
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(SOURCE)
    return Path(found.submodule_search_locations[0]) / "data"


def _evenly(count: int, limit: int | None) -> Sequence[int]:
    if limit is not None and limit < 1:
        raise SofteqValueError(f"limit: expected at least 1, got {limit}")
    wanted = count if limit is None else min(limit, count)
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def _from_tables(paths: Sequence[Path], limit: int | None, target: str) -> list[Row]:
    counts = [sum(1 for _ in _body(path)) for path in paths]
    if not sum(counts):
        raise SofteqError(f"{paths[0]}: expected a table of QM9, it has no molecule")
    wanted, first, rows = set(_evenly(sum(counts), limit)), 0, []
    for path, count in zip(paths, counts, strict=True):
        with path.open(encoding="utf-8") as file:
            columns = next(csv.reader(file))
        rows += [_table_row(path, columns, line, target) for k, line in enumerate(_body(path), first) if k in wanted]
        first += count
    return rows


def _body(path: Path) -> Iterator[str]:
    """The lines of a table below its head, one at a time: together they are 230 MB."""
    try:
        with path.open(encoding="utf-8") as file:
            next(file, None)
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise SofteqError(f"{path}: expected a table of QM9, cannot read it: {error}") from error


def _table_row(path: Path, columns: Sequence[str], line: str, target: str) -> Row:
    """One line of the package's tables, whose lists of atoms and positions are Python's, not JSON's."""

    def read() -> Row:
        cells = dict(zip(columns, next(csv.reader([line])), strict=True))
        numbers = _elements(cells["Elements"].translate(_PLAIN).split(","))
        positions = np.array(cells["XYZ_Ang"].translate(_PLAIN).split(","), dtype=np.float64).reshape(-1, 3)
        if not len(numbers) == len(positions) == int(cells["N_atoms"]):
            raise ValueError(f"{len(numbers)} elements, {len(positions)} positions, {cells['N_atoms']} atoms")
        energy, size = float(cells[TARGETS[target][0]]), float(cells[_DIPOLE[0]])
        return Row(numbers, positions, energy * HARTREE, size * DEBYE, cells["SMILES"])

    return _read(path, f"a line of QM9's tables, in {line[:40]!r}", read)


def read_xyz(path: str | Path, target: str = "U0") -> Row:
    """One file of the published set.

    Its format: the number of atoms; ``gdb``, an index and 15 properties; an atom per line with its Mulliken charge;
    frequencies; SMILES; InChI. Some floats are written ``1.5*^-6``. Energies are in Hartree, the dipole in Debye.

    Raises:
        SofteqValueError: see `qm9`.
        SofteqError: it cannot be read or is not in this format.
    """
    _check_target(target)

    def read() -> Row:
        lines = Path(path).read_text().splitlines()
        count, properties = int(lines[0]), lines[1].split()
        atoms = [line.split() for line in lines[2 : 2 + count]]
        positions = np.array([[_number(value) for value in atom[1:4]] for atom in atoms])
        if len(properties) != _NUMBERS or positions.shape != (count, 3) or properties[0] != "gdb":
            raise ValueError(f"{len(properties)} properties, {len(atoms)} atoms of {count}")
        energy, size = _number(properties[TARGETS[target][1]]), _number(properties[_DIPOLE[1]])
        numbers, label = _elements([atom[0] for atom in atoms]), lines[3 + count].split()[0]
        return Row(numbers, positions, energy * HARTREE, size * DEBYE, label)

    return _read(Path(path), "a file of QM9's xyz format", read)


def _read(path: Path, kind: str, read: Callable[[], Row]) -> Row:
    try:
        return read()
    except FileNotFoundError as error:
        raise SofteqError(f"{path}: no such file; {SOURCE}") from error
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise SofteqError(f"{path}: expected {kind}, cannot read it: {error}") from error


def _elements(symbols: Sequence[str]) -> np.ndarray:
    return np.array([ELEMENTS[symbol] for symbol in symbols], dtype=np.int64)


def _number(text: str) -> float:
    return float(text.replace("*^", "e"))
