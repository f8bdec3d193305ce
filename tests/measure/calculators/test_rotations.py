"""The quadrature over SO(3): exact up to its degree and not beyond."""

import numpy as np
import pytest

from softeq.errors import SofteqValueError
from softeq.measure.calculators.rotations import about_y, about_z, angles_of, random_rotation, rotation_quadrature


def moments(group, weights, power):
    """The mean of the tensor power of a rotation, which a rule of degree ``power`` has exactly."""
    mean = 0.0
    for g, weight in zip(group, weights, strict=True):
        product = np.ones((1, 1))
        for _ in range(power):
            product = np.kron(product, g)
        mean = mean + weight * product
    return mean


@pytest.mark.parametrize("degree", range(6))
def test_exact_up_to_its_degree(degree):
    group, weights = rotation_quadrature(degree, np.random.default_rng(0))
    assert len(group) == (degree + 1) ** 2 * (degree // 2 + 1)
    assert weights.sum() == pytest.approx(1.0)
    assert weights.min() > 0
    fine = rotation_quadrature(9)
    for power in range(min(degree, 4) + 1):
        np.testing.assert_allclose(moments(group, weights, power), moments(*fine, power), atol=1e-12)
    if degree < 4:
        assert np.abs(moments(group, weights, degree + 1) - moments(*fine, degree + 1)).max() > 1e-3


def test_what_is_known_exactly():
    group, weights = rotation_quadrature(2)
    np.testing.assert_allclose(moments(group, weights, 1), 0, atol=1e-14)
    np.testing.assert_allclose(moments(group, weights, 2), np.outer(np.eye(3), np.eye(3)).reshape(9, 9) / 3, atol=1e-14)


def test_rotations_are_rotations():
    group = [*rotation_quadrature(3, np.random.default_rng(1))[0], random_rotation(np.random.default_rng(2))]
    for g in group:
        np.testing.assert_allclose(g @ g.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(g) == pytest.approx(1.0)


def test_angles_and_axes():
    np.testing.assert_allclose(angles_of(about_z(np.radians([0.0, 30.0, 180.0]))), [0, 30, 180], atol=1e-6)
    np.testing.assert_allclose(about_z(np.array(np.pi / 2)) @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(about_y(np.array(np.pi / 2)) @ [0, 0, 1], [1, 0, 0], atol=1e-15)


def test_degrees_out_of_range():
    for degree in (-1, 31):
        with pytest.raises(SofteqValueError, match="degree: expected 0 to 30"):
            rotation_quadrature(degree)
