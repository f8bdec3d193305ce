"""Elements of the symmetries of physics acting on atoms, and how far a calculator's answers are from following them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softeq.measure.calculators.evaluate import Evaluate, Point
from softeq.measure.calculators.rotations import angles_of, random_rotation, rotation_quadrature
from softeq.measure.errors import NotMeasurable

Array = np.ndarray
DISTANCES = (0.01, 1.0, 30.0)
"""Angstrom, of translations."""


@dataclass(frozen=True)
class Element:
    """One element of a symmetry: what it makes of atoms, and what its answer means for the atoms as they were.

    Attributes:
        moved: of the original atoms.
        back: from the calculator's answer for ``moved`` to what must equal its answer for the original.
        weight: among the elements of its symmetry.
        angle: degrees, of a rotation.
    """

    moved: Any
    back: Callable[[Point], Point]
    weight: float
    angle: float | None = None


@dataclass(frozen=True)
class Deviations:
    """How far the answers are from following a symmetry, per element of it.

    Attributes:
        weights: ``(K,)``, sum 1.
        energy: ``(K,)``, eV, new minus old.
        forces: ``(K, N, 3)``, eV/Angstrom, brought back minus old; None without forces.
        stress: ``(K, 3, 3)``, eV/Angstrom^3; None without.
        angles: ``(K,)`` degrees, of rotations.
    """

    weights: Array
    energy: Array
    forces: Array | None
    stress: Array | None
    angles: Array | None


def deviations(evaluate: Evaluate, base: Point, elements: Sequence[Element]) -> Deviations:
    """Ask the calculator once per element.

    Args:
        evaluate: the calculator.
        base: its answer for the original atoms.
        elements: at least one.

    Raises:
        NotMeasurable: see `Evaluate`.
    """
    found = [element.back(evaluate(element.moved)) for element in elements]
    weights = np.array([element.weight for element in elements])
    angles = [element.angle for element in elements if element.angle is not None]
    return Deviations(
        weights=weights / weights.sum(),
        energy=np.array([point.energy - base.energy for point in found]),
        forces=None if base.forces is None else np.stack([point.forces - base.forces for point in found]),
        stress=None if base.stress is None else np.stack([point.stress - base.stress for point in found]),
        angles=np.array(angles) if angles else None,
    )


def rotated(atoms: Any, g: Array) -> Any:
    """Atoms and cell rotated by ``g`` ``(3, 3)``: in vacuum about their centre, with images about the origin."""
    moved = atoms.copy()
    centre = np.zeros(3) if atoms.pbc.any() else atoms.positions.mean(0)
    moved.positions[:] = (atoms.positions - centre) @ g.T + centre
    moved.set_cell(atoms.cell.array @ g.T, scale_atoms=False)
    return moved


def rotations(atoms: Any, degree: int, generator: np.random.Generator) -> list[Element]:
    """A quadrature over SO(3), see `rotation_quadrature`."""
    group, weights = rotation_quadrature(degree, generator)

    def element(g: Array, weight: float, angle: float) -> Element:
        return Element(rotated(atoms, g), lambda p: _carried(p, g.T), float(weight), float(angle))

    return [element(*found) for found in zip(group, weights, angles_of(group), strict=True)]


def inversion(atoms: Any) -> list[Element]:
    """Every position to its opposite about the centre; a cell is its own opposite."""
    moved = atoms.copy()
    moved.positions[:] = 2 * atoms.positions.mean(0) - atoms.positions
    return [Element(moved, lambda p: _carried(p, -np.eye(3)), 1.0)]


def translations(atoms: Any, generator: np.random.Generator) -> list[Element]:
    """By `DISTANCES` in random directions."""
    found = []
    for distance in DISTANCES:
        moved = atoms.copy()
        moved.positions += distance * random_rotation(generator)[0]
        found.append(Element(moved, lambda p: p, 1.0))
    return found


def permutations(atoms: Any, generator: np.random.Generator, count: int = 3) -> list[Element]:
    """Like atoms exchanged: the same species in the same order, each atom with all that is its own.

    Raises:
        NotMeasurable: no two atoms are alike.
    """
    numbers = atoms.numbers
    kinds = [np.flatnonzero(numbers == kind) for kind in np.unique(numbers)]
    if max(map(len, kinds)) < 2:
        raise NotMeasurable("no two atoms are of the same element")

    def element() -> Element:
        order = np.arange(len(atoms))
        while (order == np.arange(len(atoms))).all():
            for kind in kinds:
                order[kind] = generator.permutation(kind)
        inverse = np.argsort(order)
        return Element(atoms[order], lambda p: _picked(p, inverse), 1.0)

    return [element() for _ in range(count)]


def images(atoms: Any, generator: np.random.Generator) -> dict[str, list[Element]]:
    """Other descriptions of the same crystal: atoms exchanged with their images, another cell, a larger cell.

    Raises:
        NotMeasurable: the atoms have no images.
    """
    if not atoms.pbc.any():
        raise NotMeasurable("the atoms have no periodic images")
    found = {"images": [_elsewhere(atoms, generator)], "repeated cell": [_repeated(atoms)]}
    if atoms.pbc.sum() > 1:
        found["another cell"] = [_sheared(atoms)]
    return found


def _elsewhere(atoms: Any, generator: np.random.Generator) -> Element:
    moved = atoms.copy()
    steps = generator.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    steps[0, int(np.flatnonzero(atoms.pbc)[0])] = 2  # one at least
    moved.positions += steps @ atoms.cell.array
    return Element(moved, lambda p: p, 1.0)


def _repeated(atoms: Any) -> Element:
    axis = int(np.flatnonzero(atoms.pbc)[atoms.cell.lengths()[atoms.pbc].argmin()])
    times, count = [2 if k == axis else 1 for k in range(3)], len(atoms)

    def back(point: Point) -> Point:
        forces = None if point.forces is None else point.forces.reshape(2, count, 3).mean(0)
        return Point(point.energy / 2, forces, point.stress)

    return Element(atoms.repeat(times), back, 1.0)


def _sheared(atoms: Any) -> Element:
    first, second = np.flatnonzero(atoms.pbc)[:2]
    moved, cell = atoms.copy(), atoms.cell.array.copy()
    cell[second] += cell[first]
    moved.set_cell(cell, scale_atoms=False)
    return Element(moved, lambda p: p, 1.0)


def _carried(point: Point, g: Array) -> Point:
    forces = None if point.forces is None else point.forces @ g.T
    return Point(point.energy, forces, None if point.stress is None else g @ point.stress @ g.T)


def _picked(point: Point, order: Array) -> Point:
    return Point(point.energy, None if point.forces is None else point.forces[order], point.stress)


def all_symmetries(atoms: Any, degree: int, generator: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Name and elements of each symmetry, or the `NotMeasurable` that says why it has none for these atoms."""
    makers: dict[str, Callable[[], Any]] = {
        "rotation": lambda: rotations(atoms, degree, generator),
        "inversion": lambda: inversion(atoms),
        "translation": lambda: translations(atoms, generator),
        "permutation": lambda: permutations(atoms, generator),
        "images": lambda: images(atoms, generator),
    }
    for name, make in makers.items():
        try:
            found = make()
        except NotMeasurable as reason:
            yield name, reason
            continue
        yield from found.items() if isinstance(found, dict) else [(name, found)]
