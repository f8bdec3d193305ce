import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.experiments.training.task import evaluated, some_rows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_of_evaluation_mode_without_a_graph_and_the_mode_comes_back(training):
    model, x = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1)).train(training), torch.ones(7, 2)
    found = evaluated(model, x, rows=3)
    torch.testing.assert_close(found, model[1](x))
    assert (found.requires_grad, model.training, model[0].training) == (False, training, training)


def test_a_network_never_meets_more_rows_than_that():
    sizes = []

    class Counting(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x

    evaluated(Counting(), torch.zeros(7, 1), rows=3)
    assert sizes == [3, 3, 1]


def test_some_rows_are_different_ones_with_their_own_targets():
    x = torch.arange(20.0)[:, None]
    rows, targets = some_rows(x, 10 * x, 6, generator())
    assert rows.unique().numel() == 6
    assert torch.equal(targets, 10 * rows)
    assert torch.equal(rows, some_rows(x, x, 6, generator())[0])
    assert not torch.equal(rows, some_rows(x, x, 6, generator(1))[0])
    assert sorted(some_rows(x, x, 99, generator())[0].flatten().tolist()) == x.flatten().tolist()


def test_what_a_task_does_not_have_it_refuses(line):
    with pytest.raises(SofteqValueError, match="Line gives no loss of validation samples, which it needs"):
        line().held_out_loss(nn.Linear(3, 1), generator())
    with pytest.raises(SofteqValueError, match="Line declares no action on inputs and outputs, which it needs"):
        line().action(generator())
