"""SoftLinear with a ladder: a pathway per rung, orthogonal spaces that together are everything, in every form."""

import copy
import itertools

import pytest
import torch
from torch import nn

import softeq
from softeq import (
    Prior,
    Rep,
    Scalar,
    SofteqValueError,
    SoftLinear,
    T,
    Vector,
    assert_equivariant,
    equivariant_basis,
    fold,
    harden,
    param_groups,
    prior_penalty,
    summary,
)
from softeq._nested_groups import _check_subgroup
from softeq.groups import SO, SO13, Cyclic, Dihedral, DkeR3, Group, Lorentz, O, O2eR3, Permutation, SO2eR3, Trivial, Z

LADDERS = {
    "O3-O2eR3": [O(3), O2eR3()],
    "O3-O2eR3-SO2eR3": [O(3), O2eR3(), SO2eR3()],
    "SO3-SO2eR3": [SO(3), SO2eR3()],
    "O3-D4": [O(3), O2eR3(), DkeR3(4)],
    "O2-D6-C3": [O(2), Dihedral(6), Cyclic(3)],
    "S4-Z4": [Permutation(4), Z(4)],
    "O13-SO13": [Lorentz(), SO13()],
    "O3-trivial": [O(3), Trivial(3)],
}


def reps(group):
    rep_in = Scalar + 2 * Vector + T(2) if group.d < 4 else Scalar + 2 * Vector
    return rep_in(group), (Vector + 2 * Scalar + T(1, 1) if group.d < 4 else Vector + T(2))(group)


def layer_of(name, **options):
    torch.manual_seed(0)
    ladder = LADDERS[name]
    layer = SoftLinear(*reps(ladder[0]), ladder=ladder, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


def bound(rep, group):
    return Rep(rep.terms)(group)


def parts_of(layer):
    """The pathways' weights, which sum to the merged one."""
    ladder = layer.ladders["weight"]
    found = {"equivariant": layer.projector(layer.pathways["equivariant"].weight)}
    for name, space in ladder.rungs.items():
        found[name] = space.expand(layer.pathways[name].weight)
    return {**found, "residual": ladder.rest(layer.pathways["residual"].weight)}


def norm(tensor):
    return float(tensor.detach().norm())


@pytest.mark.parametrize("name", LADDERS)
def test_the_pathways_are_the_rungs_and_their_weights_are_orthogonal_and_sum_to_the_merged_one(name):
    layer = layer_of(name)
    names = ["equivariant", *(group.name for group in LADDERS[name][1:]), "residual"]
    assert list(layer.pathways) == names
    parts = parts_of(layer)
    assert list(parts) == names
    assert norm(sum(parts.values()) - layer.weight) < 1e-12 * norm(layer.weight)
    for a, b in itertools.combinations(parts.values(), 2):
        assert abs(float((a * b).sum().detach())) < 1e-11
    partition = [id(p) for pathway in layer.pathways.values() for p in pathway.parameters()]
    assert sorted(partition) == sorted(id(p) for p in layer.parameters())


@pytest.mark.parametrize("name", LADDERS)
def test_hardened_to_a_rung_it_is_the_projection_onto_that_groups_maps(name):
    layer, (rep_in, rep_out) = layer_of(name), reps(LADDERS[name][0])
    for group in LADDERS[name][1:]:
        hard = harden(layer, group.name)
        own = bound(rep_in, group), bound(rep_out, group)
        assert_equivariant(hard, *own)
        dense = equivariant_basis(*own).flatten(1)
        assert norm(hard.weight.flatten() - dense.T @ (dense @ layer.weight.flatten())) < 1e-11 * norm(layer.weight)
        invariants = equivariant_basis(Scalar(group), own[1])[..., 0]
        assert norm(hard.bias - invariants.T @ (invariants @ layer.bias)) < 1e-11 * norm(layer.bias)
        assert hard.rung_defects()[group.name] < 1e-12
        assert all(p.data_ptr() != q.data_ptr() for p in hard.parameters() for q in layer.parameters() if p.numel())
    plain = harden(layer)
    assert list(plain.pathways) == ["equivariant"]
    assert plain.rungs == []
    assert_equivariant(plain, rep_in, rep_out)


@pytest.mark.parametrize("name", LADDERS)
def test_the_defect_of_each_rung_is_the_distance_from_its_groups_maps(name):
    layer, (rep_in, rep_out) = layer_of(name), reps(LADDERS[name][0])
    defects = [layer.weight_defect(), *layer.rung_defects().values()]
    assert defects == sorted(defects, reverse=True)
    for group, defect in zip(LADDERS[name], defects, strict=True):
        dense = equivariant_basis(bound(rep_in, group), bound(rep_out, group)).flatten(1)
        off = layer.weight.flatten() - dense.T @ (dense @ layer.weight.flatten())
        assert defect == pytest.approx(norm(off) / norm(layer.weight), abs=1e-12)


def test_each_rung_has_its_own_precision():
    layer = layer_of("O3-O2eR3-SO2eR3")
    prior = Prior(0.5, 2.0, {"*": {"O2eR3": 7.0}})
    of = {"equivariant": 0.5, "O2eR3": 7.0, "SO2eR3": 2.0, "residual": 2.0}
    expected = sum(
        0.5 * of[name] * norm(p) ** 2 for name, pathway in layer.pathways.items() for p in pathway.parameters()
    )
    assert prior_penalty(layer, prior).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(SofteqValueError, match=r"'O2eR3', 'SO2eR3', .*got 'O2'"):
        prior_penalty(layer, Prior(overrides={"": {"O2": 1.0}}))


def test_an_override_of_a_rung_reaches_the_layers_that_have_it():
    with_rung, without = layer_of("O3-O2eR3"), SoftLinear(*reps(O(3))).double()
    model = nn.ModuleList([with_rung, without])
    both = prior_penalty(model, Prior(0.5, 2.0, {"*": {"O2eR3": 7.0}})).item()
    alone = prior_penalty(with_rung, Prior(0.5, 2.0, {"": {"O2eR3": 7.0}})).item()
    assert both == pytest.approx(alone + prior_penalty(without, Prior(0.5, 2.0)).item(), rel=1e-12)


def test_coordinates_are_priced_by_the_size_of_what_they_stand_for():
    layer = layer_of("O3-O2eR3-SO2eR3")
    parts = parts_of(layer)
    for rung in layer.rungs:
        assert norm(layer.pathways[rung].weight) == pytest.approx(norm(parts[rung]), rel=1e-12)


def test_it_starts_at_its_hard_twin():
    torch.manual_seed(0)
    layer = SoftLinear(*reps(O(3)), ladder=LADDERS["O3-O2eR3-SO2eR3"])
    assert 0 < layer.weight_defect() < 3e-3
    assert all(float(p.detach().abs().max()) > 0 for rung in layer.rungs for p in layer.pathways[rung].parameters())
    rest = layer.ladders["weight"].rest(layer.pathways["residual"].weight)
    assert norm(rest - layer.pathways["residual"].weight) < 1e-6 * norm(rest)


def test_folded_exported_and_compiled_it_computes_the_same():
    layer, x = layer_of("O3-D4"), torch.randn(3, reps(O(3))[0].size).double()
    y = layer(x)
    assert type(fold(layer)) is nn.Linear
    for other in (fold(layer), torch.compile(layer, backend="eager", fullgraph=True), copy.deepcopy(layer)):
        torch.testing.assert_close(other(x), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), y, rtol=1e-12, atol=1e-12)


def test_its_gradient_is_right():
    rep = (Scalar + Vector)(O(3))
    layer, x = SoftLinear(rep, rep, ladder=LADDERS["O3-O2eR3"]).double(), torch.randn(1, rep.size).double()
    names = [name for name, _ in layer.named_parameters()]

    def output(*parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, tuple(layer.parameters()))


def test_a_state_dict_is_the_same_layer_again_and_one_of_other_rungs_is_refused():
    layer, twin = layer_of("O3-O2eR3"), layer_of("O3-O2eR3")
    state = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(state)
    assert torch.equal(twin.weight, layer.weight)
    other = Group("O2eR3", SO2eR3().lie_algebra, SO2eR3().discrete_generators)
    with pytest.raises(SofteqValueError, match="saved from another layer"):
        SoftLinear(*reps(O(3)), ladder=[O(3), other]).load_state_dict(state)


def test_it_is_built_without_values_and_filled_from_a_state_dict():
    layer, (rep_in, rep_out), ladder = layer_of("S4-Z4"), reps(Permutation(4)), LADDERS["S4-Z4"]
    _check_subgroup.cache_clear()
    with torch.device("meta"):
        empty = SoftLinear(rep_in, rep_out, ladder=ladder)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty.weight, layer.weight)


def test_a_softened_linear_layer_is_split_over_the_rungs():
    rep_in, rep_out = reps(O(3))
    linear = nn.Linear(rep_in.size, rep_out.size).double()
    layer = SoftLinear.from_linear(linear, rep_in, rep_out, ladder=LADDERS["O3-O2eR3"])
    torch.testing.assert_close(layer.weight, linear.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.bias, linear.bias, rtol=1e-12, atol=1e-12)
    parts = parts_of(layer)
    assert norm(layer.pathways["residual"].weight - parts["residual"]) < 1e-12
    assert norm(parts["O2eR3"]) > 0.1 * norm(layer.weight)


def test_anchors_and_groups_of_parameters_and_the_summary_know_the_rungs():
    layer = layer_of("O3-O2eR3")
    assert prior_penalty(softeq.anchor(layer), Prior(1.0, 1.0)).item() == 0.0
    found = {group["name"]: group for group in param_groups(layer, rungs={"O2eR3": {"lr": 0.5}})}
    assert list(found) == ["equivariant", "O2eR3", "residual"]
    assert found["O2eR3"]["lr"] == 0.5
    shared = {group["name"]: group for group in param_groups(layer, residual={"lr": 0.25})}
    assert shared["O2eR3"]["lr"] == shared["residual"]["lr"] == 0.25
    rows = {row.pathway: row for row in summary(layer).rows}
    assert rows["equivariant"].defect == layer.weight_defect()
    assert rows["O2eR3"].defect == layer.rung_defects()["O2eR3"]
    ranks = [row.rank for row in rows.values()]
    assert sum(ranks) == layer.weight.numel() + layer.bias.numel()


@pytest.mark.parametrize("constraint", ["hard", "none"])
def test_baselines_take_the_ladder_and_have_no_rung(constraint):
    layer = SoftLinear(*reps(O(3)), constraint=constraint, ladder=LADDERS["O3-O2eR3"])
    assert len(layer.pathways) == 1
    assert layer.rungs == []


def test_a_rung_that_adds_nothing_is_empty():
    group = O(3)
    layer = SoftLinear(Scalar(group), Scalar(group), ladder=LADDERS["O3-O2eR3"])
    assert layer.pathways["O2eR3"].weight.shape == (0,)
    layer(torch.randn(2, 1)).sum().backward()
    assert prior_penalty(layer, Prior()).isfinite()
