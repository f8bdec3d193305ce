"""EQ-T and EQ-R as an audit records them."""

import pytest
import torch
from torch import nn

from softeq.experiments.audit.decibels import DRAWS, KINDS, decibels, refusal
from softeq.measure import ImageMap, equivariance_decibels

X = torch.rand(3, 2, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OPTIONS = {"boundary": "mirror", "batch_size": 2, "seed": 0}


def test_the_numbers_are_those_of_the_measure():
    found = decibels(nn.AvgPool2d(2), X, "EQ-T_frac", ImageMap(), **OPTIONS)
    expected = equivariance_decibels(nn.AvgPool2d(2), X, "EQ-T_frac", ImageMap(), draws=DRAWS)
    assert found["value"] == pytest.approx(expected.value)
    assert found["interval"] == pytest.approx(list(expected.interval))
    assert (found["peak"], found["error"]) == pytest.approx((expected.peak, expected.errors.mean().item()))


def test_what_differs_in_nothing_has_no_number_of_decibels():
    found = decibels(nn.Identity(), X, "EQ-T", ImageMap(), **OPTIONS)
    assert (found["value"], found["error"]) == (None, 0.0)
    assert found["interval"] == [None, None]
    alone = decibels(torch.sin, X[:1], "EQ-T_frac", ImageMap(), **OPTIONS)
    assert alone["value"] > 15  # of one image there is no interval
    assert alone["interval"] == [None, None]


def test_outputs_without_places_have_none_and_say_why():
    assert "logits are taken as invariant" in refusal("logits")["not_measurable"]
    assert set(KINDS) == {"translation_x", "translation_y", "rotation"}
