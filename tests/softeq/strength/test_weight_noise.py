"""How much of the posterior ``variational`` puts on the weights, and what it takes the noise of the data for."""

import math

import pytest
import torch
from torch import nn

from softeq import SoftLinear, Vector, groups
from softeq.strength import rule

REP = (4 * Vector)(groups.Z(3))
NOISE = 0.01

pytestmark = pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")


def trained(rows, steps=2500, likelihood="gaussian"):
    torch.manual_seed(0)
    x, map_ = torch.randn(rows, 12), torch.randn(12, 12) / 3
    y = x @ map_ + math.sqrt(NOISE) * torch.randn(rows, 12)
    model = SoftLinear(REP, REP)
    one = rule("variational", model, samples=rows, likelihood=likelihood)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        optimizer.zero_grad()
        with one.perturbed():
            output = model(x)
            if likelihood == "gaussian":
                loss = nn.functional.mse_loss(output, y)
            else:
                loss = nn.functional.cross_entropy(output, y.argmax(1))
        one.backward(loss, output)
        optimizer.step()
        one.step(optimizer)
    return one, nn.functional.mse_loss(model(x), y).item()


def test_the_noise_of_the_data_is_found_although_fitting_takes_some_of_it():
    one, error = trained(40)
    assert 0.2 < one._used() < 0.5
    assert error < 0.75 * NOISE  # the training error alone would say too little
    assert one.noise == pytest.approx(NOISE, rel=0.15)


def test_the_draw_is_smaller_the_more_samples_there_are():
    shares = [trained(rows, 300)[0]._share() for rows in (40, 400, 4000)]
    assert shares[0] > 2 * shares[1] > 4 * shares[2] > 0.0


def test_of_classes_the_draw_is_whole():
    one, _ = trained(40, 20, "categorical")
    assert (one._share(), one._noise_seen()) == (1.0, 1.0)
