"""Why a calculator does not follow a symmetry, where a few more questions to it can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softeq.measure.calculators.continuity import Jump, Path
from softeq.measure.calculators.cutoffs import cause_of
from softeq.measure.calculators.evaluate import Evaluate, Point
from softeq.measure.calculators.noise import SINGLE, Noise
from softeq.measure.calculators.probes import cell_taken, invariant_axis, is_constant, smallest_ordered
from softeq.measure.calculators.slopes import STEP, STRAIN, Slopes
from softeq.measure.calculators.symmetry import Deviations
from softeq.measure.errors import NotMeasurable

Array = np.ndarray


FOLLOW = {
    "not repeatable": ("direct forces", "stress", "jump"),
    "neighbour cap": ("jump", "periodic images", "handedness", "order of the atoms", "direct forces", "stress"),
    "cell not rotated": ("periodic images", "stress", "unit of the stress"),
    "periodic images": ("stress",),
}
"""Per cause those that would be named beside it and only follow from it."""


@dataclass(frozen=True)
class Cause:
    """A cause by name, and what shows it."""

    name: str
    evidence: str


@dataclass(frozen=True)
class Facts:
    """All that was found for one structure; see `audit.audit_calculator`."""

    evaluate: Evaluate
    atoms: Any
    base: Point
    noise: Noise
    symmetries: Mapping[str, Deviations]
    generator: np.random.Generator
    slopes: Slopes | None = None
    strain: tuple[Array, Array, Array] | None = None
    path: Path | None = None
    jumps: list[Jump] = field(default_factory=list)

    def broken(self, name: str) -> tuple[float, float] | None:
        """The largest deviations in energy and forces under a symmetry, or None where it holds or was not measured."""
        found = self.symmetries.get(name)
        if found is None:
            return None
        energy = float(np.abs(found.energy).max())
        forces = 0.0 if found.forces is None else float(np.linalg.norm(found.forces, axis=-1).max())
        return (energy, forces) if energy > self.noise.energy or forces > self.noise.forces else None


def causes_of(facts: Facts) -> list[Cause]:
    """All causes that the facts show; a rule whose own questions the calculator cannot answer is passed over."""
    rules: tuple[Callable[[Facts], Cause | None], ...] = (
        _repeated,
        _constant,
        _precision,
        _order,
        _place,
        _direction,
        _handedness,
        _cell_description,
        _forces,
        _stress,
        _jumps,
    )
    found: dict[str, Cause] = {}
    for rule in rules:
        try:
            cause = rule(facts)
        except NotMeasurable:
            continue
        if cause is not None:
            found.setdefault(cause.name, cause)
    followed = {name for cause in found for name in FOLLOW.get(cause, ())}
    return [cause for name, cause in found.items() if name not in followed]


def _repeated(facts: Facts) -> Cause | None:
    energy, forces = facts.noise.repeated
    if energy <= 1e-5 and forces <= 1e-3:
        return None  # as an iteration leaves that is stopped at a tolerance
    return Cause(
        "not repeatable",
        f"the same atoms, asked again after others, have an energy {energy:.2g} eV and forces {forces:.2g} eV/Å away: "
        "chance (dropout, sampling) or memory of what was asked before; nothing below that can be measured",
    )


def _constant(facts: Facts) -> Cause | None:
    if len(facts.atoms) == 1 and not facts.atoms.pbc.any():
        return None
    if not is_constant(facts.evaluate, facts.atoms, facts.base.energy, facts.generator):
        return None
    return Cause(
        "constant",
        "moving every atom and stretching the cell leave the energy exactly as it was: nothing depends on the atoms, "
        "and symmetry means nothing",
    )


def _amounts(found: tuple[float, float]) -> str:
    forces = f" and forces by up to {found[1]:.2g} eV/Å" if found[1] else ""  # 0 where there are none, too
    return f"the energy by up to {found[0]:.2g} eV{forces}"


def _precision(facts: Facts) -> Cause | None:
    if not facts.noise.single:
        return None
    rounding = SINGLE * abs(facts.base.energy)
    return Cause(
        "float32",
        f"every force is a float32 number; an energy of {facts.base.energy:.6g} eV is then rounded to {rounding:.1g} "
        "eV, and deviations up to some ten times that are rounding: compute in float64 to see smaller ones",
    )


def _place(facts: Facts) -> Cause | None:
    if (found := facts.broken("translation")) is None:
        return None
    return Cause("absolute positions", f"shifting all atoms changes {_amounts(found)}")


def _direction(facts: Facts) -> Cause | None:
    found = facts.broken("rotation")
    if found is None or found[0] <= facts.noise.energy:
        return None  # forces alone that do not rotate with the atoms are no slopes: see _forces
    if facts.atoms.pbc.any() and (cell := _asked(facts, cell_taken)) is not None:
        return cause_of_cell(cell, found[0])
    axis = invariant_axis(facts.evaluate, facts.atoms, facts.generator)
    if axis is None:
        return Cause(
            "direction",
            f"the energy itself depends on the direction, by up to {found[0]:.2g} eV, and on no axis alone: an "
            "unconstrained network, or a grid",
        )
    return Cause(
        "field",
        f"the energy depends on the direction, by up to {found[0]:.2g} eV, but not on rotations about "
        f"[{', '.join(f'{x:.3f}' for x in axis.round(3) + 0.0)}]: a field or a surface along it",
    )


def cause_of_cell(cell: str, energy: float) -> Cause:
    """The cause by the name of what the calculator takes for the cell."""
    return Cause(
        "cell not rotated",
        f"atoms rotated with their cell change the energy by up to {energy:.2g} eV, and the energy is exactly the same "
        f"with {cell} in the rotated cell's place: the calculator does not see how the cell lies",
    )


def _asked(facts: Facts, probe: Callable[[Evaluate, Any, float, np.random.Generator], Any]) -> Any:
    """What a probe finds; None also where the calculator has no answer, as one that knows no vacuum."""
    try:
        return probe(facts.evaluate, facts.atoms, facts.noise.energy, facts.generator)
    except NotMeasurable:
        return None


def _is_slope(facts: Facts) -> bool:
    return facts.slopes is None or _slope_error(facts, facts.slopes) is None


def _handedness(facts: Facts) -> Cause | None:
    found = facts.broken("inversion")
    if found is None or found[0] <= facts.noise.energy or facts.broken("rotation") or facts.broken("translation"):
        return None
    return Cause(
        "handedness",
        f"rotations change nothing and the inversion changes the energy by {found[0]:.2g} eV: mirror images differ",
    )


def _order(facts: Facts) -> Cause | None:
    found = facts.broken("permutation")
    others = ("images", "repeated cell", "another cell", "inversion")  # the order of images is the calculator's own
    if found is None and not any(facts.broken(name) for name in others):
        return None
    size = _asked(facts, smallest_ordered)
    told = f"exchanging like atoms in the list changes {_amounts(found)}; " if found else ""
    if size is None or size < 4:
        return Cause("order of the atoms", told.removesuffix("; ")) if found else None
    return Cause(
        "neighbour cap",
        f"{told}clusters of up to {size - 1} atoms have no order and those of {size} have: a cap that keeps the "
        f"first {size - 2} neighbours of the list, or fewer where not all atoms of the cluster are neighbours",
    )


def _cell_description(facts: Facts) -> Cause | None:
    said = {
        "images": "exchanging atoms with their images, outside of the cell,",
        "repeated cell": "repeating the cell (per cell)",
        "another cell": "describing the same crystal by another cell",
    }
    found = {name: facts.broken(name) for name in said}
    real = {n: value for n, value in found.items() if value and (value[0] > facts.noise.energy or _is_slope(facts))}
    worst = [f"{said[name]} changes {_amounts(value)}" for name, value in real.items()]
    if not worst:
        return None
    return Cause("periodic images", "; ".join(worst) + ": neighbours across the cell's faces are missed or misplaced")


def _forces(facts: Facts) -> Cause | None:
    if facts.slopes is None or (error := _slope_error(facts, facts.slopes)) is None:
        return None
    factor, rest = facts.slopes.factor
    if rest < 1e-3 and abs(factor - 1) > 1e-3:
        return Cause("unit of the forces", f"the forces are {factor:.6g} times minus the energy's slope, else right")
    return Cause(
        "direct forces",
        f"the forces are up to {error:.2g} eV/Å away from minus the energy's slope: they are predicted beside the "
        "energy, or a term has no derivative; the total energy will not be conserved",
    )


def _slope_error(facts: Facts, own: Slopes) -> float | None:
    """The largest difference between forces and slopes, where it is more than rounding and the finite step explain."""
    error = np.abs(own.said - own.found)
    explained = facts.noise.forces + own.doubt + 3 * facts.noise.rounding / STEP
    return float(error.max()) if (error > explained).any() else None


def _stress(facts: Facts) -> Cause | None:
    if facts.strain is None:
        return None
    said, found, doubt = facts.strain
    error = np.abs(said - found)
    explained = 1e-6 + doubt + 3 * facts.noise.rounding / STRAIN / facts.atoms.get_volume()
    if not (error > explained).any():
        return None
    factor = float(said @ found) / max(float(found @ found), 1e-300)
    if np.linalg.norm(said - factor * found) < 1e-3 * np.linalg.norm(said):
        told = f"the stress is {factor:.6g} times the energy's slope under strain, else right"
        return Cause("unit of the stress", told)
    return Cause("stress", f"the stress is up to {error.max():.2g} eV/Å³ away from the energy's slope under strain")


def _jumps(facts: Facts) -> Cause | None:
    if facts.path is None:
        return None
    least = (10 if facts.noise.single else 1) * facts.noise.forces
    large = [j for j in facts.jumps if j.energy > facts.noise.energy or j.forces > least]
    if not large:
        return None
    energy, forces = max(j.energy for j in large), max(j.forces for j in large)
    told = f"energy and forces jump by up to {energy:.2g} eV and {forces:.2g} eV/Å ({facts.path.about})"
    why = cause_of(facts.evaluate, facts.path, large)
    if why.ranks:
        kept = " or ".join(map(str, why.ranks[:3])) + (" or another" if len(why.ranks) > 3 else "")
        return Cause(
            "neighbour cap",
            f"{told}, where an atom's neighbour {kept} and the next exchange their places: a cap that keeps the {kept} "
            "nearest",
        )
    if why.cutoff is not None:
        return Cause("cutoff", f"{told}, wherever two atoms are {why.cutoff:.4f} Å apart: no smooth end there")
    return Cause("jump", f"{told}; at no common distance")
