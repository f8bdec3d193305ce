"""A toy experiment in the registry's place, in this process and in others."""

import functools
from pathlib import Path

import pytest

from softeq.experiments.engine import record, registry

HERE = Path(__file__).parent
# SIGINT may come ignored from the shell that started the tests; a user's shell does not do that.
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from softeq.experiments import cli
from softeq.experiments.engine import registry
registry.SOURCES = ("toy_experiment",)
sys.exit(cli.main())
"""


@pytest.fixture
def toys(monkeypatch):
    """The toy experiments by name, and nothing else in the registry."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(registry, "SOURCES", ("toy_experiment",))
    return registry.all()


@pytest.fixture
def toy(toys):
    return toys["toy"]


@pytest.fixture
def softeq(start):
    """Start the command line, with the toy experiments, as a process."""
    return functools.partial(start, DRIVER, paths=[HERE])


@pytest.fixture
def make_record():
    """A record with what the tests do not care about filled in."""

    def make(variant="hard", seed=0, *, experiment="toy", preset="smoke", config=None, commit="1234567890", **metrics):
        return record.make(
            experiment,
            preset,
            variant,
            seed,
            config=config or {},
            metrics=metrics,
            provenance={"commit": commit, "dirty": False},
        )

    return make
