"""Jumps: found where they are and as large as they are, and a smooth calculator has none."""

import numpy as np
import pytest
import toy_calculators as toys
from ase import Atoms

from softeq.measure.calculators.continuity import NEAREST, jumps, path_of
from softeq.measure.calculators.evaluate import Evaluate

KINDS = {"cluster": toys.cluster, "crystal": toys.crystal}


def found(calculator, atoms):
    path = path_of(atoms, np.random.default_rng(0))
    return path, jumps(Evaluate(calculator), path)


@pytest.mark.parametrize("atoms", KINDS.values(), ids=KINDS)
def test_a_smooth_calculator_has_no_jump(atoms):
    for jump in found(toys.Right(), atoms())[1]:
        assert jump.energy < 1e-9
        assert jump.forces < 1e-8


def test_a_jump_has_its_size():
    """Two atoms: the energy of the one pair at 4 Angstrom, where the potential ends."""
    atoms = Atoms("O")
    _, steep = found(toys.Sharp(), atoms)
    energy, slope = toys.wave(np.array(4.0))
    assert steep[0].energy == pytest.approx(abs(2.6 * energy), rel=1e-4)
    assert steep[0].forces == pytest.approx(abs(2.6 * slope), rel=1e-3)


class NoForces(toys.Sharp):
    implemented_properties = ["energy"]  # noqa: RUF012


def test_energies_alone_suffice():
    assert found(NoForces(), toys.cluster())[1][0].energy > 1e-4


def test_the_second_molecule_stands_clear():
    for seed in range(5):
        path = path_of(toys.cluster(), np.random.default_rng(seed))
        for distance in (0.0, 1.0):
            apart = path.at(distance).get_all_distances()[:8, 8:]
            assert apart.min() == pytest.approx(NEAREST, abs=1e-9) if distance == 0 else apart.min() > NEAREST - 1e-9
