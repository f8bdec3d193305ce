"""Energies and dipoles as a task: a dipole is the energy's slope in the field, and training lowers both errors."""

import dataclasses

import numpy as np
import pytest
import torch

from softeq.experiments.molecules import parts, set_task
from softeq.strength._probes import scale_of

from .set_configs import config, trained

pytestmark = pytest.mark.usefixtures("few")


def test_the_dipole_is_the_slope_of_the_energy():
    own = config("none-100", dtype="float64")
    task, model = trained(own)
    part = task.train.rows(torch.arange(2))
    _, dipole = set_task.energy_and_dipole(model, part)
    batch, step = set_task._batch(part, model), 1e-4
    for axis in range(3):
        field = torch.zeros(2, 3, dtype=torch.float64)
        field[:, axis] = step
        up, down = (model(dataclasses.replace(batch, field=f)) for f in (field, -field))
        torch.testing.assert_close((down - up) / (2 * step), dipole[:, axis], rtol=1e-5, atol=1e-7)


def test_a_training_lowers_the_error_of_both():
    own = config("hard-100", steps=60)
    task, model = trained(own)
    before = task._loss(set_task.build_model(own, task), task.train)[0]
    loss, output = task._loss(model, task.train)
    assert loss < 0.6 * before
    assert output.shape == (12, 4)
    loss, output = task.loss(model, torch.arange(4), None)
    (slope,) = torch.autograd.grad(loss, output)
    assert slope.abs().min() > 0, "the loss is computed from the output"
    loss, output = task.loss(model, torch.arange(4), None)
    assert scale_of(loss, output, "gaussian") == pytest.approx(1, rel=1e-5)


def test_of_a_set_with_dipole_sizes_the_sizes_are_learned(few, monkeypatch):
    sizes = dataclasses.replace(few, dipoles=None, dipole_sizes=np.linalg.norm(few.dipoles, axis=1))
    monkeypatch.setattr(parts, "_molecules", lambda *_: sizes)
    own = config("hard-100", dtype="float64", steps=40)
    task, model = trained(own)
    train, test, start = task.train, task.held_out, set_task.build_model(own, task)
    error = lambda m: float(train.dipole_error(set_task.energy_and_dipole(m, train)[1]).mean())
    assert error(model) < 0.7 * error(start)
    assert train.dipole_rms == pytest.approx(float(np.sqrt((train.dipole_size**2).mean() / 3)))
    # A direction is neither known nor asked for: the error of a rotated dipole is the same.
    dipole = torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(test.dipole_error(dipole), test.dipole_error(-dipole[:, [1, 2, 0]]))
