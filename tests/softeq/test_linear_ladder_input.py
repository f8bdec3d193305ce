"""SoftLinear with a ladder: ladders that are none are refused with the reason."""

import pytest
from torch import nn

from softeq import (
    SofteqTypeError,
    SofteqValueError,
    SoftLinear,
    T,
    Vector,
    assert_equivariant,
    harden,
)
from softeq.groups import SO, Group, O, O2eR3, SO2eR3, Trivial

from .test_linear_ladder import LADDERS, bound, layer_of, reps


@pytest.mark.parametrize(
    ("ladder", "error", "message"),
    [
        ([SO(3), O(3)], SofteqValueError, r"O\(3\) changes a tensor of type T\(3\) that SO\(3\) leaves alone"),
        ([O(3), SO2eR3(), O2eR3()], SofteqValueError, "O2eR3 changes"),
        ([O(3), SO(2)], SofteqValueError, r"one dimension, got O\(3\) on R\^3 and SO\(2\) on R\^2"),
        ([SO(3), SO2eR3()], SofteqValueError, r"the group of rep_in first, O\(3\), got SO\(3\)"),
        ([O(3)], SofteqValueError, "at least one subgroup"),
        ([], SofteqValueError, "at least one subgroup"),
        ([O(3), O(3)], SofteqValueError, "different names"),
        ([O(3), Group("a.b", SO2eR3().lie_algebra, [])], SofteqValueError, "without a dot"),
        ([O(3), Group("keys", SO2eR3().lie_algebra, [])], SofteqValueError, "attributes of nn.ModuleDict"),
        ([O(3), Group("residual", SO2eR3().lie_algebra, [])], SofteqValueError, "not among"),
        ([O(3), "O2eR3"], SofteqTypeError, "expected Groups"),
        (O2eR3(), SofteqTypeError, "expected a list"),
    ],
    ids=[
        "reversed",
        "order",
        "dimension",
        "first",
        "one",
        "none",
        "same",
        "dot",
        "attribute",
        "taken",
        "text",
        "no list",
    ],
)
def test_bad_ladders_are_refused_with_the_reason(ladder, error, message):
    rep = reps(SO(3) if "T\\(3\\)" in message else O(3))
    with pytest.raises(error, match=f"ladder: .*{message}"):
        SoftLinear(*rep, ladder=ladder)


def test_a_rung_of_too_many_dimensions_is_refused_with_the_size(monkeypatch):
    monkeypatch.setattr("softeq._ladder._LARGEST_BASIS", 1000)
    rep = T(2)(SO(3))
    with pytest.raises(SofteqValueError, match=r"ladder: a rung's basis .* 81 x 81 .*leave that group out"):
        SoftLinear(rep, rep, bias=False, ladder=[SO(3), Trivial(3)])


def test_one_free_weight_has_no_ladder():
    with pytest.raises(SofteqValueError, match="ladder: expected parametrization='pathways'"):
        SoftLinear(*reps(O(3)), ladder=LADDERS["O3-O2eR3"], parametrization="projected")


def test_a_rung_that_nobody_has_is_refused():
    layer = layer_of("O3-O2eR3")
    with pytest.raises(SofteqValueError, match=r"rung: expected one of the layers' rungs, \['O2eR3'\], got 'SO\(2\)'"):
        harden(nn.Sequential(layer), "SO(2)")
    with pytest.raises(SofteqValueError, match="rung: expected one of"):
        layer.hardened_to("equivariant")


def test_layers_without_the_rung_keep_their_constraint():
    model = nn.Sequential(layer_of("O3-O2eR3"), SoftLinear(reps(O(3))[1], Vector(O(3))).double())
    hard = harden(model, "O2eR3")
    assert list(hard[0].pathways) == ["equivariant", "O2eR3"]
    assert list(hard[1].pathways) == ["equivariant"]
    assert_equivariant(hard, bound(reps(O(3))[0], O2eR3()), Vector(O2eR3()))
