"""Tables and figures over the dial: means over seeds, the gap to the better baseline, and what cannot be drawn."""

import math

import pytest

from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.images.dial import EXPERIMENTS
from softeq.experiments.images.plots import dial_table, gap_table, gaps, main, plot_dial

ROTATION = EXPERIMENTS["rotation"]
POINTS = ("0", "180")


@pytest.fixture
def records(make_record):
    """At 0 none is better than hard by .1, at 180 worse by .1; soft is .02 above the better one."""
    found = []
    for seed in (0, 1):
        noise = 0.01 * seed
        for n in (200, 1000):
            for arm, (upright, turned) in {"hard": (0.6, 0.6), "soft": (0.72, 0.62), "none": (0.7, 0.5)}.items():
                values = {"accuracy@0": upright + noise, "accuracy@180": turned + noise}
                values |= {"moved_accuracy@0": 0.3, "defect@0": 0.2, "defect@180": 0.1, "points": {"0": {}, "180": {}}}
                config = {"points": [{"name": name, "data": "fashion-mnist"} for name in POINTS]}
                found.append(make_record(f"{arm}-{n}", seed, experiment="rotation", config=config, **values))
    return found


def test_rows_are_variants_and_columns_points(records):
    lines = dial_table(records, ROTATION, 200, "accuracy").splitlines()
    assert lines[0] == "| 200 images, test accuracy | 0° | ±180° |"
    assert lines[2] == "| hard | 0.605 ± 0.007 (2) | 0.605 ± 0.007 (2) |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| hard", "| soft", "| none"]
    assert "–" in dial_table(records, ROTATION, 200, "moved_accuracy")
    with pytest.raises(SofteqError, match="no records of rotation with 5000 training images"):
        dial_table(records, ROTATION, 5000, "accuracy")


def test_the_gap_is_to_the_better_of_hard_and_none_seed_by_seed(records):
    found = gaps(records, ROTATION)
    assert [(g["training_images"], g["point"], g["better"]) for g in found] == [
        (200, "0", "none"),
        (200, "180", "hard"),
        (1000, "0", "none"),
        (1000, "180", "hard"),
    ]
    assert all(g["gap"] == pytest.approx(0.02) and g["std"] == pytest.approx(0, abs=1e-12) for g in found)
    assert "+0.020 ± 0.000 (none; 2)" in gap_table(records, ROTATION)


def test_seeds_that_a_variant_lacks_or_lost_are_left_out_of_the_gap(records):
    records = [r for r in records if (r["variant"], r["seed"]) != ("soft-200", 1)]
    records[0]["metrics"]["accuracy@0"] = math.nan  # hard-200, seed 0: nothing is left to compare
    found = {(g["training_images"], g["point"]): g for g in gaps(records, ROTATION)}
    assert (200, "0") not in found
    assert found[200, "180"]["n"] == 1
    assert "| 200 images | – | +0.020 (hard; 1) |" in gap_table(records, ROTATION)


def test_a_figure_is_drawn_also_with_variants_and_values_missing(records, tmp_path):
    records[0]["metrics"]["accuracy@0"] = math.nan
    for records_, name in ((records, "all.png"), (records[:4], "few.svg")):
        ROTATION.plot(records_, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000


def test_nothing_to_draw(make_record, tmp_path):
    lost = make_record(
        "hard-200", experiment="rotation", config={"points": []}, points={"0": {}}, **{"accuracy@0": math.nan}
    )
    with pytest.raises(SofteqError, match="nothing to draw: no record of rotation has a finite test accuracy"):
        plot_dial([lost], ROTATION, tmp_path / "x.png")
    with pytest.raises(SofteqError, match="no records"):
        plot_dial([], ROTATION, tmp_path / "x.png")


def test_the_command_prints_every_table(records, tmp_path, capsys):
    for r in records:
        record.append(record.record_path(tmp_path, "rotation"), r)
    assert main([str(tmp_path), "rotation"]) == 0
    text = capsys.readouterr().out
    assert text.count("|---|") == 1 + 5 * 2
    assert main([str(tmp_path), "translation"]) == 2
    assert "no records" in capsys.readouterr().err
    assert main([str(tmp_path), "turning"]) == 2
    assert "usage" in capsys.readouterr().err
