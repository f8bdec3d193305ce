import pytest

from softeq.experiments.phenomena import bound
from softeq.experiments.phenomena.occam import occam_bound


@pytest.fixture(scope="module")
def found():
    return {arm: bound.run(bound.configure("smoke", arm, 0), lambda done, total: None) for arm in ("hard", "soft")}


def test_the_bound_is_that_of_its_errors_and_bits(found):
    for metrics in found.values():
        errors = round(1000 * metrics["train_error@rotated"])
        wanted = occam_bound(errors, 1000, metrics["bits@rotated"], bound.DELTA)
        assert metrics["bound@rotated"] == pytest.approx(wanted, abs=1e-5)
        assert metrics["bound@rotated"] == metrics["bound_20@rotated"] > metrics["train_error@rotated"]


def test_a_part_that_is_left_out_costs_no_bits(found):
    hard, soft = found["hard"], found["soft"]
    assert hard["residual_bits@rotated"] == 0
    levels = 16 * bound.LEVELS
    assert levels < hard["bits@rotated"] < levels + 20 * 2.33 + 22  # twenty symbols of five kinds, and their counts
    assert soft["residual_bits@rotated"] == 0 or soft["residual_bits@rotated"] > levels


def test_hard_matched_has_the_parameters_of_none():
    widths = {arm: bound.configure("default", arm, 0)["network"]["width"] for arm in bound.ARMS}
    assert 75 * widths["hard-matched"] + 10 == 300 * widths["none"] + 10
    assert widths["hard"] == widths["soft"] == widths["none"]
