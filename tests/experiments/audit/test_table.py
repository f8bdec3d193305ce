"""The audit's table for the README."""

import pytest

from softeq.errors import SofteqError
from softeq.experiments.audit.table import audit_table

CONFIG = {
    "model": "net",
    "norm": "relative",
    "output": "logits",
    "stencil": "bspline",
    "boundary": "mirror",
    "margin": 0,
    "images": "demo",
    "count": 5,
    "seed": 0,
}
METRICS = {
    "lee_mean": 0.25,
    "lee_interval": [0.125, 0.5],
    "ratio_to_control": 0.031,
    "accuracy": 0.8,
    "labelled": 4,
    "parameters": 12345,
}


def line(flow, model="net", metrics=METRICS, **config):
    return {"experiment": "audit", "config": {**CONFIG, **config, "model": model, "flow": flow}, "metrics": metrics}


def test_a_row_per_model_and_a_column_per_flow():
    text = audit_table([line("translation_x"), line("rotation"), line("translation_x", "other")], "results")
    assert "relative LEE of logits; stencil bspline" in text
    assert "n = 5 images" in text
    header, _, first, second = (row for row in text.splitlines() if row.startswith("|"))
    assert "translation_x | rotation" in header
    assert "| `net` | 0.80 (4) | 12,345 | 0.25 [0.125, 0.5] | 0.25 [0.125, 0.5] | 0.031 | 0.031 |" in first
    assert "not measurable" in second


def test_what_was_not_measurable_says_so():
    text = audit_table([line("rotation", metrics={"not_measurable": "constant"})], "results")
    assert "| `net` | – | – | not measurable | – |" in text


def test_configurations_stay_apart():
    text = audit_table([line("rotation"), line("rotation", stencil="central")], "results")
    assert text.count("**audit;") == 2


def test_no_records():
    with pytest.raises(SofteqError, match="no audit record"):
        audit_table([], "results")
