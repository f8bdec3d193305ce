"""`softeq audit --calculator`: an ase calculator on a file of structures; one record, and its words.

A calculator has no weights that could be compared, so that nothing is resumed: each call measures anew, and the report
shows the last record of each calculator and file.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.engine import provenance, record
from softeq.measure.loading.factory import made

EXPERIMENT = "audit-calculator"
PRESET = "audit"


@dataclass(frozen=True)
class CalculatorSettings:
    """The options of one audit of a calculator.

    Attributes:
        calculator: ``module:factory``, of an ase calculator.
        atoms: a file that ase reads.
        structures: of the file at most, evenly over it.
        degree, steps, temperature, seed: see `audit_calculator`.
        energy_error, force_error: the model's own test errors, meV per atom and meV/Angstrom.
    """

    calculator: str
    atoms: str
    structures: int = 5
    degree: int = 5
    steps: int = 400
    temperature: float = 300.0
    energy_error: float | None = None
    force_error: float | None = None
    seed: int = 0


def audit_one(
    settings: CalculatorSettings, out: str | Path, on_check: Callable[[str], None] = lambda name: None
) -> record.Record:
    """Measure, and append the record to ``out/audit-calculator.jsonl``; the record.

    Raises:
        MissingExtraError: ase is not installed.
        SofteqError: a calculator or a file that is not there or is none, or that fails at the structures as they are.
    """
    try:
        from softeq.measure.calculators.audit import audit_calculator
    except ImportError as error:
        raise MissingExtraError("auditing a calculator needs ase: pip install 'softeq[engine]'") from error
    record.check_writable(out, EXPERIMENT)
    structures = read_structures(settings.atoms, settings.structures)
    calculator = load_calculator(settings.calculator)
    began = time.perf_counter()
    found = audit_calculator(
        calculator,
        structures,
        degree=settings.degree,
        steps=settings.steps,
        temperature=settings.temperature,
        energy_error=_milli("energy-error", settings.energy_error, "meV per atom"),
        force_error=_milli("force-error", settings.force_error, "meV/Å"),
        seed=settings.seed,
        on_check=on_check,
    )
    kind = type(calculator)
    config = {
        **asdict(settings),
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "atoms_hash": hashlib.sha256(Path(settings.atoms).read_bytes()).hexdigest()[:16],
    }
    first = structures[0]
    structure = {"symbols": first.get_chemical_symbols(), "positions": first.positions.round(6).tolist()}
    line = record.make(
        EXPERIMENT,
        PRESET,
        f"{settings.calculator}/{Path(settings.atoms).name}",
        settings.seed,
        config=config,
        metrics={**found.as_dict(), "structure": structure},
        provenance=provenance.of_run({"dtype": found.precision}, time.perf_counter() - began),
    )
    record.append(record.record_path(out, EXPERIMENT), line)
    return line


def load_calculator(name: str) -> Any:
    """The calculator behind ``module:factory``.

    Raises:
        SofteqError: see `made`.
    """
    if ":" not in name:
        raise SofteqValueError(f"calculator: expected module:factory, as ase.calculators.emt:EMT, got {name!r}")
    return made(name, "calculator", lambda found: callable(getattr(found, "get_property", None)), "an ase Calculator")


def read_structures(path: str | Path, most: int) -> list[Any]:
    """At most so many structures of a file, evenly over it, the first and the last among them.

    Raises:
        SofteqValueError: ``most`` is not above 0.
        SofteqError: no such file, or ase cannot read it.
    """
    if most < 1:
        raise SofteqValueError(f"structures: expected at least 1, got {most}")
    if not Path(path).is_file():
        raise SofteqError(f"atoms: {path}: no such file")
    from ase.io import read

    try:
        found = read(path, index=":")
    except Exception as error:  # a reader for each of some eighty formats, and each raises what it likes
        said = " ".join(str(error).split())[:300]
        raise SofteqError(f"atoms: {path}: ase cannot read it: {type(error).__name__}: {said}") from error
    if not found:
        raise SofteqError(f"atoms: {path}: no structure is in it")
    count = min(most, len(found))
    return [found[round(k * (len(found) - 1) / max(1, count - 1))] for k in range(count)]


def _milli(name: str, value: float | None, unit: str) -> float | None:
    if value is None:
        return None
    if not 0 < value < float("inf"):
        raise SofteqValueError(f"{name}: expected a finite number above 0, in {unit}, got {value:g}")
    return value / 1000
