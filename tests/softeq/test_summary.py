"""summary: its numbers are those of the layers, and its table reads the same through rich, as text and as HTML."""

import re
import sys

import pytest
import torch
from torch import nn

from softeq import (
    Prior,
    Scalar,
    SoftBilinear,
    SoftConv2d,
    SofteqTypeError,
    SofteqValueError,
    SoftGated,
    SoftLinear,
    Vector,
    gated,
    groups,
    prior_penalty,
    summary,
)
from softeq._summary import _plain

REP = (2 * Scalar + Vector)(groups.SO(3))
PRIOR = Prior(0.25, 3.0, {"2": {"residual": 7.0}})


def network():
    torch.manual_seed(0)
    layers = [SoftLinear(REP, gated(REP)), SoftGated(REP), SoftLinear(REP, REP, parametrization="projected")]
    return nn.Sequential(*layers, SoftBilinear(REP, REP), nn.Linear(5, 2))


def test_the_rows_are_the_pathways_with_their_numbers():
    model = network()
    found = summary(model, PRIOR)
    rows = {(row.layer, row.pathway): row for row in found.rows}
    assert list(rows) == [
        *((str(i), name) for i in (0, 1) for name in ("equivariant", "residual")),
        ("2", "projected"),
        ("3", "equivariant"),
        ("3", "residual"),
    ]
    first = rows["0", "equivariant"]
    assert (first.kind, first.parameters) == ("SoftLinear", 36)
    assert first.rank == 10  # six numbers from scalars to scalars, one from vector to vector, three biases
    assert first.maps == f"{REP!r} -> {gated(REP)!r}"
    assert first.defect == model[0].weight_defect()
    assert (first.precision, rows["0", "residual"].precision) == (0.25, 3.0)
    assert rows["2", "projected"].precision == "0.25, 7"
    assert rows["0", "residual"].rank == rows["0", "residual"].parameters == 36
    assert rows["1", "equivariant"].parameters == 0
    assert rows["3", "equivariant"].defect is None


def test_the_totals_are_those_of_the_model():
    model = network()
    found = summary(model, PRIOR)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.other == 12
    assert found.nats == pytest.approx(prior_penalty(model, PRIOR).item(), rel=1e-5)
    assert summary(model).nats is None


def test_shared_parameters_count_once():
    layer = SoftLinear(REP, REP)
    tied = SoftLinear(REP, REP)
    tied.pathways["equivariant"].weight = layer.pathways["equivariant"].weight
    model = nn.Sequential(layer, layer, tied)
    found = summary(model, PRIOR_OF_ALL)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.nats == pytest.approx(prior_penalty(model, PRIOR_OF_ALL).item(), rel=1e-5)


PRIOR_OF_ALL = Prior(0.25, 3.0)


class CountingRule:
    """What a rule of softeq.strength shows."""

    prior = PRIOR
    history = (
        {"step": 1, "layer": "0", "pathway": "residual", "effective": 30.0},
        {"step": 2, "layer": "0", "pathway": "residual", "effective": 3.5},
        {"step": 2, "layer": "0", "pathway": "equivariant", "precision": 1.0},
        {"step": 2, "layer": "2", "pathway": "residual", "effective": 1.0},
    )


def test_a_rule_adds_its_prior_and_what_it_counted_last():
    found = summary(network(), rule=CountingRule())
    assert found == summary(network(), PRIOR, CountingRule())
    effective = {(row.layer, row.pathway): row.effective for row in found.rows if row.effective is not None}
    assert effective == {("0", "residual"): 3.5, ("2", "projected"): 1.0}
    assert found.effective == 4.5


def words(text):
    return re.findall(r"[^\s─│-][^\s─│]*", text)


def test_rich_and_plain_text_say_the_same(monkeypatch):
    pytest.importorskip("rich")
    found = summary(network(), PRIOR)
    rich = str(found)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    plain = str(found)
    assert words(rich) == words(plain)
    assert "(2*Scalar + Vector)(SO(3)) -> (3*Scalar + Vector)(SO(3))" in plain
    assert words(plain.splitlines()[-1])[:3] == ["total", "12", "outside"]
    assert "effective" not in plain
    assert "nats" not in str(summary(network()))


def test_the_columns_of_the_plain_text_are_aligned():
    lines = _plain(summary(network(), PRIOR).cells()).splitlines()
    end = lines[0].index("parameters") + len("parameters")
    assert all(line[end - 1].isdigit() for line in lines[2:-2])


def test_the_html_holds_every_cell_and_escapes_names():
    model = nn.ModuleDict({"<b>": SoftLinear(REP, REP)})
    found = summary(model, PRIOR_OF_ALL)
    table = found._repr_html_()
    assert "<b>" not in table
    assert "&lt;b&gt;: SoftLinear" in table
    assert table.count("<tr>") == 4
    assert table.count("<td") == 3 * table.count("<th ")


def test_names_in_brackets_are_no_markup():
    pytest.importorskip("rich")
    assert "[red]: SoftLinear" in str(summary(nn.ModuleDict({"[red]": SoftLinear(REP, REP)})))


def test_a_layer_alone_and_channels():
    found = summary(SoftConv2d(3, 4, 3, size=8, residual="lowrank", rank=2))
    assert found.rows[0].maps == "3 -> 4"
    assert "(model): SoftConv2d" in str(found)


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(SofteqTypeError, match="model"):
        summary([network()])
    with pytest.raises(SofteqValueError, match="summary: Linear has no soft layer"):
        summary(nn.Linear(2, 2))
    with pytest.raises(SofteqTypeError, match="prior: expected a Prior"):
        summary(network(), {"residual": 1.0})
    with pytest.raises(SofteqTypeError, match=r"rule: expected a rule of softeq.strength, got str"):
        summary(network(), rule="mackay")
    with pytest.raises(SofteqValueError, match="name no soft layer"):
        summary(network(), Prior(overrides={"9": {}}))
