"""The section on whole displacements."""

import copy

from softeq.experiments.audit.report.curves import curves
from softeq.experiments.audit.report.groups import group_records

from .test_write import _record


def network(name, *, classes):
    record = copy.deepcopy(_record(name, "translation_x"))
    own = {"change": 0.1, "change_interval": [0.05, 0.2], "kept": 15} if classes else {}
    rows = [{"step": step, "relative": 0.2 * step, "relative_interval": [0.1, 0.3], **own} for step in (0.1, 1.0, 8.0)]
    record["metrics"] |= {"curve": {"unit": "pixels", "images": 20, "rows": rows}, "relative_per_sample": [0.04, 0.04]}
    return record


def section(*records):
    (group,) = group_records(list(records))
    return curves(group.models)


def test_classes_get_probabilities_and_decisions():
    text = section(network("a", classes=True))
    assert text.count("<svg role") == 2
    assert "share of decisions that stand over" in text.lower()
    assert "a: 0.75 at 8" in text


def test_a_network_without_classes_is_compared_by_the_output():
    text = section(network("a", classes=True), network("b", classes=False))
    assert text.count("<svg role") == 3
    assert "relative change of the output" in text
    assert "b: 1.6 at 8" in text


def test_nothing_is_drawn_of_nothing():
    assert section(_record()) == ""
