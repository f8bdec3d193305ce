import math
import sys
from pathlib import Path

import pytest

from benchmarks import strength, strength_table
from softeq.errors import SofteqError
from softeq.experiments.engine import record
from softeq.experiments.show import paired, quantities
from softeq.experiments.show.quantities import Quantities


@pytest.fixture
def asked(toys, make_record, tmp_path):
    """Four seeds of three arms; soft is a little below hard, none far above both."""
    for seed in range(4):
        for variant, value in (("soft", 1.0), ("hard", 1.2), ("none", 9.0)):
            line = make_record(variant=variant, seed=seed, preset="smoke", test_mse=value * (1 + 0.03 * seed**2))
            record.append(tmp_path / "toy.jsonl", line)
    line = make_record(variant="soft", seed=9, preset="smoke", test_mse=1.0)
    record.append(tmp_path / "toy.jsonl", line)
    quantities.read.cache_clear()
    yield Quantities(tmp_path)
    quantities.read.cache_clear()


def test_p_is_that_of_the_table(asked):
    records = asked._records("toy:smoke")
    table = paired.differences(records, "test_mse", "soft")
    assert asked.ratio("toy:smoke", "soft", "hard") == table["soft", "hard"]
    turned = asked.ratio("toy:smoke", "hard", "soft")
    assert (turned.p, turned.n) == (table["soft", "hard"].p, 4)
    assert turned.value == pytest.approx(1 / table["soft", "hard"].value)


def test_an_arm_that_is_not_the_reference_has_its_own_family(asked):
    records = asked._records("toy:smoke")
    family = paired.differences(records, "test_mse", "none")
    assert len(family) == 2
    assert asked.ratio("toy:smoke", "none", "hard") == family["none", "hard"]


def test_numbers_of_the_strength_benchmark_are_those_of_its_tables():
    table = strength_table.summary(strength.read(strength.RECORDS))
    found = Quantities(Path("."))
    mean, worst = (found.strength("inertia/n200", "variational", what) for what in ("mean", "worst"))
    assert f"| inertia/n200 | `variational` | 5, 5 | {mean:.2f} | {worst:.2f} | met |" in table
    assert found.strength("inertia/n200 z6/n100", "variational", "worst") >= worst
    least = found.strength("inertia/n200", "remul", "least", "variational")
    assert 0 < least <= found.strength_over("inertia/n200/e0", "remul", "variational").value
    assert found.strength_over("images/n1000/angle", "dual").kind == "difference"


def test_the_strength_benchmark_asks_for_a_checkout(monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    quantities._strength.cache_clear()
    with pytest.raises(SofteqError, match="expected a checkout"):
        Quantities(Path(".")).strength("z6/n100", "mackay", "mean")


def test_baselines_of_inertia():
    found = Quantities(Path("."))
    zero, mean = found.zero_error(2), found.mean_error(2)
    assert zero > mean > 0
    assert math.isclose(zero, found.zero_error(2))
