"""The run at constant energy: the same as ase's, level for slopes, drifting for others."""

import numpy as np
import pytest
import toy_calculators as toys
from ase import units
from ase.md.verlet import VelocityVerlet

from softeq.measure.calculators.dynamics import _line, drift
from softeq.measure.calculators.evaluate import Evaluate
from softeq.measure.errors import NotMeasurable


def run(calculator, steps=120, temperature=300.0):
    generator = np.random.default_rng(0)
    return drift(Evaluate(calculator), toys.cluster(), steps=steps, temperature=temperature, generator=generator)


def test_slopes_stay_level_and_others_drift():
    level, away = run(toys.Right(), 400), run(toys.Direct(), 400)
    assert abs(level.slope) < max(3 * level.error, 2.0)
    assert abs(away.slope) > 20 * abs(level.slope)
    assert (level.steps, level.femtoseconds) == (400, 0.5)


def test_the_steps_are_those_of_ase():
    generator, atoms = np.random.default_rng(0), toys.cluster()
    masses = atoms.get_masses()[:, None]
    atoms.set_velocities(generator.normal(size=(8, 3)) * np.sqrt(units.kB * 300 / masses))
    atoms.calc = toys.Right()
    total, engine = [], VelocityVerlet(atoms, 0.5 * units.fs)
    for _ in range(120):
        engine.run(1)
        total.append(1000 * atoms.get_total_energy() / 8)
    time = 0.5e-3 * np.arange(120)
    slope, error = _line(time, np.array(total))
    found = run(toys.Right())
    assert (found.slope, found.error) == pytest.approx((slope, error), rel=1e-6)


def test_a_line_is_found_under_swings():
    time = np.linspace(0, 1, 400)
    slope, error = _line(time, 3.0 * time + np.sin(200 * time))
    assert slope == pytest.approx(3.0, abs=0.05)
    assert error < 0.1


def test_without_forces():
    with pytest.raises(NotMeasurable, match="no forces"):
        run(toys.Handed())
