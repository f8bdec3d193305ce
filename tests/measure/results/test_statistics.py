"""Bootstrap intervals, summaries and paired comparisons against known answers; NaN counts out and never as 0."""

import json
import math

import pytest
import torch
from scipy import stats

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.results.statistics import bootstrap_interval, paired_comparison, quantile, sign_test, summary


def normal(n, seed=0, dtype=torch.float64):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_interval_of_the_mean_agrees_with_the_normal_theory():
    values = 3 + 2 * normal(400)
    low, high = bootstrap_interval(values, draws=4000)
    half_width = 1.96 * float(values.std()) / math.sqrt(400)
    assert low == pytest.approx(float(values.mean()) - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(float(values.mean()) + half_width, abs=0.1 * half_width)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_interval_covers_the_truth_about_as_often_as_it_says(statistic):
    inside = 0
    for seed in range(100):
        low, high = bootstrap_interval(normal(40, seed), 0.8, 300, statistic=statistic)
        inside += low <= 0 <= high
    assert 68 <= inside <= 92  # 80 expected, three standard errors either way


def test_a_lower_level_gives_a_shorter_interval_within_the_longer_one():
    wide, narrow = (bootstrap_interval(normal(50), level) for level in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_interval_is_reproducible_and_depends_on_the_seed():
    assert bootstrap_interval(normal(30), seed=1) == bootstrap_interval(normal(30), seed=1)
    assert bootstrap_interval(normal(30), seed=1) != bootstrap_interval(normal(30), seed=2)


def test_interval_in_pieces_draws_as_many_samples(monkeypatch):
    whole = bootstrap_interval(normal(30), draws=2000)
    monkeypatch.setattr("softeq.measure.results.statistics._DRAWN_AT_ONCE", 100)
    pieces = bootstrap_interval(normal(30), draws=2000)
    assert pieces == pytest.approx(whole, abs=0.06)


def test_interval_of_the_mean_and_of_the_median_differ_on_skewed_values():
    skewed = torch.exp(2 * normal(200))
    assert bootstrap_interval(skewed, statistic="median")[1] < bootstrap_interval(skewed)[0]


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, 1.0], [math.nan] * 5])
def test_fewer_than_two_measured_samples_have_no_interval(values):
    low, high = bootstrap_interval(torch.tensor(values))
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 95}, "between 0 and 1"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"draws": 0}, "at least 1"),
        ({"statistic": "mode"}, "mean, median"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(SofteqValueError, match=message):
        bootstrap_interval(normal(5), **options)


def test_bad_values_are_named():
    with pytest.raises(SofteqValueError, match="one axis"):
        bootstrap_interval(torch.zeros(3, 2))
    with pytest.raises(SofteqTypeError, match="as_tensor"):
        bootstrap_interval([1.0, 2.0])
    with pytest.raises(SofteqValueError, match="from 0 to 1"):
        quantile(normal(5), 95)


def test_summary_counts_what_was_not_measured():
    s = summary(torch.tensor([4.0, math.nan, 1.0, 2.0, 3.0, math.nan]))
    assert (s.count, s.missing, s.mean, s.median) == (4, 2, 2.5, 2.5)
    assert s.quantiles[0.25] == pytest.approx(1.75)
    assert list(s.quantiles) == [0.05, 0.25, 0.75, 0.95]
    assert 1 <= s.interval[0] < 2.5 < s.interval[1] <= 4


def test_summary_of_nothing_is_nan_and_json_null():
    s = summary(torch.full((3,), math.nan))
    assert (s.count, s.missing) == (0, 3)
    assert math.isnan(s.mean)
    assert math.isnan(s.median)
    record = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert record["mean"] is None
    assert record["interval"] == [None, None]
    assert set(record["quantiles"].values()) == {None}


@pytest.mark.parametrize(("above", "below"), [(5, 0), (7, 3), (3, 7), (10, 10), (60, 90), (1, 0)])
def test_sign_test_equals_the_binomial_test(above, below):
    differences = torch.tensor([1.0] * above + [-1.0] * below + [0.0, math.nan])
    assert sign_test(differences) == pytest.approx(stats.binomtest(above, above + below).pvalue, rel=1e-10)


def test_sign_test_of_nothing_and_of_ties():
    assert math.isnan(sign_test(torch.tensor([math.nan])))
    assert sign_test(torch.zeros(4)) == 1.0


def test_paired_comparison_finds_a_constant_ratio_under_a_large_spread_between_images():
    images = torch.exp(3 * normal(60))  # three natural decades between images
    a, b = 1.3 * images * torch.exp(0.05 * normal(60, 1)), images
    found = paired_comparison(a, b)
    assert found.scale == "log_ratio"
    assert found.ratio == pytest.approx(1.3, rel=0.03)
    assert found.interval[0] < math.log(1.3) < found.interval[1]
    assert found.share_greater == 1.0
    assert found.p_value == pytest.approx(2 * 0.5**60)
    unpaired = [summary(v).interval for v in (a, b)]
    assert unpaired[0][0] < unpaired[1][1]  # the control: unpaired intervals overlap and tell nothing


def test_paired_comparison_of_like_models_sees_nothing():
    a, b = torch.exp(normal(80)), torch.exp(normal(80, 1))
    found = paired_comparison(a, b)
    assert found.interval[0] < 0 < found.interval[1]
    assert found.p_value > 0.05


def test_swapping_the_two_changes_the_sign():
    a, b = torch.exp(normal(30)), torch.exp(normal(30, 1))
    there, back = paired_comparison(a, b), paired_comparison(b, a)
    assert there.mean == pytest.approx(-back.mean)
    assert there.share_greater == pytest.approx(1 - back.share_greater)
    assert there.p_value == pytest.approx(back.p_value)


def test_values_that_are_not_positive_are_compared_by_difference_and_nan_pairs_counted():
    found = paired_comparison(torch.tensor([0.0, 2.0, math.nan, 3.0]), torch.tensor([1.0, 1.0, 1.0, math.nan]))
    assert (found.scale, found.count, found.missing) == ("difference", 2, 2)
    assert found.mean == 0.0
    assert math.isnan(found.ratio)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["ratio"] is None
    assert "difference" in str(found)


def test_different_numbers_of_images_are_refused():
    with pytest.raises(SofteqValueError, match="one value per image"):
        paired_comparison(normal(3), normal(4))
