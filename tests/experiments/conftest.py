"""A toy experiment in the registry's place, in this process and in others."""

import os
import signal
import subprocess
import sys
import time
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


def _environment(extra):
    paths = [str(HERE), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | extra


@pytest.fixture
def start():
    """Start a Python process; every one that is left is killed at the end."""
    processes = []

    def begin(code, *arguments, cwd, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=cwd,
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def softeq(start):
    """Start the command line, with the toy experiments, as a process."""
    return lambda *arguments, cwd, **environment: start(DRIVER, *arguments, cwd=cwd, **environment)


@pytest.fixture
def wait_for():
    """Wait until something holds, for at most a minute."""

    def wait(condition):
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end:
                pytest.fail("waited for a minute in vain")
            time.sleep(0.02)

    return wait


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
