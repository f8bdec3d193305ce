import pytest
import torch

from softeq.errors import SofteqError
from softeq.experiments.data.quarters import ROTATED, load_quarters
from softeq.experiments.phenomena.quarters import (
    QuarterTask,
    equivariance_error,
    fitted,
    free_parameters,
    quarter_network,
)

TRAINING = {"steps": 60, "batch_size": 50, "lr": 1e-2, "validate_every": 60}


def built(constraint, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return quarter_network(8, 3, constraint, **options)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_hard_network_does_not_see_quarter_turns_and_a_free_one_does(layers):
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert equivariance_error(built("hard", layers=layers), x) < 1e-6
    assert equivariance_error(built("none", layers=layers), x) > 0.01


def test_free_parameters_count_functions():
    assert free_parameters(built("hard")) == 16 * 3 * 4 + 3 + 3 * 10 + 10
    assert free_parameters(built("none")) == free_parameters(built("soft")) == 64 * 12 + 12 + 120 + 10


def test_training_learns_and_repeats():
    task = QuarterTask(load_quarters("digits", (200, 50, 100), ROTATED, 0))
    found = []
    for _ in range(2):
        model = built("soft")
        fitted(model, task, TRAINING, 0, prior={"equivariant": 1.0, "residual": 100.0})
        found.append(task.measure(model))
    assert found[0] == found[1]
    assert found[0]["train_accuracy"] > 0.5
    assert 0 < found[0]["weight_defect_mean"] < 0.2


def test_augmentation_rotates_and_a_diverged_training_is_told_of():
    task = QuarterTask(load_quarters("digits", (100, 50, 50), ROTATED, 0))
    plain, moved = built("none"), built("none")
    fitted(plain, task, TRAINING, 0)
    fitted(moved, task, TRAINING, 0, augmented=True)
    assert equivariance_error(moved, task.data.x_test) < equivariance_error(plain, task.data.x_test)
    with pytest.raises(SofteqError, match="diverged at step"):
        fitted(built("none"), task, TRAINING | {"lr": 1e30}, 0)


@pytest.mark.parametrize("rule", ["annealed", "halving"])
def test_a_rule_is_told_of_the_task_as_in_every_comparison(rule):
    """The rule was built here a second time, from the samples alone, which these two do not go by."""
    task = QuarterTask(load_quarters("digits", (100, 50, 50), ROTATED, 0))
    assert fitted(built("soft"), task, TRAINING, 0, rule=rule).steps == TRAINING["steps"]


def test_the_error_of_a_known_predictor():
    """Right where the upper left pixel is lit: after a turn it is another pixel."""
    x = torch.zeros(1, 1, 2, 2)
    x[..., 0, 0] = 1

    def predict(images):
        lit = images[:, 0, 0, 0]
        return torch.stack([lit, 1 - lit], -1)

    assert equivariance_error(predict, x) == 1.0
    assert equivariance_error(lambda images: torch.full((len(images), 2), 0.5), x) == 0.0
