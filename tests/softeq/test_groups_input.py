"""What a Group takes: generators in any array form, copied and checked; what it refuses, by the argument's name."""

import numpy as np
import pytest
import torch

from softeq import SofteqTypeError, SofteqValueError, groups
from softeq.groups import Group


def test_equality_goes_by_generators_and_not_by_name():
    so3 = groups.SO(3)
    alias = Group("rotations", so3.lie_algebra, [])
    assert alias == so3
    assert hash(alias) == hash(so3)
    assert groups.O(3) != so3
    assert groups.SO(3) != groups.SO(4)
    assert so3 != "SO(3)"
    assert len({groups.SO(3), groups.SO(3), groups.O(3)}) == 2


def test_generators_come_as_arrays_lists_or_tensors():
    turn = [[0.0, -1.0], [1.0, 0.0]]
    forms = ([turn], np.array([turn]), torch.tensor([turn]), [np.array(turn)], [torch.tensor(turn)])
    assert len({Group("turns", form, []) for form in forms}) == 1


def test_generators_are_copied():
    array = np.array([[[0.0, -1.0], [1.0, 0.0]]])
    group = Group("turns", array, [])
    array[:] = 5.0
    assert group == groups.SO(2)


def test_orthogonal_groups_are_known_as_such():
    assert all(
        g.is_orthogonal for g in (groups.SO(3), groups.O(2), groups.Permutation(4), groups.Trivial(2), groups.O2eR3())
    )
    assert not any(g.is_orthogonal for g in (groups.SL(2), groups.Lorentz(), groups.Sp(2)))


def test_a_product_has_the_product_of_the_dimensions_and_a_name():
    group = groups.SO(3) * groups.Z(2)
    assert group.d == 6
    assert repr(group) == "SO(3) x Z(2)"
    assert (len(group.lie_algebra), len(group.discrete_generators)) == (3, 1)


NAN, INF = float("nan"), float("inf")
BAD_GENERATORS = {
    "no generators": ([], [], "without generators"),
    "not square": (np.zeros((1, 2, 3)), [], "lie_algebra"),
    "one matrix instead of a stack": (np.eye(3), [], "lie_algebra"),
    "NaN in the algebra": ([[[NAN]]], [], "lie_algebra"),
    "inf in the algebra": ([[[INF]]], [], "lie_algebra"),
    "NaN in a discrete generator": ([], [[[NAN]]], "discrete_generators"),
    "inf in a discrete generator": ([], [[[INF]]], "discrete_generators"),
    "discrete not square": ([], np.zeros((1, 3, 2)), "discrete_generators"),
    "singular discrete generator": ([], [[[1.0, 0.0], [0.0, 0.0]]], r"discrete_generators\[0\]"),
    "two dimensions": (np.zeros((1, 2, 2)), np.eye(3)[None], "discrete_generators"),
    "no dimension": (np.zeros((0, 0, 0)), [], "dimension"),
    "rows of unequal length": ([[[1.0, 0.0], [0.0]]], [], "lie_algebra"),
    "matrices of two sizes": ([np.eye(2), np.eye(3)], [], "lie_algebra"),
}


@pytest.mark.parametrize("case", BAD_GENERATORS)
def test_bad_generators_are_refused_by_name(case):
    algebra, discrete, message = BAD_GENERATORS[case]
    with pytest.raises(SofteqValueError, match=message):
        Group("bad", algebra, discrete)


BAD_SIZES = {
    "SO(0)": lambda: groups.SO(0),
    "O(-1)": lambda: groups.O(-1),
    "O(2.0)": lambda: groups.O(2.0),
    "SO(True)": lambda: groups.SO(True),
    "Sp(3)": lambda: groups.Sp(3),
    "Sp(0)": lambda: groups.Sp(0),
    "SL(0)": lambda: groups.SL(0),
    "SOpq(0,0)": lambda: groups.SOpq(0, 0),
    "SOpq(-1,3)": lambda: groups.SOpq(-1, 3),
    "Cyclic(0)": lambda: groups.Cyclic(0),
    "Dihedral(0)": lambda: groups.Dihedral(0),
    "Z(0)": lambda: groups.Z(0),
    "Permutation(0)": lambda: groups.Permutation(0),
    "DkeR3(0)": lambda: groups.DkeR3(0),
    "Trivial(0)": lambda: groups.Trivial(0),
}


@pytest.mark.parametrize("case", BAD_SIZES)
def test_bad_sizes_are_refused_by_name(case):
    with pytest.raises(SofteqValueError, match=case.split("(")[0]):
        BAD_SIZES[case]()


@pytest.mark.parametrize("n", [0, -2])
def test_sample_wants_at_least_one_element(n):
    with pytest.raises(SofteqValueError, match="n: expected at least 1"):
        groups.SO(3).sample(n)


def test_a_product_with_something_else_is_refused():
    with pytest.raises(SofteqTypeError, match="expected a Group"):
        groups.SO(3) * 2
