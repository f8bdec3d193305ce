"""How long a network trains and at which rates, without a network: validation errors are told."""

import math

import pytest

from softeq.errors import SofteqValueError
from softeq.experiments.training.pace import LoopSettings, Pace, until_plateau


def settings(**changes):
    return LoopSettings(**{"steps": 12, "batch_size": 16, "lr": 1e-2, "validate_every": 4, **changes})


def plateau(**changes):
    fixed = {"schedule": "plateau", "validate_every": 10, "patience": 3, "tolerance": 0.1, "cooldown": 0.25}
    return Pace(settings(**{"steps": 1000, **fixed, **changes}))


def rates(pace):
    return [pace.rate(step) for step in range(pace.total)]


def test_a_cosine_falls_from_the_rate_to_nearly_nothing():
    found = rates(Pace(settings(steps=100)))
    assert found[0] == 1e-2
    assert found[50] == pytest.approx(5e-3)
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 1e-5


def test_the_rate_rises_in_a_line_over_the_warm_up():
    found = rates(Pace(settings(schedule="constant", warmup=0.5)))
    assert found[:6] == pytest.approx([1e-2 * (k + 1) / 6 for k in range(6)])
    assert found[6:] == [1e-2] * 6


def test_errors_that_stay_begin_the_fall_and_shorten_the_training():
    pace = plateau()
    for step, error in zip(range(10, 80, 10), [9, 7, 5, 3, 2.9, 2.9, 2.9], strict=True):
        assert (pace.plateau, pace.total) == (False, 1000)
        pace.look(step, error)
    assert (pace.plateau, pace.fall, pace.total) == (True, 70, 94)  # a quarter of all steps: 24 of 94
    found = rates(pace)
    assert found[:71] == [1e-2] * 71
    assert found[70:] == sorted(found[70:], reverse=True)
    assert 0 < found[-1] < 1e-4


def test_an_improvement_that_counts_starts_the_waiting_anew():
    pace = plateau()
    for step, error in zip(range(10, 100, 10), [5, 4.9, 4.8, 4.4, 4.3, 4.2, 3.9, 3.8, 3.8], strict=True):
        pace.look(step, error)
    assert not pace.plateau
    pace.look(100, math.nan)  # no improvement either
    assert (pace.plateau, pace.fall) == (True, 100)


def test_without_a_plateau_the_fall_ends_at_the_cap():
    pace = plateau(steps=100)
    for step in range(10, 110, 10):
        pace.look(step, 0.5**step)
    assert (pace.plateau, pace.fall, pace.total) == (False, 75, 100)
    assert pace.rate(74) == 1e-2 > pace.rate(76)


def test_other_schedules_do_not_listen():
    pace = Pace(settings(schedule="constant"))
    for step in range(4, 16, 4):
        pace.look(step, 1.0)
    assert (pace.plateau, pace.total) == (False, 12)


def test_the_fields_of_a_training_until_its_plateau():
    made = LoopSettings(**until_plateau(100, 30, 5), batch_size=1, lr=1.0)
    assert (made.schedule, made.steps, made.equal_steps, made.validate_every) == ("plateau", 100, 30, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": math.nan}, "lr: expected a finite number above 0"),
        ({"lr": 0.0}, "lr"),
        ({"clip": 0.0}, "clip"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup": 1.0}, "warmup: expected a share"),
        ({"cooldown": -0.1}, "cooldown"),
        ({"schedule": "linear"}, "schedule: expected one of constant, cosine, plateau"),
        ({"optimizer": "lion"}, "optimizer: expected one of"),
        ({"patience": 0}, "patience"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(SofteqValueError, match=message):
        settings(**changes)
