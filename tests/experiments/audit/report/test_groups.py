"""Which audit records may stand in one table, and their lines of CSV."""

import csv
import io
import json

import pytest

from softeq.errors import SofteqError
from softeq.experiments.audit.report.groups import csv_text, group_records


def _record(model="cnn", flow="rotation", *, metrics=None, experiment="audit", **config):
    own = {"model": model, "flow": flow, "weights": "random", "weights_hash": "ab"}
    shared = {"source_hash": "cd", "stencil": "bspline", "norm": "mean_square", "seed": 0}
    measured = {"lee_mean": 0.25, "lee_interval": [0.125, 0.5]}
    return {
        "experiment": experiment,
        "config": own | shared | config,
        "metrics": measured if metrics is None else metrics,
        "provenance": {"softeq": "0.1", "commit": "1234567890ab", "device": "cpu", "utc": "2026-01-01"},
    }


def test_what_differs_beside_the_model_parts_records():
    records = [_record(), _record(stencil="central"), _record(flow="scale"), _record(seed=1)]
    assert [(g.settings["stencil"], g.settings["seed"], list(g.models["cnn"])) for g in group_records(records)] == [
        ("bspline", 0, ["rotation", "scale"]),
        ("central", 0, ["rotation"]),
        ("bspline", 1, ["rotation"]),
    ]


def test_of_equal_configurations_the_later_counts_and_flows_have_one_order():
    later = _record()
    later["metrics"]["lee_mean"] = 7.0
    (group,) = group_records([_record(flow="scale"), _record(), _record(layerwise=4), later, _record(flow="mine")])
    assert list(group.models["cnn"]) == ["rotation", "scale", "mine"]
    assert group.models["cnn"]["rotation"]["metrics"]["lee_mean"] == 7.0


def test_two_versions_of_a_model_are_told_apart():
    (group,) = group_records([_record(), _record(weights="pretrained", weights_hash="ef"), _record("vit")])
    assert list(group.models) == [
        "cnn (weights random, weights hash ab)",
        "cnn (weights pretrained, weights hash ef)",
        "vit",
    ]


def test_csv_has_a_line_per_record_with_everything_it_depends_on():
    text = csv_text([_record(), _record("vit", metrics={"not_measurable": 'NaN, "really"'}), _record()])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["model"], row["flow"]) for row in rows] == [("cnn", "rotation"), ("vit", "rotation")]
    assert float(rows[0]["lee_mean"]) == 0.25
    assert json.loads(rows[0]["lee_interval"]) == [0.125, 0.5]
    assert (rows[0]["norm"], rows[0]["stencil"], rows[0]["source_hash"]) == ("mean_square", "bspline", "cd")
    assert rows[1]["lee_mean"] == ""
    assert rows[1]["not_measurable"] == 'NaN, "really"'


def test_other_experiments_are_left_out_and_a_record_without_a_flow_is_refused():
    assert group_records([_record(experiment="inertia")]) == []
    broken = _record()
    broken["config"].pop("flow")
    with pytest.raises(SofteqError, match="has no text as 'flow'"):
        group_records([broken])
