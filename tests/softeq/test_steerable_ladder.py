"""SoftR2Conv on a ladder of groups of the plane: O(2) > C8 > C4 and the like, as far as escnn restricts fields."""

import itertools

import pytest
import torch
from torch import nn

pytest.importorskip("escnn")

from escnn import gspaces
from escnn.nn import FieldType, GeometricTensor

from softeq import Prior, SofteqTypeError, SofteqValueError, SoftR2Conv, fold, harden, prior_penalty, summary

O2, SO2 = gspaces.flipRot2dOnR2(-1, 3), gspaces.rot2dOnR2(-1, 3)
D8, D4, FLIP = gspaces.flipRot2dOnR2(8), gspaces.flipRot2dOnR2(4), gspaces.flip2dOnR2()
C8, C4, C3, C1 = (gspaces.rot2dOnR2(n) for n in (8, 4, 3, 1))


def fields(gspace):
    if gspace is O2:
        unsorted = [O2.trivial_repr, O2.irrep(1, 1), O2.trivial_repr]
        return FieldType(O2, unsorted), FieldType(O2, [O2.irrep(1, 2), O2.irrep(1, 0), O2.trivial_repr])
    return FieldType(gspace, [gspace.trivial_repr, gspace.regular_repr]), FieldType(gspace, [gspace.regular_repr])


LADDERS = {
    "O2-C8-C4": [O2, C8, C4],
    "O2-SO2-C4": [O2, SO2, C4],
    "O2-D4-flip": [O2, D4, FLIP],
    "D4-C4": [D4, C4],
    "C8-C4-C1": [C8, C4, C1],
}


def layer_of(name, **options):
    torch.manual_seed(0)
    ladder = LADDERS[name]
    layer = SoftR2Conv(*fields(ladder[0]), 3, padding=1, ladder=ladder, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


def norm(tensor):
    return float(tensor.detach().norm())


def parts_of(layer):
    ladder = layer.ladders["weight"]
    found = {"equivariant": layer.basis.expand(layer.pathways["equivariant"].weight)}
    for name, space in ladder.rungs.items():
        found[name] = space.expand(layer.pathways[name].weight)
    return {**found, "residual": ladder.rest(layer.pathways["residual"].weight)}


@pytest.mark.parametrize("name", LADDERS)
def test_the_parts_are_orthogonal_and_sum_to_the_merged_filter(name):
    layer = layer_of(name)
    parts = parts_of(layer)
    rungs = [gspace.fibergroup.name for gspace in LADDERS[name][1:]]
    assert list(parts) == ["equivariant", *rungs, "residual"] == list(layer.pathways)
    assert norm(sum(parts.values()) - layer.weight) < 1e-12 * norm(layer.weight)
    for a, b in itertools.combinations(parts.values(), 2):
        assert abs(float((a * b).sum().detach())) < 1e-10
    assert all(norm(part) > 0 for part in parts.values())


@pytest.mark.parametrize("name", LADDERS)
def test_hardened_to_a_rung_it_commutes_with_its_group_and_is_the_layer_of_the_restricted_fields(name):
    layer = layer_of(name)
    x = torch.randn(2, layer.in_type.size, 7, 7, generator=torch.Generator().manual_seed(1)).double()
    for gspace, rung in zip(LADDERS[name][1:], layer.rungs, strict=True):
        hard = harden(layer, rung)
        # The same fields under the smaller group: its hard layer spans what the rungs down to here span.
        types = [
            FieldType(gspace, restricted(kind, LADDERS[name][0], gspace)) for kind in (layer.in_type, layer.out_type)
        ]
        twin = SoftR2Conv(*types, 3, padding=1, constraint="hard").double()
        assert layer.ladders["weight"].within[rung].rank == twin.basis.rank
        assert norm(hard.weight - twin.nearest(layer.weight)) < 1e-6 * norm(hard.weight)
        for element in [g for g in grid_elements(gspace) if g != gspace.fibergroup.identity]:
            turned = hard(GeometricTensor(x, types[0]).transform(element).tensor)
            expected = GeometricTensor(hard(x), types[1]).transform(element).tensor
            assert norm(turned - expected) < 1e-10 * norm(expected)
        assert hard.rung_defects()[rung] < 1e-12
    assert harden(layer).rungs == []


def restricted(field_type, own, gspace):
    ids = [gspace.rotations_order, (None, gspace.rotations_order), (0.0, gspace.rotations_order)]
    for name in ids:
        try:
            found = field_type.restrict(name)
        except Exception:
            continue
        if found.gspace == gspace:
            return list(found.representations)
    raise AssertionError(f"{own} has no {gspace}")


def grid_elements(gspace):
    from softeq._grid_filters import symmetries_of_the_grid

    return [element for element, _ in symmetries_of_the_grid(gspace)]


def test_penalty_fold_defects_summary_and_start():
    layer = layer_of("O2-C8-C4")
    prior = Prior(0.5, 2.0, {"": {"C8": 7.0}})
    of = {"equivariant": 0.5, "C8": 7.0, "C4": 2.0, "residual": 2.0}
    expected = sum(
        0.5 * of[name] * norm(p) ** 2 for name, pathway in layer.pathways.items() for p in pathway.parameters()
    )
    assert prior_penalty(layer, prior).item() == pytest.approx(expected, rel=1e-12)
    x = torch.randn(2, layer.in_type.size, 7, 7).double()
    assert type(fold(layer)) is nn.Conv2d
    torch.testing.assert_close(fold(layer)(x), layer(x))
    defects = [layer.weight_defect(), *layer.rung_defects().values()]
    assert defects == sorted(defects, reverse=True)
    assert sum(row.rank for row in summary(layer).rows) == layer.weight.numel() + layer.bias.numel()
    fresh = SoftR2Conv(*fields(O2), 3, ladder=LADDERS["O2-C8-C4"])
    assert 0 < fresh.weight_defect() < 3e-3


def test_groups_of_channels_and_no_bias():
    pairs = FieldType(D4, 2 * [D4.irrep(1, 1)])
    layer = SoftR2Conv(pairs, pairs, 3, groups=2, bias=False, ladder=[D4, C4]).double()
    assert layer.weight.shape == (4, 2, 3, 3)
    assert norm(sum(parts_of(layer).values()) - layer.weight) < 1e-13
    assert layer.bias is None


def test_a_convolution_is_split_over_the_rungs():
    types = fields(O2)
    conv = nn.Conv2d(types[0].size, types[1].size, 3).double()
    layer = SoftR2Conv.from_conv(conv, *types, ladder=LADDERS["O2-C8-C4"])
    torch.testing.assert_close(layer.weight, conv.weight, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer.bias, conv.bias, rtol=0, atol=1e-13)
    assert all(norm(part) > 0.01 for part in parts_of(layer).values())


@pytest.mark.parametrize(
    ("ladder", "error", "message"),
    [
        ([C8, C4], SofteqValueError, "the group of in_type first, O"),
        ([O2, C4, C8], SofteqValueError, "does not restrict C4.* to C8"),
        ([O2, C8, C3], SofteqValueError, "does not restrict C8.* to C3"),
        ([O2], SofteqValueError, "at least one subgroup"),
        ([O2, C4, C4], SofteqValueError, "different names"),
        ([O2, 4], SofteqTypeError, "escnn's gspaces on the plane.* got int"),
        (C4, SofteqTypeError, "expected a list"),
    ],
    ids=["first", "order", "C8 > C3", "one", "same", "number", "no list"],
)
def test_bad_ladders_are_refused_with_the_reason(ladder, error, message):
    with pytest.raises(error, match=f"ladder: .*{message}"):
        SoftR2Conv(*fields(O2), 3, ladder=ladder)


@pytest.mark.parametrize("constraint", ["hard", "none"])
def test_baselines_have_no_rung(constraint):
    assert len(SoftR2Conv(*fields(D4), 3, constraint=constraint, ladder=[D4, C4]).pathways) == 1


def test_it_is_built_without_values_and_filled_from_a_state_dict():
    layer = layer_of("D4-C4")
    with torch.device("meta"):
        empty = SoftR2Conv(*fields(D4), 3, padding=1, ladder=LADDERS["D4-C4"])
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty.weight, layer.weight)
