from softeq.experiments.engine import registry
from softeq.experiments.training.tuning_source import EXPERIMENTS


def test_every_comparison_can_be_tuned_by_name():
    assert set(EXPERIMENTS) == {f"tuning-{name}" for name in registry.comparisons()}
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
