"""connectivity: a hard path stays hard, paths begin and end at the same two networks, and what a run records."""

import pytest

from softeq.experiments.engine import record
from softeq.experiments.phenomena.connectivity import configure, run
from softeq.experiments.phenomena.connectivity_figure import PLACES


@pytest.fixture(scope="module")
def found():
    pytest.importorskip("sklearn")
    return {v: run(configure("smoke", v, 0), lambda done, total: None) for v in ("hard", "hard-by-none", "soft")}


def test_a_run_records_paths_and_what_they_measure(found):
    for metrics in found.values():
        assert record.decode(record.encode(metrics)) == metrics
        assert len(metrics["losses_curve@rotated"]) == len(metrics["defects_line@rotated"]) == PLACES
        assert 0 <= metrics["error_ends@rotated"] <= metrics["worst_error_curve@rotated"] <= 1
        assert 0 < metrics["simplex2_loss@rotated"] <= metrics["simplex2_worst_loss@rotated"]
        assert metrics["simplex1_log_volume@rotated"] >= 0  # two sides of a triangle are longer than the third


def test_hard_paths_and_simplexes_stay_hard_and_those_that_may_leave_do(found):
    assert found["hard"]["largest_defect_curve@rotated"] < 1e-5
    assert found["hard-by-none"]["largest_defect_curve@rotated"] > 1e-3
    assert found["hard-by-none"]["largest_defect_line@rotated"] < 1e-5
    for simplex in ("simplex1", "simplex2"):
        assert found["hard"][f"{simplex}_largest_defect@rotated"] < 1e-5
        assert found["hard-by-none"][f"{simplex}_defect@rotated"] > 1e-3


def test_both_join_the_same_two_networks(found):
    hard, free = (found[v]["losses_curve@rotated"] for v in ("hard", "hard-by-none"))
    assert hard[0] == pytest.approx(free[0], rel=1e-4)
    assert hard[-1] == pytest.approx(free[-1], rel=1e-4)
