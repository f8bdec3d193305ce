"""The inertia problems against their definition, written as sums, and their symmetries."""

import pytest
import torch
from torch.nn.functional import softplus

from softeq.errors import SofteqValueError
from softeq.experiments.data.inertia import inertia_data, modified_moment_of_inertia, moment_of_inertia
from softeq.groups import SL, O, O2eR3
from softeq.reps import Scalar, T, Vector


def inputs(n=7, seed=0):
    x = torch.randn(n, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, :5] = softplus(x[:, :5])
    return x


def equivariance_gap(problem, group, seed=3):
    """max |f(g x) - g f(x)| over random inputs and elements."""
    x = inputs()
    g = group.sample(len(x), generator=torch.Generator().manual_seed(seed))
    rep_in, rep_out = (5 * Scalar + 5 * Vector)(group), T(2)(group)
    moved = torch.einsum("bij,bj->bi", rep_in.rho(g), x)
    return (problem(moved) - torch.einsum("bij,bj->bi", rep_out.rho(g), problem(x))).abs().max().item()


def test_moment_of_inertia_is_the_sum_over_the_bodies():
    x = inputs(1)[0]
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for body in range(5):
        m, r = x[body], x[5 + 3 * body : 8 + 3 * body]
        expected += m * ((r @ r) * torch.eye(3, dtype=torch.float64) - torch.outer(r, r))
    torch.testing.assert_close(moment_of_inertia(x).view(3, 3), expected)


def test_modified_adds_three_tenths_of_the_third_column():
    x = inputs(1)[0]
    y = moment_of_inertia(x).view(3, 3)
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(modified_moment_of_inertia(x).view(3, 3), y + 0.3 * torch.outer(y @ z, z))


def test_inertia_is_equivariant_under_every_rotation_and_reflection():
    assert equivariance_gap(moment_of_inertia, O(3)) < 1e-12


def test_inertia_is_not_equivariant_under_shears():
    assert equivariance_gap(moment_of_inertia, SL(3)) > 0.1


def test_modified_inertia_breaks_generic_rotations():
    assert equivariance_gap(modified_moment_of_inertia, O(3)) > 0.1


def test_modified_inertia_keeps_rotations_about_z():
    assert equivariance_gap(modified_moment_of_inertia, O2eR3()) < 1e-12


def test_modified_inertia_keeps_the_flip_of_z():
    x, g = inputs(), torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    group = O(3)
    moved = x @ (5 * Scalar + 5 * Vector)(group).rho(g).T
    torch.testing.assert_close(modified_moment_of_inertia(moved), modified_moment_of_inertia(x) @ T(2)(group).rho(g).T)


def test_data_have_positive_masses_the_stated_targets_and_sizes():
    data = inertia_data(4, modified=True, sizes=(300, 200, 100), dtype=torch.float64)
    assert [len(x) for x in (data.x_train, data.x_validation, data.x_test)] == [300, 200, 100]
    assert (data.x_train[:, :5] > 0).all()
    torch.testing.assert_close(data.y_test, modified_moment_of_inertia(data.x_test))


def test_positions_are_standard_normal_and_masses_softplus_of_it():
    x = inertia_data(0, sizes=(20000, 1, 1)).x_train
    assert abs(x[:, 5:].mean()) < 0.01
    assert abs(x[:, 5:].std() - 1) < 0.01
    assert abs(x[:, :5].mean() - 0.8061) < 0.01  # E softplus(N(0, 1))


def test_seed_decides_and_dtype_does_not():
    a, b = inertia_data(1), inertia_data(1, dtype=torch.float64)
    assert a.x_train.dtype == torch.float32
    torch.testing.assert_close(a.y_test, b.y_test.float())
    assert not torch.equal(a.x_train, inertia_data(2).x_train)


def test_splits_share_no_row():
    data = inertia_data(0)
    rows = torch.cat([data.x_train, data.x_validation, data.x_test])
    assert len(torch.unique(rows, dim=0)) == 3000


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": 0, "sizes": (10, 0, 10)}])
def test_bad_arguments(arguments):
    with pytest.raises(SofteqValueError, match=next(reversed(arguments))):
        inertia_data(**arguments)


@pytest.mark.parametrize("problem", [moment_of_inertia, modified_moment_of_inertia])
def test_wrong_number_of_coordinates(problem):
    with pytest.raises(SofteqValueError, match=r"expected shape \(\.\.\., 20\).*\(4, 19\)"):
        problem(torch.zeros(4, 19))
