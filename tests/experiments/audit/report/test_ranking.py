"""The ranking, with paired intervals."""

import copy

import numpy
import pytest

from softeq.experiments.audit.report.groups import group_records
from softeq.experiments.audit.report.ranking import rank, ranking, ranks

from .test_write import _record


def network(name, ratios, weights="trained"):
    record = copy.deepcopy(_record(name, "rotation", weights=weights))
    record["metrics"] |= {"per_sample": [2 * r for r in ratios], "control_per_sample": [2.0] * len(ratios)}
    return record


def ranked(*records):
    (group,) = group_records(list(records))
    return rank(group.models, ["rotation"])


def test_networks_are_paired_image_by_image():
    spread = numpy.exp(numpy.random.default_rng(0).normal(0, 2, 30))
    first, second = ranked(network("b", 0.2 * spread), network("a", 0.1 * spread))
    assert (first.label, second.label, first.times) == ("a", "b", None)
    found = second.times
    assert (found.value, found.low, found.high) == (pytest.approx(2),) * 3  # the images' spread cancels
    assert first.ratio == pytest.approx(0.1 * numpy.exp(numpy.log(spread).mean()))


def test_an_interval_covers_the_factor():
    random, hits = numpy.random.default_rng(0), 0
    for _ in range(60):
        a, b = numpy.exp(random.normal(0, 1, (2, 25)))
        _, second = ranked(network("a", 0.1 * a), network("b", 0.2 * b))
        truth = 2.0 if second.label == "b" else 0.5
        hits += second.times.low <= truth <= second.times.high
    assert hits > 51


def test_what_cannot_be_ranked():
    assert ranked(network("a", [0.1, 0.2]), network("b", [0.1])) == []
    (only,) = ranked(network("a", [0.1, 0.2]), network("b", [0.01, 0.02], weights="random"))
    assert only.label == "a"
    (group,) = group_records([network("a", [0.1]), network("b", [0.2]), network("c", [0.0], weights="random")])
    text = ranking(group.settings, group.models)
    assert "1. a" in text
    assert "2. b" in text
    assert "weights are random: c" in text


def test_a_missing_image_is_left_out():
    _, second = ranked(network("a", [0.1, float("nan"), 0.1]), network("b", [0.3, 0.5, 0.3]))
    assert second.times.value == pytest.approx(3)


def test_p_is_adjusted_for_the_number_of_comparisons():
    random = numpy.random.default_rng(1)
    factors = {"a": 1.0, "b": 1.5, "c": 1.4}
    records = [network(name, factor * numpy.exp(random.normal(0, 0.5, 20))) for name, factor in factors.items()]
    (group,) = group_records(records)
    plain = [one.times.p for one in rank(group.models, ["rotation"])[1:]]
    adjusted = [one.times.p for one in ranks(group.models)["rotation"][1:]]
    assert min(adjusted) == pytest.approx(2 * min(plain))
    assert max(adjusted) == pytest.approx(max(*plain, min(adjusted)))
    text = ranking(group.settings, group.models)
    assert all(f"p = {p:.3f}".replace("0.", ".") in text or p < 0.001 for p in adjusted)
    (group,) = group_records([network("a", [0.1]), network("b", [0.2])])
    assert "[–, –], p = 1.000" in ranking(group.settings, group.models)  # of one image nothing is known
