"""The named finite groups."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from softeq.errors import SofteqValueError
from softeq.groups._group import Group, check_size, eye, none, on_cpu
from softeq.groups._lie import flip, whole_number
from softeq.groups._sampling import EmbeddedSampler, UniformPermutation, UniformShift


def rotation(angle: float) -> Tensor:
    """The rotation of the plane by an angle in radians, ``(2, 2)``."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def _matrices(targets: Tensor) -> Tensor:
    """Permutation matrices ``(m, d, d)`` with ``h e_j = e_target_j``, from targets ``(m, d)``."""
    return eye(targets.shape[1])[targets].mT.contiguous()


@on_cpu
def Trivial(n: int) -> Group:
    """The group of the identity alone, on R^n: every linear map is equivariant."""
    return Group(f"Trivial({whole_number('Trivial', n)})", none(n), none(n))


@on_cpu
def Cyclic(n: int) -> Group:
    """C_n: rotations of the plane by multiples of 2 pi / n."""
    return Group(f"Cyclic({whole_number('Cyclic', n)})", none(2), _turn(n))


@on_cpu
def Dihedral(n: int) -> Group:
    """D_n: rotations of the plane by multiples of 2 pi / n, and the reflection (x, y) -> (-x, y)."""
    return Group(f"Dihedral({whole_number('Dihedral', n)})", none(2), torch.cat([_turn(n), flip(2, 0)]))


def _turn(n: int) -> Tensor:
    """The rotation by 2 pi / n, ``(1, 2, 2)``; by multiples of a right angle exactly."""
    turn = rotation(2 * math.pi / n)
    return (turn.round() if n in (1, 2, 4) else turn).unsqueeze(0)


@on_cpu
def DkeR3(k: int) -> Group:
    """The dihedral group D_k about the z axis of R^3: rotations by multiples of 2 pi / k, and a reflection x -> -x."""
    planar = Dihedral(whole_number("DkeR3", k))
    generators = eye(3).repeat(2, 1, 1)
    generators[:, :2, :2] = planar.discrete_generators
    return Group(f"DkeR3({k})", none(3), generators, sampler=EmbeddedSampler(planar, 3, 0))


@on_cpu
def Z(n: int) -> Group:
    """Cyclic shifts of n coordinates."""
    check_size(f"Z({whole_number('Z', n)})", 1, n)
    return Group(f"Z({n})", none(n), eye(n).roll(1, 0).unsqueeze(0), sampler=UniformShift(n))


@on_cpu
def Permutation(n: int) -> Group:
    """S_n: all permutations of n coordinates, from one transposition and one cycle."""
    check_size(f"Permutation({whole_number('Permutation', n)})", 2, n)
    swap = eye(n)
    if n > 1:
        swap[[0, 1]] = swap[[1, 0]]
    generators = torch.stack([swap, eye(n).roll(1, 0)])
    return Group(f"Permutation({n})", none(n), generators, sampler=UniformPermutation(n))


@on_cpu
def ZksZnxZn(k: int, n: int) -> Group:
    """Shifts of an n x n torus and its rotations by 2 pi / k, k = 1, 2 or 4, on fields with k orientations: R^(k n n).

    Coordinate ``(r, x, y)``, row-major, is the feature of orientation r at a point; a rotation takes it to
    orientation r + 1 at the rotated point: the regular fields of Cohen and Welling, "Group Equivariant Convolutional
    Networks" (2016).
    """
    if k not in (1, 2, 4):
        raise SofteqValueError(f"ZksZnxZn(k, n): the square grid turns by k = 1, 2 or 4, got {k!r}")
    whole_number("ZksZnxZn", n)
    check_size(f"ZksZnxZn({k},{n})", 3, k * n * n)
    r, x, y = torch.meshgrid(torch.arange(k), torch.arange(n), torch.arange(n), indexing="ij")

    def flat(r: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return ((r % k * n + x % n) * n + y % n).flatten()

    turned = {1: (x, y), 2: (-x, -y), 4: (-y, x)}[k]
    targets = torch.stack([flat(r, x + 1, y), flat(r, x, y + 1), flat(r + 1, *turned)])
    return Group(f"ZksZnxZn({k},{n})", none(k * n * n), _matrices(targets))


@on_cpu
def Cube() -> Group:
    """The 24 rotations of a cube, permuting its six faces: +x, +y, +z, -x, -y, -z."""
    faces = torch.cat([torch.eye(3), -torch.eye(3)]).long()
    return Group("Cube", none(6), _matrices(torch.stack([_targets(faces, _quarter(axis)) for axis in range(3)])))


@on_cpu
def RubiksCube() -> Group:
    """The turns of the six faces of Rubik's cube, permuting its 48 stickers that move.

    A sticker is a corner's or an edge's outward face: a position in {-1, 0, 1}^3 and a normal. Stickers come face by
    face, in the order of ``Cube``, and by position within a face.
    """
    normals = torch.cat([torch.eye(3), -torch.eye(3)]).long()
    places = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)))
    stickers = [
        torch.cat([place, normal])
        for normal in normals
        for place in places
        if int(place @ normal) == 1 and int(place.abs().sum()) > 1
    ]
    all_stickers = torch.stack(stickers)
    turns = []
    for index, normal in enumerate(normals):
        turn = torch.block_diag(*[_quarter(index % 3)] * 2)
        moved = _targets(all_stickers, turn)
        on_face = all_stickers[:, :3] @ normal == 1
        turns.append(torch.where(on_face, moved, torch.arange(len(stickers))))
    return Group("RubiksCube", none(len(stickers)), _matrices(torch.stack(turns)))


def _quarter(axis: int) -> Tensor:
    """The rotation by a quarter about a coordinate axis, ``(3, 3)`` integers."""
    out = torch.zeros(3, 3, dtype=torch.int64)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    out[axis, axis] = out[b, a] = 1
    out[a, b] = -1
    return out


def _targets(points: Tensor, matrix: Tensor) -> Tensor:
    """Which of the points ``(n, k)`` each one goes to under a matrix; all of them are hit."""
    moved = points @ matrix.T
    return (moved[:, None] == points[None]).all(-1).long().argmax(1)
