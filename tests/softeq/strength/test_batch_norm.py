"""Weight noise and batch norm: the statistics that are used afterwards are those of the weights without noise."""

import torch
from torch import nn

from softeq import SoftLinear, Vector, groups
from softeq.strength import rule

REP = (4 * Vector)(groups.Z(3))


def test_running_statistics_are_of_the_weights_without_noise():
    torch.manual_seed(0)
    model = nn.Sequential(SoftLinear(REP, REP), nn.BatchNorm1d(12), nn.Tanh(), SoftLinear(REP, REP))
    x = torch.randn(64, 12)
    # Of classes the draw is the whole posterior's.
    one = rule("variational", model, samples=64, start=3.0, every=3, likelihood="categorical")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    counted, kept = [], []
    for _ in range(150):
        optimizer.zero_grad()
        before = model[1].running_var.clone()
        with one.perturbed():
            output = model(x)
            loss = nn.functional.cross_entropy(output, x.roll(1, 0).argmax(1))
        kept.append(torch.equal(before, model[1].running_var))
        counted.append(int(model[1].num_batches_tracked))
        one.backward(loss, output)
        optimizer.step()
        one.step(optimizer)
    assert kept == [k % 3 != 0 for k in range(150)]
    assert counted[-1] == 50
    assert model[1].momentum == 0.1
    clean = model[0](x).var(0).detach()
    torch.testing.assert_close(model[1].running_var, clean, rtol=0.1, atol=0.02)
    with one.perturbed():  # the 151st step is one without noise, the next has it
        pass
    one.steps += 1
    with one.perturbed():
        noisy = model[0](x).var(0).detach()
    assert float((noisy / clean - 1).abs().max()) > 0.1  # so that the test could fail
