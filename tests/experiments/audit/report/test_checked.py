import copy

import pytest

from softeq.errors import SofteqWarning
from softeq.experiments.audit.report.checked import checked
from softeq.experiments.audit.report.groups import csv_text, group_records
from softeq.experiments.audit.report.page import html_text

from .test_write import _record

ODD = (None, True, -1, 1e400, float("nan"), "text", [], [1, "a"], [["a"]], {}, {"a": 1}, {"shares": 3}, [[[]]], 10**400)


def test_a_right_record_is_left_as_it_is():
    record = _record()
    assert checked(record) == (record, [])


@pytest.mark.parametrize("part", ["config", "metrics"])
@pytest.mark.filterwarnings("ignore::softeq.errors.SofteqWarning")
def test_no_entry_of_a_wrong_type_breaks_the_report(part):
    for name in _record()[part]:
        for value in ODD:
            record = copy.deepcopy(_record())
            record[part][name] = value
            if name in ("model", "flow") and not isinstance(value, str):
                continue
            html_text(group_records([record]))
            csv_text([record])


def test_what_is_left_out_is_told():
    record = _record()
    record["metrics"]["lee_mean"] = "large"
    with pytest.warns(SofteqWarning, match="record of cnn/rotation has entries of another type.*lee_mean"):
        group_records([record])
