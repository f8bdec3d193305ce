"""SoftR3Conv: exact under the rotations of the cube, against escnn's R3Conv; the layer contract is in test_contract."""

import pickle
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from softeq import SofteqTypeError, SofteqValueError, assert_equivariant, fold
from softeq._grid_filters import escnn_at_work, move_pixels, symmetries_of_the_grid
from softeq._grid_types import GridType
from softeq.testing import GridFields

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    escnn_nn = pytest.importorskip("escnn.nn")
    from escnn import gspaces

from softeq.steerable import SoftR2Conv, SoftR3Conv

SLOW = pytest.mark.slow  # escnn takes seconds to build these groups
SPACES = {  # name: (gspace, representations beside the trivial one, symmetries of the cube)
    "C4 about z": (lambda: gspaces.rot2dOnR3(4), lambda s: [s.regular_repr], 4),
    "SO(2) about z": (lambda: gspaces.rot2dOnR3(-1), lambda s: [s.irrep(1)], 4),
    "D2, tilted axes": (lambda: gspaces.dihedralOnR3(2), lambda s: [s.regular_repr], 4),
    "inversion": (lambda: gspaces.invOnR3(), lambda s: [s.regular_repr], 2),
    "SO(3)": (lambda: gspaces.rot3dOnR3(), lambda s: [s.irrep(1)], 24),
    "O(3)": (lambda: gspaces.flipRot3dOnR3(), lambda s: [s.irrep(1, 1)], 48),
    "octahedral": (lambda: gspaces.octaOnR3(), lambda s: [s.irrep(1)], 24),
    "icosahedral": (lambda: gspaces.icoOnR3(), lambda s: [s.irrep(1)], 12),
    "full octahedral": (lambda: gspaces.fullOctaOnR3(), lambda s: [s.fibergroup.irreps()[-1]], 48),
}
CASES = [pytest.param(name, marks=[SLOW] if "hedral" in name else []) for name in SPACES]


def fields(name):
    with escnn_at_work():
        space = SPACES[name][0]()
        return escnn_nn.FieldType(space, [space.trivial_repr, *SPACES[name][1](space)])


@pytest.mark.parametrize("name", CASES)
def test_hard_is_exact_under_the_grid_s_symmetries_and_soft_is_not(name):
    own = fields(name)
    assert len(symmetries_of_the_grid(own.gspace)) == SPACES[name][2]
    torch.manual_seed(0)
    for options in ({"padding": 1}, {"transposed": True, "stride": 2}):
        soft = SoftR3Conv(own, own, 3, **options).double()
        with torch.no_grad():
            soft.pathways["residual"].weight.normal_()
        spaces = GridFields(own, 4), GridFields(own, soft.window.output_size((4, 4, 4))[0])
        assert_equivariant(soft.hardened(), *spaces, dtype=torch.float64)
        with pytest.raises(AssertionError):
            assert_equivariant(soft, *spaces, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_the_filters_are_those_of_escnn(name):
    own = fields(name)
    with escnn_at_work():
        theirs = escnn_nn.R3Conv(own, own, 3, padding=1, initialize=False)
    layer = SoftR3Conv(own, own, 3, padding=1, constraint="hard")
    assert layer.basis.rank == theirs.basisexpansion.dimension()
    with torch.no_grad():
        theirs.weights.normal_()
        kernel, bias = theirs.expand_parameters()
        layer.pathways["equivariant"].weight.copy_(layer.basis.coordinates_of(kernel))
        layer.pathways["equivariant"].bias.copy_(layer.bias_basis.coordinates_of(bias))
    x = torch.randn(2, own.size, 4, 4, 4)
    torch.testing.assert_close(layer(x), theirs(own(x)).tensor, atol=1e-4, rtol=1e-3)
    assert type(fold(layer)) is nn.Conv3d


def test_a_rotated_volume_is_escnn_s_own():
    own = fields("SO(3)")
    x = torch.randn(1, own.size, 3, 3, 3, dtype=torch.float64)
    for element, matrix in symmetries_of_the_grid(own.gspace):
        moved = GridFields(own, 3).act((element, matrix), x[0])
        torch.testing.assert_close(moved, own(x).transform(element).tensor[0], atol=1e-6, rtol=0)
    assert not torch.equal(move_pixels(x, matrix), x)


@pytest.mark.parametrize("name", ["C4 about z", "D2, tilted axes", "SO(3)", "O(3)", "inversion"])
def test_types_pickle(name):
    own = GridType.of(fields(name))
    again = pickle.loads(pickle.dumps(own))
    assert again == own
    assert again.type == own.type


def test_what_does_not_fit_is_refused():
    volume = fields("C4 about z")
    plane = escnn_nn.FieldType(gspaces.rot2dOnR2(4), [gspaces.rot2dOnR2(4).trivial_repr])
    with pytest.raises(SofteqValueError, match=r"in_type: expected fields on space \(such as octaOnR3"):
        SoftR3Conv(plane, plane, 3)
    with pytest.raises(SofteqValueError, match=r"in_type: expected fields on the plane"):
        SoftR2Conv(volume, volume, 3)
    with pytest.raises(SofteqValueError, match="ladder: expected None over volumes"):
        SoftR3Conv(volume, volume, 3, ladder=[volume.gspace, gspaces.trivialOnR3()])
    with pytest.raises(SofteqTypeError, match="kernel_size: expected one whole number for all directions"):
        SoftR3Conv(volume, volume, (3, 3, 3))
    with pytest.raises(SofteqValueError, match=r"x: expected shape \(N, 5, D, H, W\), got \(2, 5, 4, 4\)"):
        SoftR3Conv(volume, volume, 3)(torch.zeros(2, 5, 4, 4))
    with pytest.raises(SofteqTypeError, match=r"conv: expected an nn\.Conv3d, got Conv2d"):
        SoftR3Conv.from_conv(nn.Conv2d(5, 5, 3), volume, volume)
    cylinder = SimpleNamespace(fibergroup=SimpleNamespace(continuous=True))
    with pytest.raises(SofteqValueError, match="in_type: expected a finite group"):
        symmetries_of_the_grid(cylinder)
