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
    assert Group("turns", [turn]) == Group("turns", [turn], []) == groups.SO(2)
    assert Group("swap", discrete_generators=[[[0.0, 1.0], [1.0, 0.0]]]) == groups.Z(2)


def test_complex_generators_become_their_real_form():
    """U(1) is SO(2); multiplication by i is a quarter turn."""
    assert Group("U(1)", torch.tensor([[[1j]]])) == groups.SO(2)
    assert Group("U(1)", [[[1j]]]) == groups.SO(2)
    assert Group("U(1)", np.array([[[1j]]]), np.zeros((0, 1, 1))) == groups.SO(2)
    assert Group("i", discrete_generators=[[[1j]]]) == groups.Cyclic(4)
    both = Group("real algebra, complex element", [[[1.0]]], [[[1j]]])
    assert both.d == 2
    torch.testing.assert_close(both.lie_algebra[0], torch.eye(2, dtype=torch.float64))


def test_complex_numbers_with_nothing_imaginary_are_complex_all_the_same():
    assert Group("real", torch.ones(1, 1, 1, dtype=torch.complex64)).d == 2


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
    "U(0)": lambda: groups.U(0),
    "SU(0)": lambda: groups.SU(0),
    "GL(0)": lambda: groups.GL(0),
    "Scaling(0)": lambda: groups.Scaling(0),
    "Opq(0,0)": lambda: groups.Opq(0, 0),
    "SOpqp(-1,3)": lambda: groups.SOpqp(-1, 3),
    "ZksZnxZn(3,2)": lambda: groups.ZksZnxZn(3, 2),
    "ZksZnxZn(2,0)": lambda: groups.ZksZnxZn(2, 0),
    "Embed(SO(3),2)": lambda: groups.Embed(groups.SO(3), 2),
    "Embed(SO(2),3,2)": lambda: groups.Embed(groups.SO(2), 3, 2),
    "Embed(SO(2),3,-1)": lambda: groups.Embed(groups.SO(2), 3, -1),
    "SO(10000)": lambda: groups.SO(10_000),
    "O(1000000)": lambda: groups.O(10**6),
    "SL(1000)": lambda: groups.SL(1000),
    "GL(1000)": lambda: groups.GL(1000),
    "Sp(1000)": lambda: groups.Sp(1000),
    "SU(1000)": lambda: groups.SU(1000),
    "Permutation(100000)": lambda: groups.Permutation(100_000),
    "Z(1000000)": lambda: groups.Z(10**6),
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


HUGE = {
    "O(1000000)": (lambda: groups.O(10**6), r"O\(1000000\): its 499,999,500,000 generators .* need 3.47e\+06 EiB"),
    "SO(5000)": (lambda: groups.SO(5000), r"SO\(5000\): .* need 2.22 PiB, and at most 2 GiB"),
    "Kronecker": (lambda: groups.SO(30) * groups.SO(30), r"SO\(30\) x SO\(30\): its 870 generators"),
    "separate": (lambda: groups.separate(groups.SO(70), groups.SO(70), groups.SO(70)), "need"),
}


@pytest.mark.parametrize("case", HUGE)
def test_sizes_that_cannot_be_are_refused_with_the_size_needed(case):
    make, message = HUGE[case]
    with pytest.raises(SofteqValueError, match=message):
        make()


NO_NAMES = {
    "unknown": "Q(3)",
    "open bracket": "O(3",
    "no number": "O(a)",
    "too many numbers": "O(1,2,3)",
    "too few numbers": "O",
    "empty": "",
    "bad size": "Sp(3)",
    "an operator without its right side": "O(3) x ",
    "Embed without a dimension": "Embed(SO(3))",
    "Embed with words": "Embed(SO(3), a)",
    "deep brackets": "(" * 5000 + ")" * 5000,
}


@pytest.mark.parametrize("case", NO_NAMES)
def test_unknown_names_are_refused(case):
    with pytest.raises(SofteqValueError, match=r"named|Sp"):
        groups.named(NO_NAMES[case])


def test_a_name_is_a_string():
    with pytest.raises(SofteqTypeError, match="named: expected a string"):
        groups.named(3)


def test_separate_wants_two_groups_at_least():
    with pytest.raises(SofteqValueError, match="at least two groups, got 1"):
        groups.separate(groups.SO(3))
    with pytest.raises(SofteqTypeError, match="expected groups, got int as argument 2"):
        groups.separate(groups.SO(3), 3)


def test_a_separate_product_is_no_other_group_with_the_same_matrices():
    product = groups.separate(groups.SO(2), groups.Trivial(1))
    assert torch.equal(product.lie_algebra, groups.SO2eR3().lie_algebra)
    assert product != groups.SO2eR3(), "one has factors that reps can name, the other has none"
    assert [factor.d for factor in product.factors] == [2, 1]
