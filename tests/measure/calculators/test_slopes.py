"""Forces and stress against differences of the energy, the free test, and what tells a unit from an error."""

import numpy as np
import pytest
import toy_calculators as toys

from softeq.measure.calculators.evaluate import Evaluate
from softeq.measure.calculators.rotations import about_z
from softeq.measure.calculators.slopes import net, slopes, strain_slopes
from softeq.measure.errors import NotMeasurable


def measured(calculator, atoms, limit=60):
    evaluate = Evaluate(calculator)
    return slopes(evaluate, atoms, evaluate(atoms), np.random.default_rng(0), limit)


def test_right_forces_are_slopes_within_the_doubt():
    for atoms in (toys.cluster(), toys.crystal()):
        found = measured(toys.Right(), atoms)
        assert np.abs(found.said - found.found).max() < 1e-8
        assert len(found.said) == 3 * len(atoms)
        assert found.factor == pytest.approx((1.0, 0.0), abs=1e-7)


def test_a_limit_draws_coordinates():
    found = measured(toys.Right(), toys.cluster(), limit=5)
    assert len(set(zip(found.atoms, found.axes, strict=True))) == 5


def test_direct_forces_and_another_unit():
    found = measured(toys.Direct(), toys.cluster())
    assert np.abs(found.said - found.found).max() > 1e-2
    factor, rest = measured(toys.Kilocalories(), toys.cluster()).factor
    assert factor == pytest.approx(23.06)
    assert rest < 1e-6


def test_stress_is_the_slope_under_strain():
    for calculator, sign in ((toys.Right(), 1), (toys.Pressure(), -1)):
        evaluate, atoms = Evaluate(calculator), toys.crystal()
        said, found, _ = strain_slopes(evaluate, atoms, evaluate(atoms))
        np.testing.assert_allclose(said, sign * found, atol=1e-9)
        assert np.abs(found).min() > 1e-4
    with pytest.raises(NotMeasurable, match="no stress"):
        strain_slopes(evaluate, toys.cluster(), evaluate(toys.cluster()))


def test_net_force_and_torque_are_slopes_of_the_energy():
    for calculator in (toys.Field(), toys.Place(), toys.Right()):
        evaluate, atoms, h = Evaluate(calculator), toys.cluster(), 1e-4
        found = net(atoms, evaluate(atoms))

        def energy(shift=0.0, angle=0.0, atoms=atoms, evaluate=evaluate):
            moved, centre = atoms.copy(), atoms.positions.mean(0)
            moved.positions[:] = (atoms.positions - centre) @ about_z(np.array(angle)).T + centre + [shift, 0, 0]
            return evaluate(moved).energy

        slope = (energy(shift=h) - energy(shift=-h)) / (2 * h)
        turn = (energy(angle=h) - energy(angle=-h)) / (2 * h)
        assert found.force[0] == pytest.approx(-slope, abs=1e-8)
        assert found.torque[2] == pytest.approx(-turn, abs=1e-8)
    assert np.abs([*found.force, *found.torque]).max() < 1e-12
    assert net(toys.crystal(), evaluate(toys.crystal())).torque is None


def test_without_forces():
    evaluate = Evaluate(toys.Handed())
    with pytest.raises(NotMeasurable, match="no forces"):
        net(toys.cluster(), evaluate(toys.cluster()))
