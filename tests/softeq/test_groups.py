"""Groups: their samples obey the defining equations, and so do their generators."""

import pickle

import pytest
import torch

from softeq import Vector, equivariant_projector, groups

from .group_equations import DEFINING, check_members, closure, eye, is_permutation


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
