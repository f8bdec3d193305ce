"""kernel: the soft kernel's ends are hard's and none's, and what a run records."""

import pytest

from softeq.experiments.data.quarters import HALF, load_quarters
from softeq.experiments.engine import record
from softeq.experiments.phenomena.kernel import configure, regression, run


def test_regression_with_the_soft_kernel_ends_at_hard_and_at_none():
    pytest.importorskip("sklearn")
    data = load_quarters("digits", (60, 30, 100), HALF, 0)

    def accuracies(variant, ratio):
        config = configure("smoke", variant, 0) | {"ratios": [ratio]}
        found = regression(config, data)
        return found["kernel_accuracy"], found["kernel_accuracy_evidence"], round(found["evidence"], 2)

    assert accuracies("soft", 1e-9) == accuracies("hard", 1.0)
    assert accuracies("soft", 1e9) == accuracies("none", 1.0)
    assert accuracies("hard", 1.0) != accuracies("none", 1.0)


@pytest.mark.parametrize("variant", ["hard", "soft", "none"])
def test_a_run_records_regression_and_training(variant):
    pytest.importorskip("sklearn")
    found = run(configure("smoke", variant, 0), lambda done, total: None)
    assert record.decode(record.encode(found)) == found
    assert ("ratio@rotated" in found) == (variant == "soft")
    assert 0 < found["kernel_kept@rotated"] <= 1
    shares = {"hard": None, "none": 1.0}
    if variant in shares:
        assert found.get("residual_share_after@rotated") == shares[variant]
