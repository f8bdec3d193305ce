"""The finding of cnn-vs-vit, from records whose answers are known."""

import math

import pytest

from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.images.architectures import OUTPUTS, STENCILS
from softeq.experiments.images.checkpoints import QUANTITIES
from softeq.experiments.images.families import (
    TURN,
    at_epoch,
    at_moment,
    compared,
    family_ratio,
    finding,
    pairs_won,
    ratios,
)
from softeq.experiments.show.paired import paired
from softeq.experiments.show.quantities import Quantities

from .family_records import spoil


def test_moments_and_epochs(records):
    r = records[-1]
    assert [at_moment(r, m)["epoch"] for m in ("before training", "at matched accuracy", "after training")] == [0, 2, 3]
    assert at_epoch(r, 7) is None
    r["metrics"]["matched_epoch"] = None
    assert at_moment(r, "at matched accuracy") is None
    r["metrics"]["diverged_at_step"] = 5
    assert at_moment(r, "after training") is None
    assert at_moment(r, "before training")["epoch"] == 0


def test_the_ratio_of_geometric_means():
    assert family_ratio({"cnn-a": 1.0, "cnn-b": 4.0, "vit-a": 6.0}) == pytest.approx(3.0)
    for broken in ({"cnn-a": 1.0}, {"vit-a": 1.0}, {"cnn-a": 0.0, "vit-a": 1.0}, {"cnn-a": math.nan, "vit-a": 1.0}):
        assert math.isnan(family_ratio(broken))


def after(r):
    return at_moment(r, "after training")


def test_ratios_by_seed_of_the_seeds_that_are_whole(records):
    asked = ("bspline", "logits", "relative")
    assert ratios(records, after, *asked) == pytest.approx({0: 0.25, 1: 0.25})
    assert ratios(records, after, "reference", "logits", "relative") == pytest.approx({0: 4.0, 1: 4.0})
    assert ratios(records[:-1], after, *asked) == pytest.approx({0: 0.25})
    spoil(records[0], 3, "bspline")
    assert ratios(records, after, *asked) == pytest.approx({1: 0.25})
    assert ratios(records, after, "central", "logits", "relative") == pytest.approx({0: 0.25, 1: 0.25})


def test_comparisons_are_paired_by_seed_and_adjusted_for_all_of_them(records, make_record):
    for r in records:  # else both seeds have one ratio, and no spread
        if r["seed"] == 1 and r["variant"].startswith("vit"):
            for c in r["metrics"]["checkpoints"]:
                c["lee"]["bspline"]["logits"]["relative"] = [1.1 * v for v in c["lee"]["bspline"]["logits"]["relative"]]
    found = compared(records)
    assert len(found) == 3 * (len(STENCILS) + 1) * len(OUTPUTS) * len(QUANTITIES)
    assert found["after training", TURN, "logits", "relative"].value == pytest.approx(16 / 1.1**0.5)
    one = found["after training", "bspline", "logits", "relative"]
    assert one.value == pytest.approx(0.25 * 1.1**0.5)
    assert (one.n, one.low < one.value < one.high) == (2, True)
    mine = ratios(records, after, "bspline", "logits", "relative")
    alone = paired(mine, dict.fromkeys(mine, 1.0), "ratio")
    assert alone.p < one.p <= 1.0, "not adjusted"
    for r in records:
        r["metrics"]["matched_epoch"] = None
    assert {moment for moment, *_ in compared(records)} == {"before training", "after training"}


def test_pairs_are_of_one_seed_and_what_is_not_measured_is_no_pair(records):
    # .25, 2 and .25 against 1, 4 and 2; equal errors are not won.
    assert pairs_won(records[:6], after, "bspline", "logits", "relative") == (7, 9)
    assert pairs_won(records, after, "bspline", "logits", "relative") == (14, 18)
    assert pairs_won(records[:6], after, "reference", "logits", "relative") == (0, 9)
    spoil(records[0], 3, "bspline")
    assert pairs_won(records[:6], after, "bspline", "logits", "relative") == (5, 6)


def test_the_finding_tells_when_the_stencil_turns_the_answer_around(records, make_record):
    other = make_record("vit-4", experiment="inertia", test_mse=1.0)
    lines = finding([*records, other]).splitlines()
    assert lines[0] == "| translation LEE, ViT / CNN | bspline | central | reference | reference / bspline |"
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines[2:] if line[:1] == "|"}
    assert len(cells) == 3 * len(OUTPUTS) * len(QUANTITIES)
    for output in OUTPUTS:
        for quantity in QUANTITIES:
            row = f"{output}, {quantity.replace('_', ' ')}"
            assert cells[f"before training, {row}"][0].startswith("2 [2, 2]; p < .001; ")
            assert cells[f"after training, {row}"][0] == "0.25 [0.25, 0.25]; p < .001; 14 of 18"
            assert cells[f"at matched accuracy, {row}"][2:] == [
                "4 [4, 4]; p < .001; 0 of 18",
                "16 [16, 16]; p < .001 |",
            ]


def test_the_finding_says_where_nothing_could_be_measured(records):
    for r in records:
        r["metrics"]["matched_epoch"] = None
    assert "| at matched accuracy, logits, relative | not measurable | not measurable |" in finding(records)


def test_no_records(make_record):
    with pytest.raises(SofteqError, match="no records"):
        finding([make_record("vit-4", experiment="inertia", test_mse=1.0)])


def test_records_of_the_latest_protocol_alone_are_shown_and_rates_at_an_edge_are_counted(records):
    before = finding(records)
    assert "learning rate" not in before
    for k, r in enumerate(records[:6]):
        r["config"]["protocol"] = 1
        r["metrics"]["learning_rate_at_edge"] = int(k < 2)
    text = finding(records)
    assert "stood at an edge of its list in 2 of 6 runs" in text
    assert "7 of 9" in text
    assert "14 of 18" not in text


def test_records_as_they_come_back_from_a_file(records, tmp_path):
    path = tmp_path / "cnn-vs-vit.jsonl"
    for r in records:
        record.append(path, r)
    assert finding(record.read(path)) == finding(records)


def test_a_claim_may_ask_for_them(records, tmp_path):
    for r in records:
        record.append(tmp_path / "cnn-vs-vit.jsonl", r)
    asked = Quantities(tmp_path).families
    preset = records[0]["preset"]
    assert asked(f"cnn-vs-vit:{preset}", "after training", "reference", "logits", "relative").value == pytest.approx(4)
    with pytest.raises(SofteqError, match="after training, none, logits, relative was not measured"):
        asked(f"cnn-vs-vit:{preset}", "after training", "none", "logits", "relative")
