"""Few molecules and few frames, made by the engine once a session."""

import pytest

from softeq.experiments.data import trajectories
from softeq.experiments.data.small_molecules import qm9_like
from softeq.experiments.molecules import parts


@pytest.fixture(scope="session")
def thirty(tmp_path_factory):
    return qm9_like(limit=30, folder=tmp_path_factory.mktemp("sets"))


@pytest.fixture
def few(thirty, monkeypatch):
    """Thirty molecules in the place of every set."""
    monkeypatch.setattr(parts, "_molecules", lambda source, limit: thirty)
    return thirty


@pytest.fixture(scope="session")
def walked(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(walked, monkeypatch):
    """The folder of walks, which tests share."""
    monkeypatch.setattr(trajectories, "data_folder", lambda: walked)
    return walked
