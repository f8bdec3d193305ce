import dataclasses
import math
import statistics

import pytest

from softeq.errors import SofteqError, SofteqWarning
from softeq.experiments.show import tables


def test_describe_leaves_diverged_runs_out_and_counts_them():
    stat = tables.describe([1.0, 2.0, 6.0, math.nan, math.inf, None])
    assert (stat.n, stat.diverged, stat.missing) == (3, 2, 1)
    assert stat.mean == 3.0
    assert stat.std == pytest.approx(math.sqrt(7))  # n - 1 in the denominator
    assert stat.median == 2.0
    assert stat.varies


def test_describe_of_one_number_has_no_deviation_and_of_none_has_nothing():
    one, none = tables.describe([2.0]), tables.describe([math.nan])
    assert (one.n, one.mean, one.varies) == (1, 2.0, False)
    assert math.isnan(one.std)
    assert (none.n, none.diverged) == (0, 1)
    assert math.isnan(none.mean)
    assert math.isnan(none.median)


def test_select_takes_one_experiment_and_preset(make_record):
    records = [make_record(), make_record(experiment="other"), make_record(preset="paper")]
    assert tables.select(records, "toy") == [records[0], records[2]]
    assert tables.select(records, "toy", "paper") == [records[2]]


def test_of_two_records_of_one_pair_the_later_counts_and_is_warned_of(make_record):
    records = [make_record(test_mse=1.0), make_record(test_mse=2.0)]
    with pytest.warns(SofteqWarning, match="two records of preset smoke, variant hard, seed 0"):
        assert tables.select(records, "toy") == [records[1]]


def test_the_largest_preset_is_chosen(make_record):
    records = [make_record(preset=name) for name in ("smoke", "default", "own")]
    assert tables.choose_preset(records) == "default"
    assert tables.choose_preset(records, "own") == "own"
    assert tables.choose_preset([*records, make_record(preset="paper")]) == "paper"
    with pytest.raises(SofteqError, match=r"no records of preset 'paper'; there are records of default, own, smoke"):
        tables.choose_preset(records, "paper")
    with pytest.raises(SofteqError, match="no records: make some"):
        tables.choose_preset([])


def test_a_preset_under_the_protocol_is_chosen_before_a_larger_pilot(make_record):
    held = [make_record(preset="paper"), make_record(preset="smoke", config={"protocol": 0})]
    assert tables.choose_preset(held) == "paper"
    held += [make_record(preset=name, config={"protocol": 1}) for name in ("own", "default")]
    assert tables.choose_preset(held) == "default"
    assert tables.choose_preset(held, "paper") == "paper"
    assert tables.largest({"own", "default", "paper"}) == "paper"


def test_the_table_holds_what_the_records_hold(toy, make_record):
    hard = [1.0, 1.5, 1.1]
    records = [make_record("hard", s, test_mse=x, parameters=7, curve={"x": 1}) for s, x in enumerate(hard)]
    records += [make_record("diverges", s, test_mse=math.nan, parameters=7) for s in range(2)]
    records += [make_record("retired", 0, test_mse=3.0)]
    records += [make_record("hard", 9, preset="default", test_mse=99.0)]
    table = tables.build(records, toy, "smoke", source="runs", remark="so it is")
    assert [row.variant for row in table.rows] == ["hard", "diverges", "retired"]
    assert [row.runs for row in table.rows] == [3, 2, 1]
    assert [column.key for column in table.columns] == ["test_mse", "parameters"]
    first = table.rows[0].stats[0]
    assert (first.n, first.diverged) == (3, 0)
    assert first.mean == pytest.approx(statistics.fmean(hard))
    assert first.std == pytest.approx(statistics.stdev(hard))
    assert table.rows[1].stats[0].diverged == 2
    assert [row.published for row in table.rows] == ["1.06 (median)", "not given", ""]
    assert table.caption == "toy; preset smoke; 1 to 3 seeds; records from runs; commit 1234567; so it is"
    assert table.footnotes[1:] == ("Published: A Paper (2021), table 1", "Everything here is made up.")
    assert "Diverged" in table.footnotes[0]


def test_the_caption_names_every_commit(toy, make_record):
    records = [make_record(seed=0, test_mse=1.0), make_record(seed=1, commit=None, test_mse=1.0)]
    records[0]["provenance"]["dirty"] = True
    caption = tables.build(records, toy, source="results").caption
    assert caption == "toy; preset smoke; 2 seeds; records from results; commits 1234567 (dirty), none"


def test_a_table_says_which_runs_had_compiled_steps(toy, make_record):
    def made(how):
        return [make_record(seed=s, config={"compiled": how}, test_mse=1.0) for s in range(2)]

    runs = {how: made(how) for how in (True, False)}
    runs[False][1]["config"] = {"compiled": True}
    assert not any("compiled" in note for note in tables.build(runs[True], toy, source="x").notes)
    assert any("compiled" in note for note in tables.build(runs[False], toy, source="x").notes)


def test_a_table_says_which_trainings_did_not_end_on_their_plateau(toy, make_record):
    def note(*ends, schedule="plateau"):
        config = {"training": {"schedule": schedule}}
        runs = [make_record(seed=s, config=config, test_mse=1.0, **end) for s, end in enumerate(ends)]
        return [n for n in tables.build(runs, toy, source="x").notes if "plateau" in n]

    good, capped, broken = ({"stopped": end} for end in ("plateau", "steps", "diverged"))
    assert note(good, good) == ["Every training ended on its plateau."]
    (said,) = note(good, capped, broken)
    assert "at their cap of steps hard 1 of 3; diverged hard 1 of 3; every other on its plateau" in said
    (said,) = note(good, {"points": {"0": good, "1": capped}})
    assert "at their cap of steps hard 1 of 2;" in said
    assert note(capped, schedule="cosine") == []


def test_no_records_and_no_known_metric_are_errors(toy, make_record):
    with pytest.raises(SofteqError, match="no records"):
        tables.build([make_record(experiment="other")], toy, source="runs")
    with pytest.raises(SofteqError, match="has one of the metrics test_mse, weight_defect"):
        tables.build([make_record(other=1.0)], toy, source="runs")


def test_runs_of_before_the_protocol_are_said_to_be_pilots_and_are_not_averaged_with_others(toy, make_record):
    asked = dataclasses.replace(toy, protocol=1)
    old = [make_record(seed=s, config={"lr": 1}, test_mse=1.0) for s in range(2)]
    new = [make_record(seed=s, config={"lr": 1, "protocol": 1}, test_mse=3.0) for s in range(2, 4)]
    assert tables.PILOT in tables.build(old, asked, source="x").notes
    assert tables.PILOT not in tables.build(old, toy, source="x").notes
    both = tables.build([*old, *new], asked, source="x")
    assert tables.PILOT not in both.notes
    assert (both.rows[0].runs, both.rows[0].stats[0].mean) == (2, 3.0)


def test_runs_outside_the_protocol_are_said_to_be_and_not_to_be_older_than_it(toy, make_record):
    asked = dataclasses.replace(toy, protocol=1)
    outside = [make_record(seed=s, config={"protocol": 0}, test_mse=1.0) for s in range(2)]
    notes = tables.build(outside, asked, source="x").notes
    assert tables.OUTSIDE in notes
    assert tables.PILOT not in notes
    assert "before" not in tables.OUTSIDE
    assert tables.OUTSIDE not in tables.build(outside, toy, source="x").notes


def test_rows_that_are_not_under_the_protocol_of_the_others_are_named(toy, make_record):
    asked = dataclasses.replace(toy, protocol=1)
    inside = [make_record("hard", s, config={"protocol": 1}, test_mse=1.0) for s in range(3)]
    beside = [make_record("soft", s, config={"protocol": 0}, test_mse=1.0) for s in range(2)]
    table = tables.build([*inside, *beside], asked, source="x")
    assert [row.variant for row in table.rows] == ["hard", "soft"]
    assert table.notes[-1] == "Not under the protocol, as their settings were not tuned: soft."
    assert tables.OUTSIDE not in table.notes
    assert tables.build(inside, asked, source="x").notes == asked.notes


def test_the_line_under_a_table_holds_the_reference_against_every_other_arm(toy, make_record):
    records = [
        make_record(variant=variant, seed=s, config={"protocol": 1}, test_mse=size * (1 + 0.1 * s))
        for variant, size in (("soft", 1.0), ("hard", 2.0), ("none", 4.0))
        for s in range(3)
    ]
    asked = dataclasses.replace(toy, protocol=1)
    (line,) = tables.build(records, asked, source="x").comparisons
    assert "soft over the other" in line
    assert "hard 0.5 [" in line
    (line,) = tables.build(records, dataclasses.replace(asked, reference="none"), source="x").comparisons
    assert "none over the other" in line
    assert "soft 4 [" in line
    assert "hard 2 [" in line
    assert tables.build(records, dataclasses.replace(asked, reference="frozen"), source="x").comparisons == ()


def test_the_line_under_a_table_counts_the_pairs_where_a_seed_has_none(toy, make_record):
    runs = {"soft": (1.0, 1.1, 1.2), "hard": (2.0, math.nan, 2.2), "none": (4.0, 4.1, 4.3)}
    records = [
        make_record(variant, s, config={"protocol": 1}, test_mse=x)
        for variant, values in runs.items()
        for s, x in enumerate(values)
    ]
    (line,) = tables.build(records, dataclasses.replace(toy, protocol=1), source="x").comparisons
    assert line.count("n = ") == 1
    hard, none = line.split("; ")[-2:]
    assert "hard 0.52" in hard
    assert hard.endswith(", n = 2")
    assert none.startswith("none ")
