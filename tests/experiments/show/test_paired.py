import math

import pytest
from scipy import stats

from softeq.errors import SofteqError
from softeq.experiments.show import paired as module
from softeq.experiments.show.paired import Paired, differences, holm, in_family, p_text, paired

A = {0: 1.0, 1: 2.0, 2: 4.0, 3: 3.0}
B = {0: 1.5, 1: 2.2, 2: 5.0, 3: 3.9}


def test_a_difference_is_the_paired_t_test():
    found = paired(A, B, "difference")
    reference = stats.ttest_rel(list(A.values()), list(B.values()))
    interval = reference.confidence_interval(0.95)
    assert found.value == pytest.approx(-0.65)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.n == 4


def test_a_ratio_is_that_of_the_logarithms():
    found = paired(A, B, "ratio")
    reference = stats.ttest_rel([math.log(v) for v in A.values()], [math.log(v) for v in B.values()])
    interval = reference.confidence_interval(0.95)
    assert found.value == pytest.approx(math.prod(a / b for a, b in zip(A.values(), B.values(), strict=True)) ** 0.25)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    swapped = paired(B, A, "ratio")
    assert (swapped.low, swapped.high) == pytest.approx((1 / found.high, 1 / found.low))


def test_seeds_pair_by_name_and_lost_ones_are_left_out():
    found = paired({5: math.nan, 2: 2.0, 1: 1.0}, {1: 3.0, 2: 4.0, 5: 1.0, 9: 7.0}, "difference")
    assert (found.value, found.n) == (-2.0, 2)
    assert found.p == 0.0, "the same difference twice"
    with pytest.raises(SofteqError, match="no seed"):
        paired({0: 1.0}, {1: 1.0}, "ratio")
    with pytest.raises(SofteqError, match="no seed"):
        paired({0: 0.0}, {0: 1.0}, "ratio")


def test_one_pair_says_nothing():
    found = paired({0: 1.0}, {0: 2.0}, "ratio")
    assert (found.value, found.p, found.n) == (0.5, 1.0, 1)
    assert math.isnan(found.low)


def test_holm_multiplies_and_never_falls():
    def one(p):
        return Paired("ratio", 1.0, 1.0, 1.0, p, 3)

    assert [x.p for x in holm([one(0.01), one(0.04), one(0.03), one(0.005)])] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [x.p for x in holm([one(0.9), one(0.8)])] == [1.0, 1.0]
    assert holm([]) == []


def test_words():
    assert p_text(0.0004) == "p < .001"
    assert p_text(0.0123) == "p = .012"
    assert p_text(1.0) == "p = 1.000"
    assert str(Paired("ratio", 0.5, 0.25, 1.0, 0.02, 4)) == "0.5 [0.25, 1], p = .020, n = 4"
    assert Paired("difference", 0.5, -0.25, 1.0, 0.02, 4).interval == "+0.500 [-0.250, +1.000]"


def test_soft_stands_against_every_arm_of_its_size(make_record):
    values = {"soft-200": (0.5, 0.6), "hard-200": (0.4, 0.4), "none-200": (0.5, 0.7), "hard-1000": (0.9, 0.9)}
    records = [make_record(variant=v, seed=s, accuracy=x) for v, pair in values.items() for s, x in enumerate(pair)]
    found = differences(records, "accuracy")
    assert list(found) == [("soft-200", "hard-200"), ("soft-200", "none-200")]
    first = found["soft-200", "hard-200"]
    assert (first.kind, first.value) == ("difference", pytest.approx(0.15))
    alone = module.paired({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.4}, "difference")
    assert first.p == pytest.approx(min(1.0, 2 * alone.p))
    assert differences(records, "accuracy", reference="frozen") == {}
    assert differences(records[::2], "accuracy") == {}, "single pairs"


def test_networks_that_are_no_arms_stand_against_nothing(make_record):
    records = [make_record(variant=v, seed=s, accuracy=0.5 + s / 9) for v in ("cnn-max", "vit-7") for s in range(3)]
    assert differences(records, "accuracy") == {}


def test_the_inverse_is_the_other_way_round():
    for kind in ("ratio", "difference"):
        one, other = paired(A, B, kind).inverse, paired(B, A, kind)
        assert (one.value, one.low, one.high, one.p) == pytest.approx((other.value, other.low, other.high, other.p))


def noisy(make_record, variants):
    return [
        make_record(variant=variant, seed=seed, test_mse=(k + 1) * (1 + 0.1 * ((seed * (k + 3)) % 5)))
        for k, variant in enumerate(variants)
        for seed in range(5)
    ]


def test_p_in_a_family_is_holms(make_record):
    records = noisy(make_record, ("soft", "hard", "none"))

    def p(other, among):
        mine = [r for r in records if r["variant"] in among]
        return in_family(mine, "test_mse", other, "soft", "ratio", "soft").p

    alone = [p(other, ("soft", other)) for other in ("hard", "none")]
    together = [p(other, ("soft", "hard", "none")) for other in ("hard", "none")]
    assert sorted(together) == pytest.approx([2 * min(alone), max(max(alone), 2 * min(alone))])


def test_what_is_no_arm_has_no_family(make_record):
    records = noisy(make_record, ("soft", "hard", "some-network"))
    found = in_family(records, "test_mse", "soft", "hard", "ratio", "soft")
    soft, hard = ({r["seed"]: r["metrics"]["test_mse"] for r in records if r["variant"] == v} for v in ("soft", "hard"))
    assert found == paired(soft, hard, "ratio")
