"""Finite elements: where they move pixels, channels, points and features, against flows and against other libraries."""

import math

import pytest
import torch
from e3nn import o3

from softeq import T, Vector
from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.groups import SO, Lorentz
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.elements import (
    Element,
    field_element,
    flip_horizontal,
    flip_vertical,
    irreps_element,
    matrix_element,
    on_tokens,
    permute_channels,
    quarter_turn,
    rep_element,
    shift,
)
from softeq.measure.motion.flows import FLOWS
from softeq.measure.motion.spaces import irreps_flows


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_quarter_turns_are_counter_clockwise_like_the_rotation_flow():
    x = normal(2, 3, 7, 7)
    turned = FLOWS["rotation"](x, math.pi / 2)
    torch.testing.assert_close(quarter_turn(1)(x), turned, atol=1e-10, rtol=0)
    assert torch.equal(quarter_turn(1)(x)[0, 0, 0, 3], x[0, 0, 3, 6])  # what was right is now on top
    assert torch.equal(quarter_turn(-1)(quarter_turn(5)(x)), x)
    assert quarter_turn(1)(x[..., :4]).shape == (2, 3, 4, 7)


def test_shifts_and_flips_go_where_their_names_say():
    x = normal(2, 3, 6, 8)
    right = FLOWS["translation_x"].with_(boundary="periodic")(x, 2.0)
    torch.testing.assert_close(shift(2, 0)(x), right, atol=1e-10, rtol=0)
    down = FLOWS["translation_y"].with_(boundary="periodic")(x, 1.0)
    torch.testing.assert_close(shift(0, 1)(x), down, atol=1e-10, rtol=0)
    assert torch.equal(flip_horizontal()(x)[..., 0], x[..., -1])
    assert torch.equal(flip_vertical()(x)[..., 0, :], x[..., -1, :])


@pytest.mark.parametrize("build", [quarter_turn, flip_horizontal, flip_vertical, lambda **k: shift(1, 2, **k)])
def test_layouts_agree(build):
    x = normal(2, 3, 5, 6)
    expected = build()(x)
    assert torch.equal(build(channels_last=True)(x.movedim(1, -1)).movedim(-1, 1), expected)
    tokens = torch.cat([normal(2, 2, 3, seed=1), x.flatten(2).mT], 1)
    moved = on_tokens(build(), (5, 6), prefix=2)(tokens)
    assert torch.equal(moved[:, 2:], expected.flatten(2).mT)
    assert torch.equal(moved[:, :2], tokens[:, :2])


@pytest.fixture(scope="module")
def fields():
    """Under C4 and D4: two scalar channels, and two regular fields."""
    from escnn import gspaces
    from escnn.nn import FieldType

    return {
        name: (FieldType(gspace, [gspace.trivial_repr] * 2), FieldType(gspace, [gspace.regular_repr] * 2))
        for name, gspace in {"C4": gspaces.rot2dOnR2(4), "D4": gspaces.flipRot2dOnR2(4)}.items()
    }


def test_field_elements_turn_pixels_and_permute_regular_channels(fields):
    first, last = fields["C4"]
    group = last.gspace.fibergroup
    x = normal(2, last.size, 7, 7)
    composed = quarter_turn(1).then(permute_channels([3, 0, 1, 2, 7, 4, 5, 6]))
    torch.testing.assert_close(field_element(last, group.element(1))(x), composed(x))
    z = normal(2, 2, 7, 7)
    for k in range(4):
        assert torch.equal(field_element(first, group.element(k))(z), quarter_turn(k)(z))
    last_axis = field_element(last, group.element(1), channels_last=True)(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(last_axis, composed(x))


def test_flips_of_a_field_are_those_of_escnn(fields):
    first, _ = fields["D4"]
    x = normal(1, 2, 7, 7)
    for element in first.gspace.fibergroup.elements:
        theirs = first.transform(x, element, order=0)  # nearest neighbour: exact for these elements
        torch.testing.assert_close(field_element(first, element)(x), theirs, atol=1e-12, rtol=0)


def test_elements_between_pixels_or_of_another_group_are_refused(fields):
    from escnn import gspaces
    from escnn.nn import FieldType

    gspace = gspaces.rot2dOnR2(8)
    field = FieldType(gspace, [gspace.regular_repr])
    with pytest.raises(NotMeasurable, match="between pixels"):
        field_element(field, gspace.fibergroup.element(1))
    assert field_element(field, gspace.fibergroup.element(2))(normal(1, 8, 5, 5)).shape == (1, 8, 5, 5)
    with pytest.raises(SofteqValueError, match="element: expected one of C8"):
        field_element(field, gspaces.rot2dOnR2(4).fibergroup.element(1))
    with pytest.raises(SofteqValueError, match="8 channels"):
        field_element(field, gspace.fibergroup.element(2))(normal(1, 4, 5, 5))


def test_rep_elements_are_the_matrices_of_the_group_one_or_one_per_sample():
    rep = (T(1, 1) + Vector)(Lorentz())
    g, x = rep.bound_group.sample(5, torch.Generator().manual_seed(0)), normal(5, 3, rep.size)
    torch.testing.assert_close(rep_element(rep, g)(x), torch.einsum("bij,bnj->bni", rep.rho(g), x))
    torch.testing.assert_close(rep_element(rep, g[0])(x), torch.einsum("ij,bnj->bni", rep.rho(g[0]), x))
    assert rep_element(rep, g)(x.float()).dtype == torch.float32
    moved = matrix_element(g, normal(5, 4, seed=1))(x[:, 0, :4])
    torch.testing.assert_close(moved, torch.einsum("bij,bj->bi", g, x[:, 0, :4]) + normal(5, 4, seed=1))


@pytest.mark.parametrize("parity", [1, -1])
def test_irreps_elements_agree_with_e3nn(parity):
    irreps = o3.Irreps("1x0e + 2x0o + 1x1o + 1x1e + 1x2o + 1x3e")
    g = parity * SO(3).sample(5, torch.Generator().manual_seed(0))
    g = torch.cat(
        [g, parity * torch.eye(3).double()[None], parity * torch.diag(torch.tensor([1.0, -1, -1])).double()[None]]
    )
    x = normal(7, 4, irreps.dim)
    expected = torch.einsum("bij,bnj->bni", irreps.D_from_matrix(g).double(), x)
    torch.testing.assert_close(irreps_element(irreps, g)(x), expected, atol=2e-5, rtol=0)
    exact = irreps_element("1x1o", g)(x[..., :3])
    torch.testing.assert_close(exact, torch.einsum("bij,bnj->bni", g, x[..., :3]), atol=1e-12, rtol=0)
    flow = irreps_flows(irreps)[1]
    turn = torch.linalg.matrix_exp(0.7 * flow.matrix)
    torch.testing.assert_close(irreps_element(irreps, turn)(x), flow(x, 0.7), atol=1e-12, rtol=0)


def test_elements_of_ones_own_are_composed():
    double = Element("double", lambda x: 2 * x)
    x = normal(3, 4)
    assert double.then(Element("one more", lambda z: z + 1))(x).equal(2 * x + 1)
    assert double.then(double).name == "double, double"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: permute_channels([1, 0, 2])(x), SofteqValueError, "3 channels"),
        (lambda x: on_tokens(quarter_turn(1), (5, 5))(x), SofteqValueError, "tokens"),
        (lambda x: matrix_element(torch.eye(3))(x), SofteqValueError, r"expected \(B, \.\.\., 3\)"),
        (lambda x: rep_element(Vector(SO(3)), torch.eye(2))(x), SofteqValueError, "3, 3"),
        (lambda x: rep_element(Vector, torch.eye(2)), SofteqValueError, "not bound"),
        (lambda x: matrix_element(torch.eye(3), torch.zeros(2)), SofteqValueError, "shift"),
        (lambda x: matrix_element(torch.eye(5).expand(2, 5, 5))(x), SofteqValueError, "B as of the elements"),
        (lambda x: matrix_element(torch.eye(3) * torch.nan), SofteqValueError, "finite"),
        (lambda x: irreps_element("1x1o", 2 * torch.eye(3)), SofteqValueError, "orthogonal"),
        (lambda x: permute_channels([0, 0]), SofteqValueError, "once"),
        (lambda x: quarter_turn(0.5), SofteqTypeError, "whole"),
        (lambda x: shift(1.5, 0), SofteqTypeError, "whole"),
    ],
)
def test_bad_elements_and_data_of_another_shape_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(normal(3, 2, 5, 5))
