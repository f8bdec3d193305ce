"""What counts as zero: from repeated answers, and from the dtype that the forces betray."""

import numpy as np
import pytest

from softeq.measure.calculators.evaluate import Point
from softeq.measure.calculators.noise import noise_of

FORCES = np.random.default_rng(0).normal(size=(4, 3))


def test_of_a_double_that_repeats():
    found = noise_of(Point(-300.0, FORCES, None), [Point(-300.0, FORCES, None)] * 3)
    assert (found.energy, found.forces, found.single, found.repeated) == (1e-6, 1e-5, False, (0.0, 0.0))
    assert found.rounding == pytest.approx(8 * 2.2e-16 * 300, rel=0.01)


def test_of_a_single():
    single = FORCES.astype(np.float32).astype(np.float64)
    found = noise_of(Point(-300.0, single, None), [Point(-300.0, single, None)])
    assert found.single
    assert found.energy == found.rounding == pytest.approx(8 * 1.19e-7 * 300, rel=0.01)
    for nothing in (0 * FORCES, np.full_like(FORCES, 2.0**-50)):  # a crystal at rest: its forces tell no dtype
        assert not noise_of(Point(-300.0, nothing, None), [Point(-300.0, nothing, None)]).single


def test_the_worst_repetition_counts():
    again = [Point(-300.0, FORCES, None), Point(-299.9, FORCES + 0.02, None)]
    found = noise_of(Point(-300.0, FORCES, None), again)
    assert found.repeated == pytest.approx((0.1, 0.02))
    assert (found.energy, found.forces) == pytest.approx((0.5, 0.1))
    assert noise_of(Point(-300.0, None, None), [Point(-300.0, None, None)]).forces == 1e-5
