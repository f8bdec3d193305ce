import pytest

from softeq.errors import SofteqValueError
from softeq.experiments.audit.report.groups import EXPERIMENT
from softeq.experiments.audit.table import audit_table
from softeq.experiments.engine import registry
from softeq.experiments.engine.experiment import Experiment


def test_an_experiment_by_name(toys):
    assert registry.get("toy") is toys["toy"]
    assert list(registry.all()) == ["toy", "toy-fails", "toy-breaks", "toy-dies-once", "toy-dies"]


def test_an_unknown_name_lists_the_known_ones_and_the_closest(toys):
    with pytest.raises(SofteqValueError, match=r"'toyy': expected one of toy, toy-fails, .*did you mean 'toy'\?"):
        registry.get("toyy")


def test_tables_of_records_that_are_no_experiments_are_found():
    assert set(registry.TABLES) == {EXPERIMENT}
    assert set(registry.TABLES).isdisjoint(registry.all())
    assert registry.table(EXPERIMENT) is audit_table


def test_no_hint_where_nothing_is_close():
    assert "did you mean" not in str(registry.unknown("format", "xlsx", ["md", "csv"]))


def test_the_real_experiments_are_found_under_their_own_names():
    found = registry.all()
    assert {"inertia", "modified-inertia", "misspecified-inertia", "spring-pendulum", "windy-pendulum"} <= set(found)
    for name, experiment in found.items():
        assert isinstance(experiment, Experiment)
        assert experiment.name == name
        assert set(experiment.published) <= set(experiment.variants)
