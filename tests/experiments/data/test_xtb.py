"""The engine: forces are the energy's slope, labels turn with the molecule without a field and do not in one."""

import numpy as np
import pytest

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.data.walks import random_rotation
from softeq.experiments.data.xtb import Engine, calculator, embedded

WATER = np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.12], [0.1, 0.76, -0.47], [0.0, -0.76, -0.47]])
FIELD = (0.0, 0.3, 1.0)


@pytest.mark.parametrize("field", [(0.0, 0.0, 0.0), FIELD])
def test_forces_are_the_slope_of_the_energy(field):
    numbers, positions = WATER
    engine, step = Engine(numbers, field), 1e-4
    found = engine(positions)
    slope = np.zeros((3, 3))
    for atom in range(3):
        for axis in range(3):
            moved = np.zeros((3, 3))
            moved[atom, axis] = step
            slope[atom, axis] = (engine(positions + moved).energy - engine(positions - moved).energy) / (2 * step)
    np.testing.assert_allclose(found.forces, -slope, atol=1e-5)
    np.testing.assert_allclose(found.forces.sum(0), 0, atol=1e-9)


def test_labels_turn_with_the_molecule_but_for_a_field():
    numbers, positions = WATER
    g = random_rotation(np.random.default_rng(0))
    np.testing.assert_allclose(g @ g.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(g) == pytest.approx(1)
    free, inside = Engine(numbers), Engine(numbers, FIELD)
    a, b = free(positions), free(positions @ g.T)
    assert b.energy == pytest.approx(a.energy, abs=1e-8)
    np.testing.assert_allclose(b.forces, a.forces @ g.T, atol=1e-7)
    np.testing.assert_allclose(b.dipole, g @ a.dipole, atol=1e-5)
    a, b = inside(positions), inside(positions @ g.T)
    assert abs(b.energy - a.energy) > 1e-3
    assert np.abs(b.forces - a.forces @ g.T).max() > 1e-3


def test_the_field_has_the_unit_and_sign_that_it_says():
    numbers, positions = WATER
    step = 1e-3
    slope = (Engine(numbers, (0, 0, step))(positions).energy - Engine(numbers, (0, 0, -step))(positions).energy) / step
    assert slope / 2 == pytest.approx(-Engine(numbers)(positions).dipole[2], abs=1e-4)


def test_as_a_calculator_of_ase():
    from ase import Atoms

    numbers, positions = WATER
    atoms = Atoms(numbers, positions, calculator=calculator(Engine(numbers)))
    found = Engine(numbers)(positions)
    assert atoms.get_potential_energy() == pytest.approx(found.energy)
    np.testing.assert_allclose(atoms.get_forces(), found.forces, atol=1e-9)
    for others in (Atoms("OHF", positions), Atoms(numbers, positions, cell=3 * np.eye(3), pbc=True)):
        others.calc = calculator(Engine(numbers))
        with pytest.raises(SofteqValueError, match=r"atoms: expected the engine's, .* in vacuum, got"):
            others.get_potential_energy()


def test_conformers_come_from_their_seed():
    numbers, positions = embedded("CCO", 3)
    assert sorted(numbers.tolist()) == [1] * 6 + [6, 6, 8]
    np.testing.assert_array_equal(embedded("CCO", 3)[1], positions)
    assert np.abs(embedded("CCO", 4)[1] - positions).max() > 0


def test_bad_input(monkeypatch):
    with pytest.raises(SofteqValueError, match="smiles"):
        embedded("C(C", 0)
    with pytest.raises(SofteqValueError, match="numbers"):
        Engine([])
    with pytest.raises(SofteqValueError, match="field"):
        Engine([8], (0.0, float("nan"), 0.0))
    with pytest.raises(SofteqValueError, match="positions"):
        Engine(WATER[0])(WATER[1][:2])
    with pytest.raises(SofteqValueError, match="positions"):
        Engine(WATER[0])(WATER[1] * float("nan"))
    on_top = np.zeros((3, 3))
    with pytest.raises(SofteqError, match="GFN2-xTB"):
        Engine(WATER[0])(on_top)
    monkeypatch.setitem(__import__("sys").modules, "tblite.interface", None)
    with pytest.raises(MissingExtraError, match=r"softeq\[engine\]"):
        Engine(WATER[0])(WATER[1])
