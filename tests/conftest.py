"""Shared by all tests: exact arithmetic settings, the marks' skips, and a cache folder of the tests' own."""

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
