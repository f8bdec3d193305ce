"""Shared by all tests: exact arithmetic settings, the marks' skips, and a cache folder of the tests' own."""

import importlib.util
import os

import pytest
import torch

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
# Small matrices gain nothing from threads, and on a busy machine threads that wait for each other cost minutes.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests that are marked slow")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --run-slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


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


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
