"""Numbers of audits, for claims."""

import copy
import math

import pytest

from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.show import audited, claims, paired, quantities


def line(model, factor):
    rows = [{"step": 1.0, "change": 0.1 * factor, "kept": 3, "centred_per_sample": [factor, 2 * factor, None]}]
    split = {"shares": [["stem", 0.9], ["head", 0.1]], "intervals": [[0.8, 1.1], [None, None]]}
    metrics = {
        "layerwise": split,
        "ratio_to_control": factor,
        "lee_mean": None,
        "per_sample": [factor, 4 * factor, 1.0],
        "control_per_sample": [2.0, 2.0, None],
        "curve": {"unit": "pixels", "images": 3, "rows": rows},
    }
    config = {"model": model, "flow": "rotation"}
    return record.make("audit", "audit", f"{model}/rotation", 0, config=config, metrics=metrics, provenance={})


@pytest.fixture
def records():
    return [line("a", 0.5), line("b", 1.0)]


def test_numbers_and_images(records):
    assert audited.value(records, "a", "rotation", "ratio_to_control") == 0.5
    assert audited.value(records, "a", "rotation", "change@1") == 0.05
    assert audited.per_image(records, "b", "rotation", "control") == {0: 0.5, 1: 2.0}
    assert audited.per_image(records, "b", "rotation", "lee") == {0: 1.0, 1: 4.0, 2: 1.0}
    assert audited.per_image(records, "a", "rotation", "centred@1") == {0: 0.5, 1: 1.0}


def test_shares_with_their_intervals(records):
    found = audited.share(records, "a", "rotation", "stem")
    assert (found.value, found.low, found.high) == (0.9, 0.8, 1.1)
    assert found.interval == "0.9 [0.8, 1.1]"
    for module in ("head", "neck"):
        with pytest.raises(SofteqError, match=f"no share of {module}"):
            audited.share(records, "a", "rotation", module)


@pytest.mark.parametrize("what", ["lee_mean", "change@2", "nothing"])
def test_what_is_not_recorded_is_told(records, what):
    with pytest.raises(SofteqError, match="no number"):
        audited.value(records, "a", "rotation", what)
    with pytest.raises(SofteqError, match="image by image"):
        audited.per_image(records, "a", "rotation", what)
    with pytest.raises(SofteqError, match="no record of c/rotation"):
        audited.value(records, "c", "rotation", what)


def test_p_is_adjusted_for_all_that_is_compared(records):
    records[1]["metrics"]["per_sample"] = [1.0, 5.0, 1.0]
    plain = paired.paired(*(audited.per_image(records, model, "rotation", "control") for model in "ab"), "ratio")
    assert audited.compared(records, "a", "b", "rotation", "control") == plain
    shrunk = [copy.deepcopy(one) for one in records]
    for one in shrunk:
        one["config"]["flow"] = "scale"  # compared too: its control, with the same p
    several = audited.compared([*records, *shrunk], "a", "b", "rotation", "control")
    assert (several.value, several.p) == (plain.value, pytest.approx(2 * plain.p))
    with pytest.raises(SofteqError, match="none of what is compared: control, centred@10"):
        audited.compared(records, "a", "b", "rotation", "lee")


def test_claims_about_audits(records, tmp_path):
    for one in records:
        record.append(tmp_path / "audit.jsonl", one)
    quantities.read.cache_clear()
    found = quantities.Quantities(tmp_path).audited_ratio("a", "b", "rotation", "control")
    assert (found.value, found.n) == (pytest.approx(0.5), 2)
    text = (
        '<!-- claim r = audited_ratio("b", "a", "rotation", "control"); c = audited("b", "rotation", "change@1") '
        "| r.value > 1.9 and c < 0.2 | {r.value:.1f}, {c:.1f} -->2.0, 0.1<!-- /claim -->"
    )
    assert claims.broken(text, tmp_path) == []
    assert claims.broken(text.replace("1.9", "2.1"), tmp_path) != []
    quantities.read.cache_clear()
    assert math.isfinite(found.low)
