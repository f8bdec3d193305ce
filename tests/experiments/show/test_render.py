import csv
import dataclasses
import io
import math

import pytest

from softeq.errors import SofteqValueError
from softeq.experiments.engine.experiment import Column, Experiment
from softeq.experiments.show import render, tables


@pytest.fixture
def records(make_record):
    values = {"hard": [1.0, 1.5, 1.1, math.nan], "soft": [0.25] * 4, "diverges": [math.inf] * 4}
    return [
        make_record(variant, seed, test_mse=x, parameters=12345, **({"weight_defect": {"a": x}} if x < 9 else {}))
        for variant, group in values.items()
        for seed, x in enumerate(group)
    ]


@pytest.mark.parametrize(
    ("values", "spec", "text"),
    [
        ([1.0, 1.5, 1.1], ".3g", "1.2 ± 0.265 (3)"),
        ([1.0, 1.5, 1.1, math.nan], ".3g", "1.2 ± 0.265 (3; 1 diverged)"),
        ([1.0, math.nan, None], ".3g", "1 (1; 1 diverged; 1 missing)"),
        ([0.123456], ".3g", "0.123 (1)"),
        ([12345, 12345], ",d", "12,345 (2)"),
        ([10, 12], ",d", "11 ± 1.4 (2)"),
        ([math.nan, math.inf], ".3g", "diverged (2)"),
        ([None, None], ".3g", "–"),
        ([1e-5, 3e-5], ".1e", "2.0e-05 ± 1.4e-05 (2)"),
    ],
)
def test_a_cell(values, spec, text):
    assert render.format_stat(tables.describe(values), spec) == text


def test_markdown(toy, records):
    text = render.render(tables.build(records, toy, source="runs"))
    lines = text.splitlines()
    assert lines[0] == "**toy; preset smoke; 4 seeds; records from runs; commit 1234567**"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["variant", "test MSE", "test MSE, median", "published", "weight defect", "parameters"]
    assert rows[2][:4] == ["hard", "1.2 ± 0.265 (3; 1 diverged)", "1.1", "1.06 (median)"]
    assert rows[2][4:] == ["1.20 ± 0.26 (3; 1 missing)", "12,345 (4)"]
    assert rows[3] == ["soft", "0.25 (4)", "0.25", "–", "0.25 (4)", "12,345 (4)"]
    assert rows[4] == ["diverges", "diverged (4)", "–", "not given", "–", "12,345 (4)"]
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert "Published: A Paper (2021), table 1" in text
    assert "Everything here is made up." in text
    assert text.endswith("\n")


def rows_of(experiment, records):
    text = render.render(tables.build(records, experiment, source="runs"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_markdown_with_many_metrics_has_a_line_for_each(toy, make_record):
    columns = tuple(Column(f"m{k}", f"metric {k}", ".1f") for k in range(render.WIDE))
    many = dataclasses.replace(toy, published={}, columns=columns)
    records = [
        make_record(v, 0, **{f"m{k}": k + x for k in range(render.WIDE)}) for v, x in (("hard", 0), ("soft", 0.5))
    ]
    assert rows_of(dataclasses.replace(many, columns=columns[:-1]), records)[0][0] == "variant"
    rows = rows_of(many, records)
    assert rows[0] == ["metric", "hard", "soft"]
    assert len(rows) == 2 + render.WIDE
    assert rows[2 + 5] == ["metric 5", "5.0 (1)", "5.5 (1)"]


def test_no_median_where_nothing_varies_and_no_published_where_there_is_none(toy, make_record):
    text = render.render(tables.build([make_record("soft", test_mse=1.0)], toy, source="runs"))
    assert "median" not in text
    assert "published" not in text
    assert "Published" not in text


def test_csv_in_full_precision(toy, records):
    rows = list(csv.DictReader(io.StringIO(render.render(tables.build(records, toy, source="runs"), "csv"))))
    assert [row["variant"] for row in rows] == ["hard", "soft", "diverges"]
    assert float(rows[0]["test_mse_mean"]) == tables.describe([1.0, 1.5, 1.1]).mean
    assert float(rows[0]["test_mse_std"]) == tables.describe([1.0, 1.5, 1.1]).std
    assert (rows[0]["test_mse_n"], rows[0]["test_mse_diverged"], rows[0]["runs"]) == ("3", "1", "4")
    assert rows[2]["test_mse_mean"] == ""
    assert rows[0]["published"] == "1.06 (median)"
    assert (rows[0]["source"], rows[0]["commits"], rows[0]["preset"]) == ("runs", "1234567", "smoke")


def test_latex_escapes_and_typesets(make_record):
    experiment = Experiment(
        name="a_b",
        summary="",
        variants=("soft@1e-2",),
        presets={"smoke": 1},
        configure=lambda *_: {},
        run=lambda *_: {},
        columns=(Column("x", "x_y & z, 100%", ".1e"),),
        published={"soft@1e-2": "2.2e-3 (median)"},
    )
    records = [make_record("soft@1e-2", s, experiment="a_b", x=2e-5 + 2e-5 * s) for s in range(2)]
    text = render.render(tables.build(records, experiment, source="runs"), "latex")
    row = (
        r"    soft@1e-2 & $3.0 \times 10^{-5}$ $\pm$ $1.4 \times 10^{-5}$ (2) & $3.0 \times 10^{-5}$"
        r" & $2.2 \times 10^{-3}$ (median) \\"
    )
    assert row in text.splitlines()
    assert r"variant & x\_y \& z, 100\% & x\_y \& z, 100\%, median & published \\" in text
    assert r"\caption{a\_b; preset smoke; 2 seeds" in text
    assert text.count("{") == text.count("}")


def test_markdown_keeps_a_bar_inside_its_cell(toy, make_record):
    text = render.render(tables.build([make_record("a|b", test_mse=1.0)], toy, source="runs"))
    assert r"| a\|b " in text


def test_an_unknown_format_is_refused(toy, records):
    table = tables.build(records, toy, source="runs")
    with pytest.raises(SofteqValueError, match=r"unknown format 'latexx': expected one of md, csv, latex; did you"):
        render.render(table, "latexx")
