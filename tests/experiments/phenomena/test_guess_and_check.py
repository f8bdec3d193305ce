"""guess-and-check: the two classes, and what a run records."""

import pytest
import torch

from softeq.experiments.engine import record
from softeq.experiments.phenomena.guess_and_check import configure, run, two_classes


def test_two_classes_are_balanced_and_broken_labels_depend_on_the_turn():
    pytest.importorskip("sklearn")
    config = configure("smoke", "hard", 0)
    x, signs = two_classes(config, 0.0)
    assert x.shape == (232, 64)
    assert signs.sum() == signs[:2].sum() == signs[:16].sum() == signs[:32].sum() == 0
    images = {bytes(v.numpy().tobytes()): float(s) for v, s in zip(x, signs, strict=True)}
    broken = {bytes(v.numpy().tobytes()): float(s) for v, s in zip(*two_classes(config, 1.0), strict=True)}
    changed = [images[k] != broken[k] for k in images.keys() & broken.keys()]
    assert 0.3 < sum(changed) / len(changed) < 0.7
    assert torch.equal(two_classes(config, 0.0)[0], x)


def test_a_run_records_rates_and_errors():
    pytest.importorskip("sklearn")
    config = configure("smoke", "soft", 0) | {"draws": 500}
    found = run(config, lambda done, total: None)
    assert record.decode(record.encode(found)) == found
    assert found["hits@rotated-2"] == 500 * found["hit_rate@rotated-2"]
    assert found["hit_rate@rotated-2"] < found["hit_rate_bound@rotated-2"] < 1
    assert 0 <= found["test_error_full@broken-8"] <= 1


def test_no_hit_is_recorded_as_none_of_the_draws_with_a_bound_and_no_error():
    pytest.importorskip("sklearn")
    config = configure("smoke", "hard", 0) | {"draws": 100, "samples": [32], "points": {"broken": 1.0}}
    found = run(config, lambda done, total: None)
    assert found["hits@broken-32"] == found["hit_rate@broken-32"] == 0
    assert found["hit_rate_bound@broken-32"] == pytest.approx(1 - 0.05 ** (1 / 100), rel=1e-4)
    assert "test_error@broken-32" not in found
