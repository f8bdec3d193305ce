"""The figure and the finding of cnn-vs-vit, from records whose answers are known."""

import math

import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record
from softeq.experiments.images import architecture_plots
from softeq.experiments.images.architecture_plots import (
    at_epoch,
    at_moment,
    family_ratio,
    finding,
    pairs_won,
    plot_architectures,
    ratios,
)
from softeq.experiments.images.architectures import NETWORKS, OUTPUTS, STENCILS
from softeq.experiments.images.checkpoints import QUANTITIES
from softeq.measure.motion.flows import FLOWS

ERRORS = {"cnn-stride": 1.0, "cnn-max": 4.0, "cnn-resnet": 2.0, "vit-4": 1.0, "vit-7": 8.0, "vit-stem": 1.0}
"""Their geometric means are 2 and 2, before the factors that `checkpoint` puts on."""


def checkpoint(variant, epoch, seed=0):
    """ViT over CNN is 2 at epoch 0, 1/4 after epoch 3 in general; under the reference stencil 4 there."""
    factor = 1.0
    if variant.startswith("vit"):
        factor = 2.0 if epoch == 0 else 0.25
    lee = {}
    for stencil in STENCILS:
        own = 4.0 if stencil == "reference" and epoch and variant.startswith("vit") else factor
        values = [0.01 * ERRORS[variant] * own * (1 + 0.1 * seed)] * len(FLOWS)
        lee[stencil] = {output: dict.fromkeys(QUANTITIES, values) for output in OUTPUTS}
    return {"epoch": epoch, "validation_accuracy": 0.5, "test_accuracy": 0.5, "lee": lee}


@pytest.fixture
def records(make_record):
    return [
        make_record(
            variant,
            seed,
            experiment="cnn-vs-vit",
            checkpoints=[checkpoint(variant, epoch, seed) for epoch in (0, 1 + seed, 3)],
            matched_epoch=1 + seed,
            test_accuracy=0.5,
        )
        for seed in range(2)
        for variant in NETWORKS
    ]


@pytest.fixture
def uneven(records):
    """Seed 0 ends at epoch 3, seed 1 after epochs 8 and 12.5."""
    for r in records:
        if r["seed"] == 1:
            r["metrics"]["checkpoints"] += [checkpoint(r["variant"], epoch, 1) for epoch in (8, 12.5)]
    return records


def spoil(r, epoch, stencil, reason="it is NaN"):
    for output in OUTPUTS:
        at_epoch(r, epoch)["lee"][stencil][output] = {"not_measurable": reason}


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
    assert ratios(records, after, *asked) == pytest.approx([0.25, 0.25])
    assert ratios(records, after, "reference", "logits", "relative") == pytest.approx([4.0, 4.0])
    assert ratios(records[:-1], after, *asked) == pytest.approx([0.25])
    spoil(records[0], 3, "bspline")
    assert ratios(records, after, *asked) == pytest.approx([0.25])
    assert ratios(records, after, "central", "logits", "relative") == pytest.approx([0.25, 0.25])


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
    assert lines[0] == "| translation LEE, ViT / CNN | bspline | central | reference |"
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines[2:] if line[:1] == "|"}
    assert len(cells) == 3 * len(OUTPUTS) * len(QUANTITIES)
    for output in OUTPUTS:
        for quantity in QUANTITIES:
            row = f"{output}, {quantity.replace('_', ' ')}"
            assert cells[f"before training, {row}"][0].startswith("2.00 (2.00 to 2.00; ")
            assert cells[f"after training, {row}"][0] == "0.25 (0.25 to 0.25; 14 of 18)"
            assert cells[f"at matched accuracy, {row}"][2] == "4.00 (4.00 to 4.00; 0 of 18) |"


def test_the_finding_says_where_nothing_could_be_measured(records):
    for r in records:
        r["metrics"]["matched_epoch"] = None
    assert "| at matched accuracy, logits, relative | not measurable | not measurable |" in finding(records)


def test_no_records(make_record):
    with pytest.raises(SofteqError, match="no records"):
        finding([make_record("vit-4", experiment="inertia", test_mse=1.0)])


def test_lines_go_through_common_epochs_to_the_mean_of_the_ends(uneven):
    own = [r for r in uneven if r["variant"] == "cnn-max"]
    curve = architecture_plots._curve(own, "bspline")
    assert curve == {0.0: pytest.approx([0.04, 0.044]), 7.75: pytest.approx([0.04, 0.044])}
    alone = architecture_plots._curve(own[1:], "bspline")
    assert list(alone) == [0, 2, 3, 8, 12.5]
    own[1]["metrics"]["diverged_at_step"] = 9
    assert list(architecture_plots._curve(own, "bspline")) == [0, 1, 3]
    own[0]["metrics"]["diverged_at_step"] = 9
    assert architecture_plots._curve(own, "bspline") == {}


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


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_figure_is_drawn(records, tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    plot_architectures(records, path)
    content = path.read_bytes()
    if suffix == ".png":
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        return
    for text in (*NETWORKS, "cubic B-spline", "central differences", "reference (bilinear kink)", "ViT / CNN"):
        assert text in content.decode()


def test_the_figure_leaves_out_what_could_not_be_measured(records, tmp_path):
    spoil(records[0], 0, "bspline")
    for r in records:
        spoil(r, 3, "reference")
    del records[1:3]
    records[-1]["metrics"]["matched_epoch"] = None
    plot_architectures(records, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_what_cannot_be_drawn(records, tmp_path):
    with pytest.raises(SofteqValueError, match="expected a name that ends in"):
        plot_architectures(records, tmp_path / "figure.txt")
    for r in records:
        for epoch in {c["epoch"] for c in r["metrics"]["checkpoints"]}:
            for stencil in STENCILS:
                spoil(r, epoch, stencil)
    with pytest.raises(SofteqError, match="nothing to draw"):
        plot_architectures(records, tmp_path / "figure.png")


def test_records_as_they_come_back_from_a_file(records, tmp_path):
    path = tmp_path / "cnn-vs-vit.jsonl"
    for r in records:
        record.append(path, r)
    assert finding(record.read(path)) == finding(records)
