"""Elements of symmetries: a right calculator follows all of them, and each is seen to do something."""

import numpy as np
import pytest
import toy_calculators as toys
from ase import Atoms

from softeq.measure.calculators.evaluate import Evaluate
from softeq.measure.calculators.symmetry import all_symmetries, deviations, rotated
from softeq.measure.errors import NotMeasurable

GENERATOR = np.random.default_rng


@pytest.mark.parametrize("atoms", [toys.cluster(), toys.crystal(), toys.water()], ids=["cluster", "crystal", "water"])
def test_a_right_calculator_follows_all(atoms):
    evaluate = Evaluate(toys.Right())
    base, seen = evaluate(atoms), []
    for name, elements in all_symmetries(atoms, 1, GENERATOR(0)):
        if isinstance(elements, NotMeasurable):
            continue
        seen.append(name)
        found = deviations(evaluate, base, elements)
        assert found.weights.sum() == pytest.approx(1)
        assert np.abs(found.energy).max() < 1e-12, name
        assert np.abs(found.forces).max() < 1e-12, name
        assert found.stress is None or np.abs(found.stress).max() < 1e-13, name
        assert any(not same(element.moved, atoms) for element in elements), name
    images = ["images", "repeated cell", "another cell"] if atoms.pbc.any() else []
    assert seen == ["rotation", "inversion", "translation", "permutation", *images]


def same(first, second):
    alike = len(first) == len(second) and np.allclose(first.positions, second.positions)
    return alike and np.allclose(first.cell.array, second.cell.array)


SEEN = {
    "rotation": toys.Field,
    "inversion": toys.Handed,
    "translation": toys.Place,
    "permutation": toys.Ordered,
}


@pytest.mark.parametrize("name", SEEN)
def test_a_calculator_that_breaks_it_is_seen(name):
    atoms, evaluate = toys.cluster(), Evaluate(SEEN[name]())
    elements = dict(all_symmetries(atoms, 1, GENERATOR(0)))[name]
    assert np.abs(deviations(evaluate, evaluate(atoms), elements).energy).max() > 1e-3


def test_rotations_take_the_cell_with_them_and_keep_distances():
    atoms, g = toys.crystal(), np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = rotated(atoms, g)
    np.testing.assert_allclose(moved.cell.array[0], [0, 4.1, 0], atol=1e-15)
    np.testing.assert_allclose(moved.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)


def test_like_atoms_are_exchanged_with_all_that_is_theirs():
    atoms = toys.cluster()
    atoms.set_initial_magnetic_moments(np.arange(8.0))
    for element in dict(all_symmetries(atoms, 1, GENERATOR(3)))["permutation"]:
        assert (element.moved.numbers == atoms.numbers).all()
        order = element.moved.get_initial_magnetic_moments().astype(int)
        assert (order != np.arange(8)).any()
        np.testing.assert_array_equal(element.moved.positions, atoms.positions[order])


def test_what_atoms_do_not_allow_is_said():
    found = dict(all_symmetries(Atoms("O"), 1, GENERATOR(0)))
    assert "no two atoms are of the same element" in str(found["permutation"])
    assert "no periodic images" in str(found["images"])
    wire = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]], cell=[0, 0, 3.0], pbc=(False, False, True))
    names = [name for name, _ in all_symmetries(wire, 1, GENERATOR(0))]
    assert names[-2:] == ["images", "repeated cell"]
