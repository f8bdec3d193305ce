import json
import math

import pytest
import torch
from torch import nn

from softeq import Scalar, SoftLinear, Vector
from softeq.experiments.training.loop import Training
from softeq.experiments.training.trials import Trained, choose, crossed, run_trials
from softeq.groups import SO2eR3


def config(**changes):
    training = {"steps": 8, "batch_size": 20, "validate_every": 4}
    base = {"rule": "fixed", "augment": None, "seed": 0, "training": training, "trials": [{"lr": 1e-2, "prior": None}]}
    return base | changes


def soft():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SoftLinear(Vector(SO2eR3()), Scalar(SO2eR3())).double()


def plain():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(3, 1).double()


def test_every_rate_meets_every_prior():
    assert crossed(lr=(1.0, 2.0), residual=(3.0, 4.0), equivariant=(5.0,)) == (
        {"lr": 1.0, "prior": {"residual": 3.0, "equivariant": 5.0}},
        {"lr": 1.0, "prior": {"residual": 4.0, "equivariant": 5.0}},
        {"lr": 2.0, "prior": {"residual": 3.0, "equivariant": 5.0}},
        {"lr": 2.0, "prior": {"residual": 4.0, "equivariant": 5.0}},
    )
    assert crossed(lr=(1.0,)) == ({"lr": 1.0, "prior": None},)


def test_the_choice_is_the_least_validation_error_and_never_one_that_diverged():
    def one(error, diverged=None):
        return Trained(nn.Identity(), {}, Training(validations=[(1, error)], diverged_at_step=diverged))

    assert choose([one(0.7), one(0.5), one(0.5)]) == 1
    assert choose([one(0.1, diverged=3), one(0.9)]) == 1
    assert choose([one(math.nan), one(0.9)]) == 1
    assert choose([one(0.1, diverged=3), one(0.1, diverged=2)]) == 0


def test_validation_data_choose_and_the_chosen_one_is_measured(line):
    task = line()
    trials = [{"lr": lr, "prior": None} for lr in (1e-9, 3e-2, 1e300)]
    metrics = run_trials(task, plain, config(trials=trials))
    errors = [trial["validation_error"] for trial in metrics["trials"]]
    assert metrics["chosen"] == 1
    assert errors[1] < errors[0]
    assert metrics["validation_error"] == pytest.approx(errors[1], rel=1e-4)
    assert [trial["lr"] for trial in metrics["trials"]] == [1e-9, 3e-2, 1e300]
    assert metrics["test_mse"] == pytest.approx(100 + metrics["validation_error"])
    assert metrics["test_mse_best_validation"] >= 100
    assert (metrics["extra"], metrics["steps"], metrics["parameters"]) == (1.0, 8, 4)
    assert json.dumps(metrics["trials"][:2])


def test_divergence_is_nan_for_what_is_measured(line):
    task = line()
    task.y[:] = math.nan
    metrics = run_trials(task, plain, config())
    assert all(math.isnan(metrics[k]) for k in ("test_mse", "extra", "test_mse_best_validation", "validation_error"))
    assert metrics["diverged_at_step"] == 1


def test_tuning_looks_at_no_test_sample(line):
    task = line()
    training = config()["training"] | {"equal_steps": 4}
    metrics = run_trials(task, plain, config(tuning=True, training=training))
    assert set(task.asked) == {"validation"}
    assert "test_mse" not in metrics


def test_the_best_state_is_measured_and_the_last_one_left(line):
    task, errors, seen, models = line(), iter([1.0, 2.0]), [], []
    task.validation_error = lambda model: next(errors)

    def look(model):
        seen.append([p.detach().clone() for p in model.parameters()])
        return float(len(seen))

    task.test = look
    task.measure = lambda model: {"test_mse": look(model), "extra": 0.0}

    def built():
        models.append(plain())
        return models[-1]

    metrics = run_trials(task, built, config())
    assert (metrics["test_mse"], metrics["test_mse_best_validation"]) == (1.0, 2.0)
    last = list(models[0].parameters())
    assert all(torch.equal(a, b) for a, b in zip(seen[0], last, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[1], last, strict=True))


def test_a_seed_is_another_training_and_augmentation_is_by_the_configuration(line):
    def losses(**changes):
        return run_trials(line(), plain, config(**changes))["trials"][0]["train_losses"]

    assert losses(seed=0) == losses(seed=0) != losses(seed=1)
    assert losses() != losses(augment="true") == losses(augment="assumed")


@pytest.mark.parametrize("name", ["variational", "mackay", "group-lasso", "dual", "annealed"])
def test_a_rule_that_finds_the_precision_trains_through_the_same_loop(line, name):
    metrics = run_trials(line(), soft, config(rule=name))
    assert math.isfinite(metrics["test_mse"])
    assert metrics["steps"] == 8
