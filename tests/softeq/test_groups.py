"""Groups: their samples obey the defining equations, and so do their generators."""

import itertools
import pickle

import pytest
import torch

from softeq import Vector, equivariant_projector, groups

TIGHT = {"atol": 1e-9, "rtol": 1e-9}


def eye(d):
    return torch.eye(d, dtype=torch.float64)


QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
SWAP = eye(2).flip(0)


def is_orthogonal(g):
    torch.testing.assert_close(g.mT @ g, eye(g.shape[-1]).expand_as(g), **TIGHT)


def has_unit_determinant(g):
    torch.testing.assert_close(torch.linalg.det(g), torch.ones(len(g), dtype=torch.float64), **TIGHT)


def keeps_metric(p, q):
    eta = torch.diag(torch.tensor([1.0] * p + [-1.0] * q, dtype=torch.float64))

    def check(g):
        torch.testing.assert_close(g.mT @ eta @ g, eta.expand_as(g), **TIGHT)

    return check


def keeps_symplectic_form(g):
    m = g.shape[-1] // 2
    form = torch.zeros(2 * m, 2 * m, dtype=torch.float64)
    form[:m, m:], form[m:, :m] = eye(m), -eye(m)
    torch.testing.assert_close(g.mT @ form @ g, form.expand_as(g), **TIGHT)


def keeps_time_direction(g):
    assert (g[:, 0, 0] > 0).all()


def is_permutation(g):
    assert ((g == 0) | (g == 1)).all()
    assert (g.sum(-1) == 1).all()
    assert (g.sum(-2) == 1).all()


def is_shift(g):
    is_permutation(g)
    first = g[:, :, 0].argmax(-1)
    for element, shift in zip(g, first, strict=True):
        torch.testing.assert_close(element, eye(g.shape[-1]).roll(int(shift), 0))


def is_identity(g):
    torch.testing.assert_close(g, eye(g.shape[-1]).expand_as(g), **TIGHT)


def turns_back_after(n):
    """Rotations by multiples of 2 pi / n, alone."""

    def check(g):
        has_unit_determinant(g)
        is_orthogonal(g)
        is_identity(torch.linalg.matrix_power(g, n))

    return check


def is_symmetry_of_polygon(n):
    """Maps the corners of a regular n-gon with one corner at the top onto each other."""
    angles = torch.arange(n, dtype=torch.float64) * 2 * torch.pi / n
    corners = torch.stack([angles.sin(), angles.cos()])

    def check(g):
        is_orthogonal(g)
        distance = (g @ corners).mT.unsqueeze(2) - corners.T
        assert (distance.norm(dim=-1).amin(-1) < 1e-9).all()

    return check


def fixes_z(g):
    is_orthogonal(g)
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(g @ z, z.expand(len(g), 3), **TIGHT)


def planar(check):
    return lambda g: check(g[:, :2, :2])


def commutes_with(*matrices):
    def check(g):
        for matrix in matrices:
            torch.testing.assert_close(g @ matrix, matrix @ g, **TIGHT)

    return check


def keeps_product_of_forms(g):
    """SL(2) keeps the area form J, so SL(2) x SL(2) keeps J (x) J, which is symmetric."""
    form = torch.kron(QUARTER_TURN, QUARTER_TURN)
    torch.testing.assert_close(g.mT @ form @ g, form.expand_as(g), **TIGHT)


def keeps_direction_of(axis):
    return lambda g: all(element[axis, axis] > 0 for element in g) or pytest.fail(f"axis {axis} is turned over")


def is_invertible(g):
    assert (torch.linalg.det(g).abs() > 1e-3).all()


def is_multiple_of_identity(g):
    torch.testing.assert_close(g, g[:, :1, :1] * eye(g.shape[-1]), **TIGHT)


def imaginary_unit(n):
    """What multiplication by i is on (real parts, imaginary parts)."""
    return torch.kron(QUARTER_TURN, eye(n))


def has_unit_complex_determinant(g):
    n = g.shape[-1] // 2
    determinant = torch.linalg.det(torch.complex(g[:, :n, :n], g[:, n:, :n]))
    torch.testing.assert_close(determinant, torch.ones_like(determinant), **TIGHT)


def keeps_opposite_faces(g):
    swap = torch.kron(SWAP, eye(3))
    torch.testing.assert_close(g @ swap, swap @ g)


def is_among(elements, g):
    nearest = (g.unsqueeze(1) - torch.stack(elements)).abs().amax((-1, -2)).amin(1)
    assert (nearest < 1e-9).all()


def is_among_products_of(first, second):
    """Kronecker products of the elements of two finite groups, enumerated."""

    def check(g):
        products = torch.stack([torch.kron(a, b) for a, b in itertools.product(closure(first()), closure(second()))])
        nearest = (g.unsqueeze(1) - products).abs().amax((-1, -2)).amin(1)
        assert (nearest < 1e-9).all()

    return check


def closure(group):
    """All elements of a finite group, from its generators."""
    elements = [eye(group.d)]
    for element in elements:
        for h in group.discrete_generators:
            new = element @ h
            if not any(torch.allclose(new, old, atol=1e-9) for old in elements):
                elements.append(new)
    return elements


LORENTZ = (keeps_metric(1, 3),)
DEFINING: dict[str, tuple] = {
    "Trivial(1)": (is_identity,),
    "Trivial(3)": (is_identity,),
    **{f"SO({n})": (is_orthogonal, has_unit_determinant) for n in (2, 3, 4)},
    **{f"O({n})": (is_orthogonal,) for n in (1, 2, 3, 4)},
    "SO13": (*LORENTZ, has_unit_determinant),
    "SO13p": (*LORENTZ, has_unit_determinant, keeps_time_direction),
    "Lorentz": LORENTZ,
    "SOpq(1,1)": (keeps_metric(1, 1), has_unit_determinant),
    "SOpq(2,1)": (keeps_metric(2, 1), has_unit_determinant),
    "SOpq(2,2)": (keeps_metric(2, 2), has_unit_determinant),
    "SOpq(0,3)": (is_orthogonal, has_unit_determinant),
    "Opq(2,1)": (keeps_metric(2, 1),),
    "SOpqp(2,1)": (keeps_metric(2, 1), has_unit_determinant, keeps_direction_of(2)),
    "SO11": (keeps_metric(1, 1), has_unit_determinant),
    "SO11p": (keeps_metric(1, 1), has_unit_determinant, keeps_time_direction),
    "O11": (keeps_metric(1, 1),),
    "Parity": (*LORENTZ, keeps_time_direction, lambda g: is_identity(g @ g)),
    "TimeReversal": (*LORENTZ, lambda g: is_identity(g @ g), lambda g: is_identity(g[:, 1:, 1:])),
    "GL(2)": (is_invertible,),
    "Scaling(3)": (is_multiple_of_identity,),
    "U(1)": (is_orthogonal, commutes_with(QUARTER_TURN)),
    "U(2)": (is_orthogonal, commutes_with(imaginary_unit(2))),
    "SU(1)": (is_identity,),
    "SU(2)": (is_orthogonal, commutes_with(imaginary_unit(2)), has_unit_complex_determinant),
    "SU(3)": (is_orthogonal, commutes_with(imaginary_unit(3)), has_unit_complex_determinant),
    "Sp(2)": (keeps_symplectic_form,),
    "Sp(4)": (keeps_symplectic_form,),
    "SL(2)": (has_unit_determinant,),
    "SL(3)": (has_unit_determinant,),
    "Cyclic(1)": (is_identity,),
    "Cyclic(3)": (turns_back_after(3),),
    "Cyclic(8)": (turns_back_after(8),),
    "Dihedral(1)": (is_orthogonal, lambda g: is_identity(g @ g)),
    "Dihedral(3)": (is_symmetry_of_polygon(3),),
    "Dihedral(4)": (is_symmetry_of_polygon(4),),
    "Z(1)": (is_identity,),
    "Z(4)": (is_shift,),
    "Permutation(1)": (is_identity,),
    "Permutation(2)": (is_permutation,),
    "Permutation(4)": (is_permutation,),
    "ZksZnxZn(4,1)": (is_shift,),
    "Cube": (is_permutation, keeps_opposite_faces, lambda g: is_among(closure(groups.Cube()), g)),
    "Embed(SO(2),4,1)": (
        is_orthogonal,
        has_unit_determinant,
        lambda g: is_identity(g[:, [0, 3]][:, :, [0, 3]]),
        lambda g: is_orthogonal(g[:, 1:3, 1:3]),
    ),
    "SO2eR3": (fixes_z, has_unit_determinant),
    "O2eR3": (fixes_z,),
    "DkeR3(1)": (fixes_z, lambda g: is_identity(g @ g)),
    "DkeR3(4)": (fixes_z, planar(is_symmetry_of_polygon(4))),
    "SO(2)*Permutation(2)": (
        is_orthogonal,
        commutes_with(torch.kron(QUARTER_TURN, eye(2)), torch.kron(eye(2), SWAP)),
    ),
    "Z(3)*Dihedral(4)": (is_among_products_of(lambda: groups.Z(3), lambda: groups.Dihedral(4)),),
    "SL(2)*SL(2)": (has_unit_determinant, keeps_product_of_forms),
    "SO(2)+Permutation(3)": (
        is_orthogonal,
        lambda g: has_unit_determinant(g[:, :2, :2]),
        lambda g: is_permutation(g[:, 2:, 2:]),
        lambda g: torch.testing.assert_close(g[:, :2, 2:], torch.zeros_like(g[:, :2, 2:])),
    ),
}


def check_members(group_id, elements):
    for check in DEFINING[group_id]:
        check(elements)


def test_the_table_has_every_named_group(all_group_ids):
    named = {name for name, value in vars(groups).items() if name[0].isupper() and callable(value)}
    missing = named - {group_id.split("(")[0] for group_id in all_group_ids}
    assert missing == {"Group", "Sampler", "RubiksCube"}, "Rubik's cube has tests of its own: it is large"
    assert set(DEFINING) == set(all_group_ids)


def test_samples_obey_the_defining_equations(group_id, group, rng):
    g = group.sample(40, rng)
    assert g.shape == (40, group.d, group.d)
    assert g.dtype == torch.float64
    check_members(group_id, g)


def test_generators_obey_the_defining_equations(group_id, group):
    if len(group.discrete_generators):
        check_members(group_id, group.discrete_generators)
    if len(group.lie_algebra):
        check_members(group_id, torch.linalg.matrix_exp(0.7 * group.lie_algebra))


def test_samples_repeat_with_their_generator_and_differ_without(group):
    def draw(seed):
        return group.sample(30, torch.Generator().manual_seed(seed))

    torch.testing.assert_close(draw(1), draw(1), atol=0, rtol=0)
    if not torch.equal(draw(1), eye(group.d).expand(30, -1, -1)):
        assert not torch.equal(draw(1), draw(2))


ALGEBRA_DIMENSIONS = {
    "U(1)": 1, "U(2)": 4, "SU(1)": 0, "SU(2)": 3, "SU(3)": 8, "GL(2)": 4, "Scaling(3)": 1, "O11": 1, "SOpqp(2,1)": 3,
    "Trivial(1)": 0, "SO(2)": 1, "SO(3)": 3, "SO(4)": 6, "O(3)": 3, "SO13": 6, "Lorentz": 6, "SOpq(2,2)": 6, "Sp(2)": 3,
    "Sp(4)": 10, "SL(2)": 3, "SL(3)": 8, "Permutation(4)": 0, "SO2eR3": 1, "SL(2)*SL(2)": 6,
}  # fmt: skip


@pytest.mark.parametrize("group_id", ALGEBRA_DIMENSIONS, indirect=True)
def test_lie_algebra_has_the_dimension_of_the_group(group_id, group):
    algebra = group.lie_algebra.flatten(1)
    assert len(algebra) == ALGEBRA_DIMENSIONS[group_id]
    assert len(algebra) == 0 or torch.linalg.matrix_rank(algebra) == len(algebra)


ORDERS = {
    "Cube": (groups.Cube, 24),
    "ZksZnxZn(4,3)": (lambda: groups.ZksZnxZn(4, 3), 36),
    "ZksZnxZn(2,3)": (lambda: groups.ZksZnxZn(2, 3), 18),
    "ZksZnxZn(1,3)": (lambda: groups.ZksZnxZn(1, 3), 9),
    "Parity": (groups.Parity, 2),
    "Dihedral(5)": (lambda: groups.Dihedral(5), 10),
}


@pytest.mark.parametrize("name", ORDERS)
def test_finite_groups_have_their_order(name):
    make, order = ORDERS[name]
    assert len(closure(make())) == order


def order_of(g):
    """The smallest k with g^k = 1."""
    power, k = g, 1
    while not torch.equal(power, eye(len(g))):
        power, k = power @ g, k + 1
    return k


def test_rubiks_cube_turns_as_the_toy_does():
    turns = groups.RubiksCube().discrete_generators
    assert turns.shape == (6, 48, 48)
    is_permutation(turns)
    right, up, left = turns[0], turns[2], turns[3]
    assert [order_of(turn) for turn in turns] == [4] * 6
    assert [int((turn.diagonal() == 0).sum()) for turn in turns] == [20] * 6, "eight on the face, twelve around it"
    assert order_of(right @ up) == 105
    assert order_of(right @ left) == 4, "opposite faces do not meet"
    commutator = right @ up @ right.T @ up.T
    assert order_of(commutator) == 6


def test_rubiks_cube_keeps_the_stickers_of_a_piece_together():
    """Of a corner's sticker: itself, the next, the one before, all other corners'; of an edge's: itself, the other, the
    rest; and one map from corners to edges and one back. A group that tore pieces apart would have 2 + 2 + 2.
    """
    vector = Vector(groups.RubiksCube())
    assert equivariant_projector(vector, vector).rank == 4 + 3 + 1 + 1


def test_every_group_is_found_by_its_own_name(group):
    assert groups.named(repr(group)) == group
    assert repr(groups.named(repr(group))) == repr(group)


NAMES = {
    "O(3)": lambda: groups.O(3),
    " SO( 1, 3 ) ": groups.SO13,
    "SO+(1,3)": groups.SO13p,
    "O(1,3)": groups.Lorentz,
    "O13": groups.Lorentz,
    "S(5)": lambda: groups.Permutation(5),
    "D(4)": lambda: groups.Dihedral(4),
    "C(4)": lambda: groups.Cyclic(4),
    "SO2eR3()": groups.SO2eR3,
    "SO(3)*Z(2)": lambda: groups.SO(3) * groups.Z(2),
    "SO(3)+S(5)": lambda: groups.separate(groups.SO(3), groups.Permutation(5)),
    "(SO(3) + S(5)) + Z(2)": lambda: groups.separate(groups.separate(groups.SO(3), groups.Permutation(5)), groups.Z(2)),
    "Embed(SO(3) x Z(2), 8, 1)": lambda: groups.Embed(groups.SO(3) * groups.Z(2), 8, 1),
    "RubiksCube": groups.RubiksCube,
}


@pytest.mark.parametrize("name", NAMES)
def test_groups_by_name(name):
    assert groups.named(name) == NAMES[name]()


def test_groups_survive_pickling(group):
    loaded = pickle.loads(pickle.dumps(group))
    assert loaded == group
    assert repr(loaded) == repr(group)
    draw = [g.sample(3, torch.Generator().manual_seed(0)) for g in (group, loaded)]
    torch.testing.assert_close(*draw, atol=0, rtol=0)
