import math

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.phenomena.calibration import calibration_error, log_loss


def test_predictions_that_are_right_as_often_as_they_say():
    p = torch.tensor([[0.75, 0.25]] * 4 + [[1.0, 0.0]] * 6)
    y = torch.tensor([0, 0, 0, 1] + [0] * 6)
    assert calibration_error(p, y) == pytest.approx(0.0)
    assert calibration_error(p, 1 - y) == pytest.approx((4 * 0.5 + 6 * 1.0) / 10)


def test_bins_do_not_cancel_each_other():
    """Too sure by .2 in one bin, too unsure by .2 in the other: the gaps add up."""
    p = torch.tensor([[0.8, 0.2]] * 5 + [[0.6, 0.4]] * 5)
    y = torch.tensor([0, 0, 0, 1, 1] + [0, 0, 0, 0, 1])
    assert calibration_error(p, y) == pytest.approx(0.2)
    assert calibration_error(p, y, bins=1) == pytest.approx(0.0, abs=1e-6)


def test_log_loss_by_hand_and_of_a_sure_error():
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    assert log_loss(p, torch.tensor([0, 1])) == pytest.approx((math.log(2) + math.log(10)) / 2)
    assert log_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize("p", [torch.zeros(0, 2), torch.tensor([[0.5, 0.1]])], ids=["none", "sum"])
def test_what_are_no_probabilities(p):
    with pytest.raises(SofteqValueError, match="p: expected rows of probabilities"):
        calibration_error(p, torch.zeros(len(p), dtype=torch.long))
