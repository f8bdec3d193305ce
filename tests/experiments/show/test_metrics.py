import math

import pytest

from softeq.experiments.show.metrics import scalar


@pytest.mark.parametrize(
    ("metrics", "key", "expected"),
    [
        ({"a": 3}, "a", 3.0),
        ({"weight_defect": {"x": 0.1, "y": 0.3}}, "weight_defect", 0.2),
        ({"weight_defect": {}}, "weight_defect", None),
        ({"curve": {"x": 1.0}}, "curve", None),
        ({"a": [1.0]}, "a", None),
        ({"a": True}, "a", None),
        ({"a": "1"}, "a", None),
        ({"a": None}, "a", None),
        ({}, "a", None),
    ],
)
def test_scalar_takes_numbers_and_the_mean_defect_alone(metrics, key, expected):
    assert scalar(metrics, key) == (None if expected is None else pytest.approx(expected))


def test_a_layer_that_diverged_is_not_averaged_away():
    assert math.isnan(scalar({"weight_defect": {"x": 0.1, "y": math.nan}}, "weight_defect"))
