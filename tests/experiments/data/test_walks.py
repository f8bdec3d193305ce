"""One walk: what draws it, and that it keeps to its temperature."""

import math

import numpy as np
import pytest

from softeq.errors import SofteqValueError
from softeq.experiments.data.walks import Sampling, minimum, random_rotation, walk


def test_rotations_are_proper_and_uniform():
    generator = np.random.default_rng(0)
    drawn = np.array([random_rotation(generator) for _ in range(2000)])
    np.testing.assert_allclose(drawn @ drawn.transpose(0, 2, 1), np.broadcast_to(np.eye(3), drawn.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(drawn), 1)
    assert np.abs(drawn.mean(0)).max() < 0.06  # every direction goes to every other: standard error .013
    np.testing.assert_allclose((drawn**2).mean(0), 1 / 3, atol=0.04)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: 0}, f"{name}: expected at least 1, got 0") for name in ("walks", "frames", "thin")),
        ({"burn": -1}, "burn: expected at least 0"),
        ({"temperature": 0.0}, "temperature: expected a finite number above 0"),
        ({"timestep": math.inf}, "timestep"),
        ({"friction": math.nan}, "friction"),
    ],
)
def test_a_sampling_out_of_range(changes, message):
    with pytest.raises(SofteqValueError, match=message):
        Sampling(**changes)


@pytest.mark.slow
def test_the_thermostat_keeps_its_temperature():
    numbers, start = minimum("ethanol", 0)
    how = Sampling(frames=400, burn=400, thin=5)
    measured = [walk(numbers, start, 0.0, how, k).about["kinetic_temperature"] for k in range(2)]
    assert np.mean(measured) == pytest.approx(500, rel=0.1)
    cold = Sampling(frames=400, burn=400, thin=5, temperature=200.0)
    assert walk(numbers, start, 0.0, cold, 0).about["kinetic_temperature"] == pytest.approx(200, rel=0.15)
