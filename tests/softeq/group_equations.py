"""The equations that define each named group, as checks of a batch of matrices (n, d, d)."""

import itertools

import pytest
import torch

from softeq import groups

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
    nearest = (g.unsqueeze(1) - elements).abs().amax((-1, -2)).amin(1)
    assert (nearest < 1e-9).all()


def is_among_products_of(first, second):
    """Kronecker products of the elements of two finite groups, enumerated."""

    def check(g):
        products = torch.stack([torch.kron(a, b) for a, b in itertools.product(closure(first()), closure(second()))])
        is_among(products, g)

    return check


def closure(group):
    """All elements (n, d, d) of a finite group, from its generators."""
    elements = [eye(group.d)]
    for element in elements:
        for h in group.discrete_generators:
            new = element @ h
            if not any(torch.allclose(new, old, atol=1e-9) for old in elements):
                elements.append(new)
    return torch.stack(elements)


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
