"""Representations beside words in V and V*: they are homomorphisms, every layer takes them, wrong ones are refused."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from softeq import (
    Scalar,
    SoftBilinear,
    SofteqValueError,
    SoftGated,
    SoftLinear,
    T,
    Vector,
    assert_equivariant,
    equivariant_basis,
    equivariant_projector,
    gated,
    groups,
)
from softeq.reps import Factor, Irrep, Pseudoscalar, custom, of_factor, quotient, regular

TIGHT = {"atol": 1e-9, "rtol": 1e-9}
QUARTER = groups.Dihedral(4).discrete_generators


def squares(g):
    """The action on pairs x y of the coordinates of a plane, (x x, x y, y y), written out."""
    a, b, c, d = g[..., 0, 0], g[..., 0, 1], g[..., 1, 0], g[..., 1, 1]
    rows = [[a * a, 2 * a * b, b * b], [a * c, a * d + b * c, b * d], [c * c, 2 * c * d, d * d]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def weight_two(g):
    """The square of the determinant's size."""
    return torch.linalg.det(g).abs().square()[..., None, None]


def weight_two_algebra(A):
    return 2 * A.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


@dataclass(frozen=True)
class Frequency(Factor):
    """Rotations of the plane by a multiple of the angle: a factor written by a user."""

    multiple: int

    @property
    def name(self):
        return f"frequency {self.multiple}"

    def size(self, group):
        if group.d != 2:
            raise SofteqValueError(f"{self.name}: expected a group of the plane, got {group}")
        return 2

    def rho(self, group, g):
        out = g
        for _ in range(self.multiple - 1):
            out = out @ g
        return out


SO2xS3 = groups.separate(groups.SO(2), groups.Permutation(3))
REPS = {
    "pseudoscalar of O(3)": (Scalar + Pseudoscalar + Pseudoscalar * Vector + T(2))(groups.O(3)),
    "sign of Permutation(3)": (2 * Vector + Pseudoscalar + Pseudoscalar * Vector)(groups.Permutation(3)),
    "irreps of SO(3)": (2 * Irrep(0) + Irrep(1) + Irrep(2) + Irrep(3))(groups.SO(3)),
    "irreps and tensors of O(3)": (Irrep(2) + Irrep(1, 1) + Vector + T(2) + Scalar)(groups.O(3)),
    "regular": (regular + Vector + Scalar)(groups.Dihedral(3)),
    "quotient": (quotient(QUARTER[1]) + Vector + 2 * Scalar)(groups.Dihedral(4)),
    "custom": (custom("squares", 3, squares) + Vector + Scalar)(groups.SL(2)),
    "custom and dual": (custom("squares", 3, squares).dual + Vector.dual + Scalar)(groups.SL(2)),
    "density": (custom("det^2", 1, weight_two, weight_two_algebra) + Vector + Vector.dual)(groups.GL(2)),
    "a user's factor": (of_factor(Frequency(2)) + of_factor(Frequency(3)) + 2 * Vector + T(2))(groups.SO(2)),
    "particles": (Vector.of(1) * Vector.of(0) + Vector.of(1) + Scalar)(SO2xS3),
    "irreps of a factor": (Irrep(2).of(0) + Vector.of(1) * Vector.of(0) + Pseudoscalar.of(1))(
        groups.separate(groups.SO(3), groups.Permutation(2))
    ),
}


@pytest.fixture(params=REPS)
def rep(request):
    return REPS[request.param]


def test_they_are_homomorphisms(rep, rng):
    group = rep.group
    g, h = group.sample(5, rng), group.sample(5, rng)
    torch.testing.assert_close(rep.rho(g @ h), rep.rho(g) @ rep.rho(h), **TIGHT)
    torch.testing.assert_close(rep.rho(torch.eye(group.d, dtype=torch.float64)), torch.eye(rep.size).double(), **TIGHT)
    torch.testing.assert_close(rep.dual.rho(g).mT @ rep.rho(g), torch.eye(rep.size).double().expand(5, -1, -1), **TIGHT)


def test_drho_is_the_derivative_along_the_group(rep):
    for A in rep.group.lie_algebra:
        step = 1e-3
        values = [rep.rho(torch.linalg.matrix_exp(k * step * A)) for k in (-2, -1, 1, 2)]
        numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        torch.testing.assert_close(rep.drho(A), numeric, atol=1e-8, rtol=1e-8)


def test_they_take_part_in_every_layer(rep):
    """The hard layers are equivariant on random elements; and they do something."""
    torch.manual_seed(0)
    tolerance = 1e-8 if not rep.group.is_orthogonal else 1e-9
    linear = SoftLinear(rep, rep, constraint="hard").double()
    assert_equivariant(linear, rep, rep, tolerance=tolerance)
    assert_equivariant(SoftBilinear(rep, rep, constraint="hard").double(), rep, rep, tolerance=tolerance)
    assert_equivariant(SoftGated(rep, constraint="hard"), gated(rep), rep, tolerance=tolerance)
    assert linear(torch.ones(1, rep.size).double()).abs().max() > 0


def test_the_basis_is_complete(rep):
    group, out, eye = rep.group, rep.size, torch.eye(rep.size, dtype=torch.float64)
    rows = [torch.kron(rep.drho(A), eye) - torch.kron(eye, rep.drho(A).T.contiguous()) for A in group.lie_algebra]
    for h in group.discrete_generators:
        rows.append(torch.kron(rep.rho(h), torch.linalg.inv(rep.rho(h)).T.contiguous()) - torch.eye(out * out).double())
    singular = torch.linalg.svdvals(torch.cat(rows))
    assert len(equivariant_basis(rep, rep)) == int((singular < 1e-9).sum())


def test_they_survive_pickling(rep):
    loaded = pickle.loads(pickle.dumps(SoftLinear(rep, rep, constraint="hard")))
    assert loaded.rep_in == rep
    x = torch.randn(2, rep.size)
    assert torch.isfinite(loaded(x)).all()


def test_irreps_are_orthogonal_and_schur_holds():
    """Between irreps there is one map where degree and parity agree, else none."""
    kinds = [Irrep(degree, parity) for degree in range(4) for parity in (1, -1)]
    group = groups.O(3)
    for a in kinds:
        g = group.sample(3, torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            a(group).rho(g).mT @ a(group).rho(g), torch.eye(a(group).size).double().expand(3, -1, -1)
        )
        for b in kinds:
            assert equivariant_projector(a(group), b(group)).rank == (a == b), (a, b)


@pytest.mark.parametrize("degree", range(6))
def test_the_character_of_an_irrep_is_that_of_the_angle(degree):
    angle = 0.83
    g = torch.linalg.matrix_exp(angle * groups.SO(3).lie_algebra[1])
    expected = 1 + 2 * sum(np.cos(m * angle) for m in range(1, degree + 1))
    assert float(Irrep(degree)(groups.SO(3)).rho(g).trace()) == pytest.approx(expected, abs=1e-12)


def test_the_first_irrep_is_the_vector_in_the_order_y_z_x(rng):
    g = groups.SO(3).sample(1, rng)[0]
    order = [1, 2, 0]
    torch.testing.assert_close(Irrep(1)(groups.SO(3)).rho(g), g[order][:, order], **TIGHT)


def test_a_pseudovector_is_an_antisymmetric_matrix():
    """v x w turns with the rotation and keeps its sign under the inversion."""
    group = groups.O(3)
    (cross,) = equivariant_basis(T(2)(group), Irrep(1, 1)(group))
    torch.testing.assert_close(cross.view(3, 3, 3), -cross.view(3, 3, 3).mT, **TIGHT)


COSETS = {
    "regular of Cyclic(5)": (groups.Cyclic(5), regular, 5, 5),
    "regular of Dihedral(3)": (groups.Dihedral(3), regular, 6, 6),
    "Dihedral(4) over a reflection": (groups.Dihedral(4), quotient(QUARTER[1]), 4, 3),
    "Dihedral(4) over the rotations": (groups.Dihedral(4), quotient(QUARTER[0]), 2, 2),
    "Dihedral(4) over itself": (groups.Dihedral(4), quotient(*QUARTER), 1, 1),
    "Cube over the turns of a face": (groups.Cube(), quotient(groups.Cube().discrete_generators[0]), 6, 3),
}


@pytest.mark.parametrize("case", COSETS)
def test_cosets_have_the_orbits_that_burnside_counts(case):
    """As many maps as double cosets; functions on the faces of a cube are those on the cosets of a face's turns."""
    group, rep, size, rank = COSETS[case]
    bound = rep(group)
    assert bound.size == size
    assert equivariant_projector(bound, bound).rank == rank
    assert bound.is_permuted(bound.terms[0][0])


def test_emlps_ways_to_write_sums_and_powers():
    assert Vector**2 == T(2)
    assert Vector**0 == Scalar
    assert (Vector + Scalar) ** 2 == (Vector + Scalar) * (Vector + Scalar)
    assert sum([Vector, Scalar, Vector]) == Vector + Scalar + Vector
    assert Vector.dual == Vector.T
    assert (Vector * Vector.T) == T(1, 1)
    assert Vector + 3 == Vector + 3 * Scalar
    assert 2 + Vector == 2 * Scalar + Vector
    assert (Vector(groups.SO(3)) ** 2).group == groups.SO(3)
    with pytest.raises(SofteqValueError, match=r"rep\*\*n"):
        Vector**-1


def test_the_two_products_are_not_mistaken_for_each_other():
    """Kronecker: one vector of 15 coordinates. Separate: each index belongs to a factor."""
    kronecker = groups.SO(3) * groups.Permutation(5)
    separate = groups.separate(groups.SO(3), groups.Permutation(5))
    positions = (Vector.of(0) * Vector.of(1))(separate)
    assert Vector(kronecker).size == positions.size == 15
    g, h = groups.SO(3).sample(1)[0], groups.Permutation(5).sample(1)[0]
    torch.testing.assert_close(positions.rho(torch.block_diag(g, h)), torch.kron(g, h))
    assert equivariant_projector(Vector(kronecker), Vector(kronecker)).rank == 2
    assert equivariant_projector(positions, positions).rank == 2
    assert equivariant_projector(Vector.of(1)(separate), positions).rank == 0, "no vector from masses alone"
    with pytest.raises(SofteqValueError, match=r"different groups.*separate"):
        Vector(groups.SO(3)) * Vector(groups.Permutation(5))


def test_masses_and_positions_of_many_particles():
    """A centre of mass wants masses and positions in one layer: 200 particles, no dense basis."""
    group = groups.separate(groups.SO(3), groups.Permutation(200))
    masses, positions = Vector.of(1), Vector.of(1) * Vector.of(0)
    projector = equivariant_projector((masses + positions)(group), (Vector.of(0) + Scalar)(group))
    assert projector.rank == 2
    weight = projector(torch.ones(4, 800, dtype=torch.float64))
    torch.testing.assert_close(weight[:3, 200:], torch.eye(3).double().repeat(1, 200), **TIGHT)
    torch.testing.assert_close(weight[3, :200], torch.ones(200).double(), **TIGHT)
    assert weight[3, 200:].abs().max() == 0
