"""Rotations that stand for all: a quadrature over SO(3)."""

from __future__ import annotations

import numpy as np

from softeq.errors import SofteqValueError

Array = np.ndarray
HIGHEST = 30


def rotation_quadrature(degree: int, generator: np.random.Generator | None = None) -> tuple[Array, Array]:
    """Rotations ``(K, 3, 3)`` and weights ``(K,)``, sum 1, that average Wigner functions up to ``degree`` exactly.

    Euler angles z-y-z: ``degree + 1`` equal steps for the outer two, Gauss and Legendre's nodes for the cosine of the
    middle one; ``(degree + 1)^2 (degree // 2 + 1)`` rotations. It is a rule for the sphere times a circle.

    Args:
        degree: 0 to `HIGHEST`. A square of functions up to degree l has degree 2 l.
        generator: draws one rotation that all are multiplied with, so that they are of no special directions.

    Raises:
        SofteqValueError: a degree out of range.
    """
    if not 0 <= degree <= HIGHEST:
        raise SofteqValueError(f"degree: expected 0 to {HIGHEST}, got {degree}")
    outer = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    first, middle, last = (axis.ravel() for axis in np.meshgrid(outer, np.arccos(nodes), outer, indexing="ij"))
    found = about_z(first) @ about_y(middle) @ about_z(last)
    share = np.broadcast_to(weights[None, :, None] / 2, (degree + 1, len(nodes), degree + 1)).ravel()
    start = np.eye(3) if generator is None else random_rotation(generator)
    return found @ start, share / (degree + 1) ** 2


def about_z(angle: Array) -> Array:
    """``(..., 3, 3)`` from ``(...)`` radians."""
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([np.stack([c, -s, o], -1), np.stack([s, c, o], -1), np.stack([o, o, i], -1)], -2)


def about_y(angle: Array) -> Array:
    """``(..., 3, 3)`` from ``(...)`` radians."""
    order = [1, 2, 0]  # the cyclic change of names z -> y
    return about_z(angle)[..., order, :][..., :, order]


def random_rotation(generator: np.random.Generator) -> Array:
    """``(3, 3)``, uniform over SO(3)."""
    q, r = np.linalg.qr(generator.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def angles_of(rotations: Array) -> Array:
    """Degrees in [0, 180] by which ``(K, 3, 3)`` rotate."""
    trace = np.trace(rotations, axis1=-2, axis2=-1)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0)))
