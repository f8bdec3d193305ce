"""The whole audit of a calculator: every check that these atoms allow, and the causes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.measure.calculators.causes import Facts, causes_of
from softeq.measure.calculators.continuity import jumps, path_of
from softeq.measure.calculators.dynamics import drift
from softeq.measure.calculators.evaluate import Evaluate, Point
from softeq.measure.calculators.noise import Noise, noise_of
from softeq.measure.calculators.result import CalculatorResult, Levels, symmetry_numbers
from softeq.measure.calculators.slopes import net, slopes, strain_slopes
from softeq.measure.calculators.symmetry import Deviations, all_symmetries, deviations, translations
from softeq.measure.errors import NotMeasurable

try:
    from ase.data import chemical_symbols
except ImportError as error:
    raise MissingExtraError("auditing a calculator needs ase: pip install 'softeq[engine]'") from error

OnCheck = Callable[[str], None]
NEAREST = 0.1
"""Angstrom; no two atoms are nearer."""


@dataclass
class _Found:
    """What is gathered on the way."""

    symmetries: dict[str, dict[int, Deviations]] = field(default_factory=dict)  # by the structures that allow it
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def of_first(self) -> dict[str, Deviations]:
        """The symmetries of the first structure."""
        return {name: parts[0] for name, parts in self.symmetries.items() if 0 in parts}


def audit_calculator(
    calculator: Any,
    atoms: Any,
    *,
    degree: int = 5,
    steps: int = 400,
    temperature: float = 300.0,
    energy_error: float | None = None,
    force_error: float | None = None,
    seed: int = 0,
    on_check: OnCheck = lambda name: None,
) -> CalculatorResult:
    """Energy, forces and stress under every symmetry of physics, and against each other.

    The symmetries are measured on all structures; slopes, jumps, the run at constant energy and the causes on the
    first. A check that these atoms do not allow, or at which the calculator fails, is named with its reason in
    ``not_measurable`` and does not stop the others.

    Args:
        calculator: an ase ``Calculator``.
        atoms: an ase ``Atoms``, or several.
        degree: of the quadrature over SO(3), see `rotation_quadrature`; 108 rotations at 5.
        steps: of the run at constant energy, 20 or more; 0 leaves it out.
        temperature: kelvin, of the run and of kT.
        energy_error, force_error: the model's own test errors, eV per atom and eV/Angstrom, to hold deviations against.
        seed: of directions, permutations and velocities.
        on_check: told the name of each check as it begins.

    Raises:
        SofteqTypeError: no calculator, or no atoms.
        SofteqValueError: a number out of range, or a structure without atoms, with atoms on top of each other, or with
            positions that are not finite.
        NotMeasurable: the calculator fails at a structure as it is.
    """
    structures = _structures(atoms)
    _check_numbers(degree, steps, seed, temperature, energy_error, force_error)
    evaluate, found, generator = Evaluate(calculator), _Found(), np.random.default_rng(seed)
    on_check("structures")
    bases = [evaluate(own) for own in structures]
    first, base = structures[0], bases[0]
    noise = noise_of(base, _asked_again(evaluate, first, generator))
    _symmetries(evaluate, structures, bases, degree, generator, found, on_check)
    _summarise(found, structures, _force_rms(bases))
    facts = Facts(evaluate, first, base, noise, found.of_first(), generator)
    facts = _mechanics(facts, found, steps, temperature, on_check)
    on_check("causes")
    causes = causes_of(facts)
    return CalculatorResult(
        formula=first.get_chemical_formula(),
        structures=len(structures),
        atoms=len(first),
        periodic=bool(first.pbc.any()),
        precision="float32" if noise.single else "float64",
        calls=evaluate.calls,
        scales=_scales(bases, noise),
        levels=Levels.of(len(first), temperature, energy_error, force_error),
        checks=found.checks,
        not_measurable=found.missing,
        causes=causes,
    )


def _structures(atoms: Any) -> list[Any]:
    from ase import Atoms

    structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    if not structures:
        raise SofteqValueError("atoms: expected at least one structure, got none")
    for index, own in enumerate(structures):
        where = f"atoms: structure {index}"
        if not isinstance(own, Atoms):
            raise SofteqTypeError(f"{where}: expected an ase Atoms, got {type(own).__name__}")
        if not len(own):
            raise SofteqValueError(f"{where}: expected at least one atom, got none")
        if not np.isfinite(own.positions).all() or not np.isfinite(own.cell.array).all():
            raise SofteqValueError(f"{where}: expected finite positions and cell")
        if own.pbc.any() and not np.linalg.norm(own.cell.array[own.pbc], axis=1).all():
            raise SofteqValueError(f"{where}: is periodic along {own.pbc.tolist()} and lacks the cell's vectors there")
        distances = own.get_all_distances(mic=bool(own.pbc.any())) + np.eye(len(own)) * 9
        if distances.min() < 0.1:
            i, j = np.unravel_index(distances.argmin(), distances.shape)
            raise SofteqValueError(
                f"{where}: atoms {i} and {j} are {distances.min():.2g} Å apart, expected 0.1 or more"
            )
    return structures


def _check_numbers(
    degree: int, steps: int, seed: int, temperature: float, energy_error: float | None, force_error: float | None
) -> None:
    if not 1 <= degree <= 15:
        raise SofteqValueError(f"degree: expected 1 to 15, got {degree}")
    if seed < 0:
        raise SofteqValueError(f"seed: expected 0 or more, got {seed}")
    if steps != 0 and not 20 <= steps <= 1_000_000:
        raise SofteqValueError(f"steps: expected 20 or more, or 0 for none, got {steps}")
    for name, value in {"temperature": temperature, "energy_error": energy_error, "force_error": force_error}.items():
        if value is not None and not 0 < value < np.inf:
            raise SofteqValueError(f"{name}: expected a finite number above 0, got {value}")


def _asked_again(evaluate: Evaluate, atoms: Any, generator: np.random.Generator) -> list[Point]:
    """Answers for the same atoms with other questions in between."""
    found = []
    for element in translations(atoms, generator):
        evaluate(element.moved)
        found.append(evaluate(atoms))
    return found


def _force_rms(points: Sequence[Point]) -> float:
    forces = [point.forces for point in points if point.forces is not None]
    return float(np.sqrt(np.mean(np.concatenate(forces) ** 2) * 3)) if forces else float("nan")


def _symmetries(
    evaluate: Evaluate,
    structures: Sequence[Any],
    bases: Sequence[Point],
    degree: int,
    generator: np.random.Generator,
    found: _Found,
    on_check: OnCheck,
) -> None:
    """Of every structure, all symmetries that it allows."""
    for index, (atoms, base) in enumerate(zip(structures, bases, strict=True)):
        for name, elements in all_symmetries(atoms, degree, generator):
            on_check(name)
            if isinstance(elements, NotMeasurable):
                found.missing.setdefault(name, str(elements))
                continue
            try:
                measured = deviations(evaluate, base, elements)
                found.symmetries.setdefault(name, {})[index] = measured
            except NotMeasurable as reason:
                found.missing.setdefault(name, str(reason))


def _summarise(found: _Found, structures: Sequence[Any], size: float) -> None:
    """The numbers of each symmetry over the structures that allow it; `size` is of a force, eV/Angstrom."""
    for name, parts in found.symmetries.items():
        numbers = [structures[index].numbers for index in parts]
        symbols = {int(k): chemical_symbols[k] for own in numbers for k in own}
        found.checks[name] = symmetry_numbers(list(parts.values()), numbers, symbols, size)
        if name in found.missing:
            found.missing[name] += f"; {len(structures) - len(parts)} of {len(structures)} structures"
        if 0 not in parts:  # of the first structure, whose atoms are drawn
            found.checks[name].pop("force_by_atom_ev_per_a", None)


def _scales(bases: Sequence[Point], noise: Noise) -> dict[str, float]:
    """What the deviations are small or large beside."""
    return {
        "energy_ev": bases[0].energy,
        "force_rms_ev_per_a": _force_rms(bases),
        "energy_noise_ev": noise.energy,
        "force_noise_ev_per_a": noise.forces,
    }


def _mechanics(facts: Facts, found: _Found, steps: int, temperature: float, on_check: OnCheck) -> Facts:
    """Net force and torque, slopes, stress, jumps and the run; the facts with what was found."""
    evaluate, atoms, base, generator = facts.evaluate, facts.atoms, facts.base, facts.generator

    def tried(name: str, measure: Callable[[], Any]) -> Any:
        on_check(name)
        try:
            return measure()
        except NotMeasurable as reason:
            found.missing[name] = str(reason)
            return None

    if (total := tried("net force", lambda: net(atoms, base))) is not None:
        found.checks["net force"] = {"force_ev_per_a": float(np.linalg.norm(total.force))}
        if total.torque is not None:
            found.checks["net force"]["torque_ev_per_rad"] = float(np.linalg.norm(total.torque))
    if (own := tried("slopes", lambda: slopes(evaluate, atoms, base, generator))) is not None:
        error = np.abs(own.said - own.found)
        found.checks["slopes"] = {
            "force_mean_ev_per_a": float(error.mean()),
            "force_max_ev_per_a": float(error.max()),
            "doubt_max_ev_per_a": float(own.doubt.max()),
            "coordinates": len(error),
        }
    if (strain := tried("stress", lambda: strain_slopes(evaluate, atoms, base))) is not None:
        found.checks["stress"] = {"stress_max_ev_per_a3": float(np.abs(strain[0] - strain[1]).max())}
    path = tried("jumps", lambda: path_of(atoms, generator))
    steep = None if path is None else tried("jumps", lambda: jumps(evaluate, path))
    if steep is not None:
        found.checks["jumps"] = {
            "energy_max_ev": max(jump.energy for jump in steep),
            "force_max_ev_per_a": max(jump.forces for jump in steep),
            "path": path.about,
            "places": [asdict(jump) for jump in steep],
        }
    run = lambda: drift(evaluate, atoms, steps=steps, temperature=temperature, generator=generator)
    if steps and (moved := tried("constant energy", run)) is not None:
        found.checks["constant energy"] = {
            "drift_mev_per_atom_ps": moved.slope,
            "drift_error_mev_per_atom_ps": moved.error,
            "spread_mev_per_atom": moved.spread,
            "steps": moved.steps,
            "step_fs": moved.femtoseconds,
        }
    return replace(facts, slopes=own, strain=strain, path=path, jumps=steep or [])
