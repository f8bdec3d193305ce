"""The figure of a rule's history."""

import pytest
import torch

from softeq import Scalar, SofteqTypeError, SofteqValueError, SoftLinear, Vector, groups
from softeq.strength import plot, rule

REP = (2 * Scalar + Vector)(groups.O(3))


@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_it_draws_what_was_recorded(tmp_path):
    pytest.importorskip("matplotlib")
    model = torch.nn.Sequential(SoftLinear(REP, REP), SoftLinear(REP, REP))
    one = rule("mackay", model, samples=20, record=2)
    with pytest.raises(SofteqValueError, match="expected a history, got none after 0 steps"):
        plot(one)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(6):
        optimizer.zero_grad()
        output = model(torch.randn(20, 5))
        loss = output.square().mean()
        one.backward(loss, output)
        optimizer.step()
        one.step(optimizer)
    figure = plot(one, tmp_path / "rule.png")
    assert (tmp_path / "rule.png").stat().st_size > 1000
    first = figure.axes[0]
    assert len(figure.axes) == 3
    labels = {line.get_label(): line for line in first.lines}
    assert set(labels) == {"0 residual", "1 residual"}  # the equivariant ones are fixed and left out
    rows = [row for row in one.history if row["layer"] == "1" and row["pathway"] == "residual"]
    assert list(labels["1 residual"].get_ydata()) == [row["precision"] for row in rows]
    with pytest.raises(SofteqTypeError, match="rule: expected"):
        plot(model)


def test_candidates_have_lines_of_their_own():
    pytest.importorskip("matplotlib")
    model = SoftLinear(REP, REP)
    one = rule("halving", model, samples=20, held=lambda: 1.0, steps=60, candidates=(1e12, 1.0), record=2)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(torch.randn(20, 5)).square().mean()
        one.backward(loss)
        optimizer.step()
        one.step(optimizer)
    labels = {line.get_label(): line for line in plot(one).axes[0].lines}
    assert {"candidate 0: residual", "candidate 1: residual"} <= set(labels)
    assert set(labels["candidate 1: residual"].get_ydata()) == {1.0}
