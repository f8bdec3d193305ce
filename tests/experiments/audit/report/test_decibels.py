"""The table of EQ-T and EQ-R."""

from softeq.experiments.audit.report.decibels import decibels
from softeq.experiments.audit.report.groups import group_records

from .test_write import EVIL, _record

FRACTION = {"value": 31.25, "interval": [30.0, 32.5], "peak": 2.0, "error": 0.003}
EXACT = {"value": None, "interval": [None, None], "peak": 2.0, "error": 0.0}


def section(**networks):
    records = []
    for name, found in networks.items():
        records.append(_record(name, "translation_x"))
        records[-1]["metrics"]["decibels"] = found
    (group,) = group_records([*records, _record("older")])
    return decibels(group.models)


def test_a_row_a_network():
    text = section(
        a={"EQ-T": EXACT, "EQ-T_frac": FRACTION}, b={"EQ-T": {"not_measurable": EVIL}, "EQ-T_frac": FRACTION}
    )
    assert text.count("<tr>") == 3
    assert '<th scope="row">a</th><td>exact</td><td>31.2<br><span class="interval">[30, 32.5]</span></td>' in text
    assert '<th scope="row">b</th><td>–</td>' in text
    assert "No EQ-T of b: &lt;script&gt;" in text
    assert "older" not in text


def test_where_no_network_has_any_one_sentence_says_why():
    reason = {"not_measurable": "it is defined on maps"}
    text = section(a={"EQ-T": reason, "EQ-R": reason}, b={"EQ-T": reason})
    assert text == '<p class="quiet">No EQ-T, EQ-R: it is defined on maps.</p>'
    assert section(a=None) == ""
    assert section() == ""


def test_entries_of_other_types_are_left_out(recwarn):
    assert section(a={"EQ-T": {"value": "many"}}) == ""
    assert "left out: decibels" in str(recwarn[0].message)
