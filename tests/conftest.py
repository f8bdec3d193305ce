"""Shared by all tests: exact arithmetic settings, the marks' skips, and a cache folder of the tests' own."""

import gc
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from softeq.experiments.engine import processes

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
# Small matrices gain nothing from threads, and on a busy machine threads that wait for each other cost minutes.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests that are marked slow")


def pytest_configure():
    # What is imported stays: the collector would go through its millions of objects again and again.
    gc.disable()


def pytest_collection_finish():
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --run-slow"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


ROOT = Path(__file__).parents[1]
OPTIONAL = ("escnn", "laplace")  # not on every supported Python; all else the suite needs


def _lacking(error):
    """The optional package whose absence is at the bottom of an error; None where it is another error."""
    while error is not None:
        name = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and name in OPTIONAL and importlib.util.find_spec(name) is None:
            return name
        error = error.__cause__ or error.__context__
    return None


def _skip_where_lacking(outcome):
    lacking = _lacking(outcome.excinfo[1]) if outcome.excinfo else None
    if lacking:
        outcome.force_exception(pytest.skip.Exception(f"{lacking} is not installed"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    _skip_where_lacking((yield))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    _skip_where_lacking((yield))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Neither read nor write the user's cache of bases."""
    before = os.environ.get("SOFTEQ_CACHE")
    os.environ["SOFTEQ_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SOFTEQ_CACHE"]
    else:
        os.environ["SOFTEQ_CACHE"] = before


_FORKED = """
import os, sys
os.setsid()
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
os.environ.clear()
os.environ.update(environment)
os.chdir(cwd)
sys.path[:0] = paths
sys.argv = ["-c", *arguments]
sys.modules["torch"].set_num_threads(1)
exec(code, {"__name__": "__main__"})
"""


class Forked:
    """A process as `subprocess.Popen` has it, forked from the server of worker processes: torch is imported already."""

    def __init__(self, folder, **given):
        self._files = [folder / "out", folder / "err"]
        for path in self._files:
            path.touch()
        given |= {"out": str(self._files[0]), "err": str(self._files[1])}
        self._process = processes.context().Process(target=exec, args=(_FORKED, given))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, timeout):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return self.returncode

    def communicate(self, timeout=60):
        self.wait(timeout)
        return tuple(path.read_text() for path in self._files)


@pytest.fixture
def start(tmp_path_factory):
    """Start a Python process that runs some code, in a session of its own; those that are left are killed at the end.

    It is forked where that serves, and started ``anew`` where what a fresh process does is the point.
    """
    started = []

    def begin(code, *arguments, cwd, paths=(), anew=False, **environment):
        arguments, paths = [str(a) for a in arguments], [str(path) for path in (*paths, ROOT)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        if anew:
            environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", code, *arguments]
            process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **pipes)
        else:
            given = {"code": code, "arguments": arguments, "paths": paths, "environment": environment, "cwd": str(cwd)}
            process = Forked(tmp_path_factory.mktemp("process"), **given)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


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


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where a test that knows no difference computes: on the CPU, and on a GPU where there is one."""
    return request.param


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
