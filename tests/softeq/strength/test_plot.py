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
