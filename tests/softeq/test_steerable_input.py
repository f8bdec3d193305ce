"""SoftR2Conv: bad input is refused by name."""

import builtins

import pytest
import torch

from softeq import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.steerable import SoftR2Conv

from .test_steerable import escnn_nn, fields, gspaces


def test_bad_input_is_refused_by_name():
    kind, other = fields("C4"), fields("C8")
    with pytest.raises(SofteqValueError, match="out_type: expected fields of the group of in_type"):
        SoftR2Conv(kind, other, 3)
    with pytest.raises(SofteqTypeError, match="in_type: expected an escnn FieldType, got int"):
        SoftR2Conv(3, kind, 3)
    with pytest.raises(SofteqTypeError, match="out_type"):
        SoftR2Conv(kind, "4x0", 3)
    nowhere = gspaces.no_base_space(kind.fibergroup)
    with pytest.raises(SofteqValueError, match="in_type: expected fields on the plane"):
        SoftR2Conv(escnn_nn.FieldType(nowhere, [nowhere.trivial_repr]), kind, 3)
    with pytest.raises(SofteqTypeError, match="kernel_size: expected one whole number"):
        SoftR2Conv(kind, kind, (3, 3))
    with pytest.raises(SofteqValueError, match="in_type: expected 2 times the same fields"):
        SoftR2Conv(fields("C4", (0, 1, 1, 0)), fields("C4", (2, 2)), 3, groups=2)
    for name, value in (("stride", 0), ("padding_mode", "mirror"), ("constraint", "firm")):
        with pytest.raises(SofteqValueError, match=name):
            SoftR2Conv(kind, kind, 3, **{name: value})
    with pytest.raises(SofteqValueError, match="options: expected keys among"):
        SoftR2Conv(kind, kind, 5, options={"cutoff": 1})
    layer = SoftR2Conv(kind, kind, 5, padding=1)
    with pytest.raises(SofteqValueError, match="covers 5 x 5 pixels and the image has 2 x 9"):
        layer(torch.zeros(1, kind.size, 2, 9))
    with pytest.raises(SofteqValueError, match=rf"x: expected shape \(N, {kind.size}, H, W\)"):
        layer(torch.zeros(1, kind.size + 1, 9, 9))


def test_no_equivariant_filter_of_this_size():
    scalars, vectors = fields("SO(2)", (0,)), fields("SO(2)", (1,))
    with pytest.raises(SofteqValueError, match="no map but zero from 1 x 1 pixels"):
        SoftR2Conv(scalars, vectors, 1)
    free = SoftR2Conv(scalars, vectors, 1, constraint="none")
    assert free.weight_defect() == 1.0


def test_without_escnn_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.split(".")[0] == "escnn":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"softeq\[escnn\]"):
        SoftR2Conv(None, None, 3)
