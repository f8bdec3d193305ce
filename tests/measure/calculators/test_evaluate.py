"""A calculator's answers: copied, checked, and its failures told in one line."""

import numpy as np
import pytest
import toy_calculators as toys
from ase.constraints import FixAtoms

from softeq.errors import SofteqTypeError
from softeq.measure.calculators.evaluate import Evaluate
from softeq.measure.errors import NotMeasurable


def test_the_numbers_are_the_calculators():
    for atoms in (toys.cluster(), toys.crystal()):
        evaluate = Evaluate(toys.Right())
        found = evaluate(atoms)
        atoms.calc = toys.Right()
        assert found.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(found.forces, atoms.get_forces())
        if atoms.pbc.any():
            np.testing.assert_array_equal(found.stress, atoms.get_stress(voigt=False))
        else:
            assert found.stress is None
        assert evaluate.calls == 1


def test_constraints_do_not_hide_forces_and_atoms_stay_as_they_were():
    atoms = toys.cluster()
    atoms.set_constraint(FixAtoms([0]))
    assert np.abs(Evaluate(toys.Right())(atoms).forces[0]).max() > 0.01
    assert atoms.constraints
    assert atoms.calc is None


class Answers(toys.Right):
    """Says what it is told to say."""

    def __init__(self, **said):
        super().__init__()
        self.said = said

    def answer(self, found, atoms):
        return found | self.said


class Raises(toys.Right):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def answer(self, found, atoms):
        raise self.error


BAD = {
    "nan energy": (Answers(energy=np.nan), "energy: expected finite numbers from the calculator, got nan"),
    "infinite force": (Answers(forces=np.diag([1, np.inf, 1])), "forces: expected finite .* got inf at atom 1"),
    "shape": (Answers(forces=np.zeros((2, 3))), r"forces: expected shape \(3, 3\) from the calculator, got \(2, 3\)"),
    "two energies": (Answers(energy=np.zeros(2)), r"energy: expected shape \(\)"),
    "none": (Answers(energy=None), "energy: expected finite"),
    "raises": (Raises(RuntimeError("no\n  parameters")), "the calculator raised RuntimeError: no parameters"),
    "ends": (Raises(SystemExit(3)), "the calculator raised SystemExit: 3"),
}


@pytest.mark.parametrize(("calculator", "message"), BAD.values(), ids=BAD)
def test_bad_answers(calculator, message):
    with pytest.raises(NotMeasurable, match=message) as caught:
        Evaluate(calculator)(toys.water())
    assert "\n" not in str(caught.value)


def test_an_energy_in_an_array_is_taken():
    assert Evaluate(Answers(energy=np.array([1.5])))(toys.water()).energy == 1.5


def test_not_a_calculator():
    for wrong in (3, toys.Right, lambda: None):
        with pytest.raises(SofteqTypeError, match="calculator: expected an ase Calculator"):
            Evaluate(wrong)
