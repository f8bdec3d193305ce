"""Further questions to a calculator, whose answers tell one cause from another."""

from __future__ import annotations

from typing import Any

import numpy as np

from softeq.measure.calculators.evaluate import Evaluate, forces_of
from softeq.measure.calculators.symmetry import rotations
from softeq.measure.errors import NotMeasurable

Array = np.ndarray
LARGEST_CLUSTER = 48
"""Atoms; more neighbours than any cap in use keeps would be within some 7 Angstrom of a solid."""


def cell_taken(evaluate: Evaluate, atoms: Any, noise: float, generator: np.random.Generator) -> str | None:
    """What the calculator takes for the rotated cell; None where it is the direction of the atoms that counts."""
    from ase.cell import Cell

    turns = [element.moved for element in rotations(atoms, 1, generator)]
    if any(differs(evaluate, noise, in_vacuum(turn), in_vacuum(atoms)) for turn in turns):
        return None
    turn = turns[-1]
    own = evaluate(turn).energy
    told = {
        "a cell 15% larger": 1.15 * turn.cell.array,
        "another cell of the same lengths and angles": Cell.fromcellpar(turn.cell.cellpar()).array,
        "the diagonal of its matrix alone": np.diag(np.diag(turn.cell.array)),
    }
    for name, cell in told.items():
        if abs(np.linalg.det(cell)) < 1e-3:
            continue
        other = turn.copy()
        other.set_cell(cell, scale_atoms=False)
        try:
            same = abs(evaluate(other).energy - own) <= 1e-9 * max(1.0, abs(own))
        except NotMeasurable:
            continue
        if same:
            return name
    return None


def in_vacuum(atoms: Any) -> Any:
    """The atoms without a cell."""
    bare = atoms.copy()
    bare.pbc = False
    bare.cell = None
    return bare


def differs(evaluate: Evaluate, noise: float, first: Any, second: Any) -> bool:
    """Whether two lots of atoms have energies more than the noise apart."""
    return abs(evaluate(first).energy - evaluate(second).energy) > noise


def invariant_axis(evaluate: Evaluate, atoms: Any, generator: np.random.Generator) -> Array | None:
    """The axis about which the torque is always 0, where there is one and no other."""
    if atoms.pbc.any() or not evaluate.has("forces"):
        return None
    torques = []
    for g in [element.moved for element in rotations(atoms, 1, generator)]:
        point = evaluate(g)
        torques.append(np.cross(g.positions - g.positions.mean(0), forces_of(point)).sum(0))
    values, vectors = np.linalg.eigh(np.array(torques).T @ np.array(torques))
    if values[0] > 1e-6 * values[2] or values[1] < 1e-3 * values[2]:
        return None
    axis = vectors[:, 0]
    return axis * np.sign(axis[np.abs(axis).argmax()])


def smallest_ordered(evaluate: Evaluate, atoms: Any, noise: float, generator: np.random.Generator) -> int | None:
    """How many atoms, nearest first, a cluster in vacuum needs so that their order counts."""
    whole = in_vacuum(atoms.repeat([3 if p else 1 for p in atoms.pbc]))
    middle = whole.positions[np.linalg.norm(whole.positions - whole.positions.mean(0), axis=1).argmin()]
    near = np.argsort(np.linalg.norm(whole.positions - middle, axis=1))[:LARGEST_CLUSTER]
    for size in range(2, len(near) + 1):
        cluster = whole[near[:size]]
        if any(differs(evaluate, noise, cluster[generator.permutation(size)], cluster) for _ in range(3)):
            return size
    return None


def is_constant(evaluate: Evaluate, atoms: Any, energy: float, generator: np.random.Generator) -> bool:
    """Whether the energy stays as it was, to the last digit, when every atom moves and the cell grows by 2%."""
    moved = atoms.copy()
    moved.set_cell(1.02 * atoms.cell.array, scale_atoms=True)
    moved.positions += 0.1 * generator.normal(size=(len(atoms), 3))
    return evaluate(moved).energy == energy
