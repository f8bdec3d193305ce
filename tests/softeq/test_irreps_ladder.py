"""SoftO3Linear on a ladder of subgroups of O(3): the spaces are those of the subgroups, and every form of the layer."""

import itertools

import pytest
import torch
from torch import nn

pytest.importorskip("e3nn")

from e3nn import o3

from softeq import (
    Prior,
    Scalar,
    SofteqValueError,
    SoftLinear,
    SoftO3Linear,
    Vector,
    fold,
    harden,
    prior_penalty,
    summary,
)
from softeq._nested_groups import _check_subgroup
from softeq._nested_irreps import _matrix
from softeq.groups import SO, DkeR3, O, O2eR3, SO2eR3

IN, OUT = "2x0e+1x1o+1x2e+1x3o", "1x0e+2x1o+1x1e+1x2e+1x0o"
LADDERS = {
    "O2eR3": [O(3), O2eR3()],
    "O2eR3-SO2eR3": [O(3), O2eR3(), SO2eR3()],
    "SO3-SO2eR3": [O(3), SO(3), SO2eR3()],
    "D6": [O(3), DkeR3(6)],
}


def layer_of(name, **options):
    torch.manual_seed(0)
    layer = SoftO3Linear(IN, OUT, ladder=LADDERS[name], **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


def matrices(irreps, element):
    return torch.block_diag(*(_matrix(kind, element) for copies, kind in o3.Irreps(irreps) for _ in range(copies)))


def norm(tensor):
    return float(tensor.detach().norm())


def parts_of(layer):
    ladder = layer.ladders["weight"]
    found = {"equivariant": layer.projector.matrix(layer.pathways["equivariant"].weight)}
    for name, space in ladder.rungs.items():
        found[name] = space.expand(layer.pathways[name].weight)
    return {**found, "residual": ladder.rest(layer.pathways["residual"].weight)}


@pytest.mark.parametrize("improper", [False, True])
def test_the_matrices_are_e3nns_without_their_rounding(improper):
    element = SO(3).sample(1, torch.Generator().manual_seed(0))[0] * (-1 if improper else 1)
    for kind in o3.Irreps("0e+0o+1e+1o+2e+2o+4e+5o"):
        found = _matrix(kind.ir, element)
        assert norm(found - kind.ir.D_from_matrix(element)) < 1e-5
        assert norm(found @ found.T - torch.eye(kind.ir.dim)) < 1e-13
    assert norm(_matrix(o3.Irrep("1o"), element) - element) < 1e-13


@pytest.mark.parametrize("name", LADDERS)
def test_the_parts_are_orthogonal_and_sum_to_the_merged_weight(name):
    layer = layer_of(name)
    parts = parts_of(layer)
    assert (
        list(parts) == ["equivariant", *(group.name for group in LADDERS[name][1:]), "residual"] == list(layer.pathways)
    )
    assert norm(sum(parts.values()) - layer.weight) < 1e-12 * norm(layer.weight)
    for a, b in itertools.combinations(parts.values(), 2):
        assert abs(float((a * b).sum().detach())) < 1e-11


@pytest.mark.parametrize("name", LADDERS)
def test_hardened_to_a_rung_it_is_the_projection_onto_all_that_its_group_allows(name):
    layer = layer_of(name)
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(1)).double()
    for group in LADDERS[name][1:]:
        hard = harden(layer, group.name)
        for element in group.sample(6, torch.Generator().manual_seed(2)):
            turned = hard(x @ matrices(IN, element).T)
            assert norm(turned - hard(x) @ matrices(OUT, element).T) < 1e-11 * norm(turned)
        assert hard.rung_defects()[group.name] < 1e-12
        # All that commutes with a few random elements, as they generate a dense subgroup.
        gram = torch.zeros(layer.weight.numel(), layer.weight.numel()).double()
        for element in group.sample(5, torch.Generator().manual_seed(3)):
            off = torch.kron(matrices(OUT, element), matrices(IN, element)) - torch.eye(len(gram))
            gram += off.T @ off
        values, vectors = torch.linalg.eigh(gram)
        dense = vectors[:, values < 1e-6].T
        assert len(dense) == layer.ladders["weight"].within[group.name].rank
        nearest = dense.T @ (dense @ layer.weight.detach().flatten())
        assert norm(hard.weight.flatten() - nearest) < 1e-6 * norm(nearest)
    assert harden(layer).rungs == []


def test_scalars_and_a_vector_have_the_spaces_of_soft_linear():
    rep, ladder = (Scalar + Vector)(O(3)), LADDERS["O2eR3-SO2eR3"]
    ours = SoftLinear(rep, rep, ladder=ladder).ladders["weight"]
    theirs = SoftO3Linear("0e+1o", "0e+1o", ladder=ladder).ladders["weight"]
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    for name, space in ours.within.items():
        assert space.rank == theirs.within[name].rank
        torch.testing.assert_close(space.nearest(weight), theirs.within[name].nearest(weight), rtol=0, atol=1e-13)


def test_penalty_fold_defects_and_summary():
    layer = layer_of("O2eR3-SO2eR3")
    prior = Prior(0.5, 2.0, {"": {"SO2eR3": 7.0}})
    of = {"equivariant": 0.5, "O2eR3": 2.0, "SO2eR3": 7.0, "residual": 2.0}
    expected = sum(
        0.5 * of[name] * norm(p) ** 2 for name, pathway in layer.pathways.items() for p in pathway.parameters()
    )
    assert prior_penalty(layer, prior).item() == pytest.approx(expected, rel=1e-12)
    x = torch.randn(3, layer.in_features).double()
    assert type(fold(layer)) is nn.Linear
    torch.testing.assert_close(fold(layer)(x), layer(x))
    defects = [layer.weight_defect(), *layer.rung_defects().values()]
    assert defects == sorted(defects, reverse=True)
    assert sum(row.rank for row in summary(layer).rows) == layer.weight.numel() + layer.bias.numel()


def test_it_starts_at_its_hard_twin_and_without_bias():
    torch.manual_seed(0)
    layer = SoftO3Linear(IN, OUT, ladder=LADDERS["D6"], bias=False)
    assert 0 < layer.weight_defect() < 3e-3
    assert layer.bias is None
    assert all(pathway.bias is None for pathway in layer.pathways.values())


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ([SO(3), SO2eR3()], r"the group of the irreps first, O\(3\), got SO\(3\)"),
        ([O(3), SO2eR3(), O2eR3()], "O2eR3 changes a tensor"),
        ([O(3), SO(2)], "one dimension"),
        ([O(3)], "at least one subgroup"),
    ],
    ids=["first", "order", "dimension", "one"],
)
def test_bad_ladders_are_refused_with_the_reason(ladder, message):
    with pytest.raises(SofteqValueError, match=f"ladder: .*{message}"):
        SoftO3Linear(IN, OUT, ladder=ladder)


@pytest.mark.parametrize("constraint", ["hard", "none"])
def test_baselines_have_no_rung(constraint):
    assert len(SoftO3Linear(IN, OUT, constraint=constraint, ladder=LADDERS["D6"]).pathways) == 1


def test_it_is_built_without_values_and_filled_from_a_state_dict():
    layer = layer_of("D6")
    _check_subgroup.cache_clear()
    with torch.device("meta"):
        empty = SoftO3Linear(IN, OUT, ladder=LADDERS["D6"])
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty.weight, layer.weight)
