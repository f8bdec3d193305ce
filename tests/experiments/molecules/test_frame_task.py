"""Energies and forces as a task: its loss is its outputs', and training lowers it."""

import pytest
import torch

from softeq.experiments.molecules import frame_task
from softeq.experiments.training.trials import train_trial
from softeq.strength._probes import scale_of

from .field_configs import config

pytestmark = pytest.mark.filterwarnings("ignore:.*has not walked yet")


def test_a_training_lowers_the_error(cache):
    own = config("hard-50")
    own["training"] |= {"steps": 60, "validate_every": 30}
    task = frame_task.task_of(own, own["points"][0])
    before = frame_task._errors(frame_task.build_model(own, task), task.data.train, task.data)
    trained = train_trial(task, lambda: frame_task.build_model(own, task), own["trials"][0], own)
    after = frame_task._errors(trained.model, task.data.train, task.data)
    assert trained.training.steps == 60
    assert after["force"] < 0.8 * before["force"]


def test_a_loss_is_its_outputs_and_rotations_are_those_of_the_group(cache):
    own = config("hard-50", augment="true")
    task = frame_task.task_of(own, own["points"][0])
    model = frame_task.build_model(own, task)
    rows, seen = torch.arange(4), []
    loss, output = task.loss(model, rows, None)
    target = task.data.train.force[:4].flatten(1) / task.data.force_size
    energy = task.data.train.energy[:4] / task.data.force_size / 3  # nine atoms
    assert output.shape == (4, target.shape[1] + 1)
    by_hand = ((output[:, :-1] * 27**0.5 - target) ** 2).mean() + ((output[:, -1] - energy) ** 2).mean()
    torch.testing.assert_close(loss, by_hand)
    assert scale_of(loss, output, "gaussian") == pytest.approx(1, rel=1e-5)
    (slope,) = torch.autograd.grad(loss, output, retain_graph=True)
    assert slope.abs().min() > 0, "the loss is computed from the output"
    made = frame_task.batch_of

    def watched(x, *others):
        seen.append(x)
        return made(x, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_task, "batch_of", watched)
        task.loss(model, rows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0][..., 2].abs(), task.data.train.x[:4, :, 2].abs())
    assert not torch.allclose(seen[0], task.data.train.x[:4])
