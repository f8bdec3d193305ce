"""Folding to plain modules, hardening, and the defect of every layer."""

import copy
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from softeq import (
    Scalar,
    SoftBilinear,
    SofteqValueError,
    SoftGated,
    SoftLayer,
    SoftLinear,
    SoftPathways,
    T,
    Vector,
    assert_equivariant,
    equivariant_basis,
    fold,
    gated,
    groups,
    harden,
    weight_defect,
)

SO3 = groups.SO(3)
REP_IN, HIDDEN, REP_OUT = (Scalar + 2 * Vector)(SO3), (3 * Scalar + 2 * Vector)(SO3), (Scalar + Vector)(SO3)


def network(constraint="soft", parametrization="pathways"):
    model = nn.Sequential(
        SoftLinear(REP_IN, gated(HIDDEN), constraint=constraint, parametrization=parametrization),
        SoftGated(HIDDEN, constraint=constraint),
        SoftBilinear(HIDDEN, HIDDEN, constraint=constraint),
        nn.Sequential(SoftLinear(HIDDEN, REP_OUT, constraint=constraint, bias=False)),
    ).double()
    return enlarged(model)


def enlarged(model):
    """Residual weights of the size of the others, so that leaving them out would show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "residual" in name or "free" in name:
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / p.shape[-1] ** 0.5)
    return model


def inputs(n=5):
    return torch.randn(n, REP_IN.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


FORMS = [(c, p) for c in ("soft", "hard", "none") for p in ("pathways", "projected")]


@pytest.mark.parametrize(("constraint", "parametrization"), FORMS)
def test_the_folded_network_is_plain_and_computes_the_same(constraint, parametrization):
    model = network(constraint, parametrization)
    folded = fold(model)
    assert not any(isinstance(m, SoftLayer) for m in folded.modules())
    assert type(folded[0]) is nn.Linear
    assert type(folded[3][0]) is nn.Linear
    assert folded[3][0].bias is None
    torch.testing.assert_close(folded(inputs()), model(inputs()), atol=1e-12, rtol=1e-12)
    assert next(folded.parameters()).dtype == torch.float64


def test_a_folded_linear_network_is_made_of_torch_alone():
    model = nn.Sequential(SoftLinear(REP_IN, HIDDEN), nn.SiLU(), SoftLinear(HIDDEN, REP_OUT))
    folded = fold(model)
    assert {type(m).__module__.split(".")[0] for m in folded.modules()} == {"torch"}
    assert set(folded.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_folding_leaves_the_original_as_it_was_and_shares_nothing():
    model = network()
    before, outputs = copy.deepcopy(model.state_dict()), model(inputs())
    for changed in (fold(model), harden(model)):
        with torch.no_grad():
            for p in changed.parameters():
                p.add_(1.0)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), atol=0, rtol=0)
    torch.testing.assert_close(model(inputs()), outputs, atol=0, rtol=0)
    assert [type(m) for m in model[:3]] == [SoftLinear, SoftGated, SoftBilinear]


def test_folding_keeps_the_mode():
    assert not fold(network().eval())[0].training
    assert not harden(network().eval())[0].training
    assert fold(network())[0].training


def test_a_single_layer_folds_by_itself():
    layer = enlarged(SoftLinear(REP_IN, REP_OUT).double())
    folded = fold(layer)
    assert type(folded) is nn.Linear
    torch.testing.assert_close(folded(inputs()), layer(inputs()), atol=1e-12, rtol=0)
    torch.testing.assert_close(folded.weight, layer.weight, atol=0, rtol=0)
    folded.weight.data.zero_()
    assert layer.weight.abs().max() > 0


class Twice(nn.Module):
    """One layer in three places: twice in one container, once in another."""

    def __init__(self, layer):
        super().__init__()
        self.first = layer
        self.inner = nn.Sequential(layer, nn.SiLU(), layer)
        self.again = self.inner

    def forward(self, x):
        return self.again(self.inner(self.first(x)))


@pytest.mark.parametrize("change", [fold, harden])
def test_a_layer_in_several_places_stays_one_layer(change):
    model = Twice(enlarged(SoftLinear(REP_IN, REP_IN).double()))
    changed = change(model)
    assert changed.first is changed.inner[0] is changed.inner[2]
    assert changed.again is changed.inner
    assert len(list(changed.parameters())) == 2
    if change is fold:
        assert not any(isinstance(m, SoftLayer) for m in changed.modules())
        torch.testing.assert_close(changed(inputs()), model(inputs()), atol=1e-12, rtol=1e-12)
    else:
        assert all(m.constraint == "hard" for m in changed.modules() if isinstance(m, SoftLinear))


def test_nested_pathways_fold_to_the_bottom():
    inner = SoftPathways(equivariant=SoftLinear(REP_IN, REP_IN), residual=nn.Linear(REP_IN.size, REP_IN.size))
    model = enlarged(
        nn.Sequential(SoftPathways(equivariant=nn.Sequential(inner), residual=SoftLinear(REP_IN, REP_IN))).double()
    )
    folded = fold(model)
    assert not any(isinstance(m, SoftLayer) for m in folded.modules())
    torch.testing.assert_close(folded(inputs()), model(inputs()), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("parametrization", ["pathways", "projected"])
def test_a_hardened_network_is_equivariant_and_the_soft_one_is_not(parametrization):
    model = network(parametrization=parametrization)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(model, REP_IN, REP_OUT)
    hard = harden(model)
    assert_equivariant(hard, REP_IN, REP_OUT, tolerance=1e-9)
    assert hard(inputs()).abs().max() > 1e-3
    assert max(weight_defect(hard).values()) < 1e-12


def test_hardening_a_hard_network_changes_nothing():
    model = network("hard")
    torch.testing.assert_close(harden(model)(inputs()), model(inputs()), atol=1e-12, rtol=1e-12)


def test_hardening_keeps_the_equivariant_pathway():
    layer = enlarged(SoftLinear(REP_IN, REP_OUT).double())
    hard = harden(layer)
    expected = layer.projector(layer.pathways["equivariant"].weight)
    torch.testing.assert_close(hard.weight, expected, atol=1e-12, rtol=0)


def test_an_unconstrained_network_does_not_harden():
    with pytest.raises(SofteqValueError, match=r"harden: .*constraint='none'"):
        harden(network("none"))


def test_the_defects_are_listed_by_name():
    defects = weight_defect(network())
    assert list(defects) == ["0", "3.0"]
    assert all(0 < d < 1 for d in defects.values())
    assert list(weight_defect(SoftLinear(REP_IN, REP_OUT))) == [""]
    shared = SoftLinear(REP_IN, REP_IN)
    assert list(weight_defect(nn.Sequential(shared, shared))) == ["0"]


def test_the_defect_is_between_hard_and_orthogonal():
    layer = SoftLinear(REP_IN, REP_OUT, constraint="none").double()
    weight = layer.pathways["residual"].weight
    basis = equivariant_basis(REP_IN, REP_OUT)
    equivariant = basis[0]
    rest = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rest = rest - torch.einsum("kij,k->ij", basis, torch.einsum("kij,ij->k", basis, rest))
    rest = rest / rest.norm()
    for angle in (0.0, 0.3, 1.0, torch.pi / 2):
        weight.data = 5.0 * (equivariant * torch.tensor(angle).cos() + rest * torch.tensor(angle).sin())
        assert weight_defect(layer)[""] == pytest.approx(float(torch.tensor(angle).sin()), abs=1e-7)
        assert 0 <= weight_defect(layer)[""] <= 1


def test_a_model_without_merged_weights_has_no_defects():
    for model in (nn.Linear(3, 3), SoftGated(HIDDEN)):
        with pytest.raises(SofteqValueError, match=r"weight_defect: .* has no soft layer"):
            weight_defect(model)


PROGRAM = """
    import sys

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("softeq", "models", "measure", "experiments"):
                raise ImportError(f"{name} is not installed here")

    sys.meta_path.insert(0, Block())
    import torch
    program = torch.export.load(sys.argv[1])
    x, y = torch.load(sys.argv[2])
    torch.testing.assert_close(program.module()(x), y, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(program.module()(x[:3]), y[:3], atol=1e-12, rtol=1e-12)
    assert not any(name.split(".")[0] == "softeq" for name in sys.modules)
    try:
        import softeq
    except ImportError:
        print("ran without softeq")
"""


@pytest.mark.slow
def test_an_exported_fold_runs_where_softeq_is_not_installed(tmp_path):
    model = network()
    x = inputs(6)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(fold(model), (x,), dynamic_shapes=({0: batch},))
    torch.export.save(exported, str(tmp_path / "model.pt2"))
    torch.save((x, model(x).detach()), tmp_path / "pair.pt")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "model.pt2"), str(tmp_path / "pair.pt")],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.stdout.strip() == "ran without softeq", result.stderr


def test_a_folded_linear_network_unpickles_where_softeq_is_not_imported(tmp_path):
    """Nothing of the plain modules' pickle names this package."""
    folded = fold(nn.Sequential(SoftLinear(REP_IN, HIDDEN), nn.SiLU(), SoftLinear(HIDDEN, REP_OUT)))
    torch.save(folded, tmp_path / "model.pt")
    assert b"softeq" not in (tmp_path / "model.pt").read_bytes()


def test_a_folded_network_compiles():
    model = network()
    torch._dynamo.reset()
    compiled = torch.compile(fold(model), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs()), model(inputs()), atol=1e-12, rtol=1e-12)


def test_tensor_reps_fold_too():
    rep = (Vector + T(1, 1) + Vector.dual)(groups.SL(3))
    layer = enlarged(SoftLinear(rep, rep).double())
    x = torch.randn(4, rep.size, dtype=torch.float64)
    torch.testing.assert_close(fold(layer)(x), layer(x), atol=1e-12, rtol=0)
