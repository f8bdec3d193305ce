import os
import shutil
import subprocess

import pytest
import torch

from softeq.experiments.engine import provenance, record


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A fresh folder in the place of the checkout, and a function that runs git in it."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(provenance, "_ROOT", tmp_path.resolve())
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]

    def git(*arguments):
        provenance.code_version.cache_clear()
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    provenance.code_version.cache_clear()
    yield git
    provenance.code_version.cache_clear()


def test_no_commit_outside_a_git_checkout(checkout):
    assert provenance.code_version() == (None, None)


def test_no_commit_of_a_checkout_that_merely_contains_the_installation(checkout, tmp_path, monkeypatch):
    checkout("init", "-q")
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path / "site-packages")
    assert provenance.code_version() == (None, None)


def test_the_commit_and_whether_the_code_differs_from_it(checkout, tmp_path):
    (tmp_path / "softeq").mkdir()
    (tmp_path / "softeq" / "a.py").write_text("a = 1\n")
    checkout("init", "-q")
    checkout("add", ".")
    checkout("commit", "-q", "-m", "first")
    head = checkout("rev-parse", "HEAD")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "toy.jsonl").write_text("{}\n")
    assert provenance.code_version() == (head, False)
    (tmp_path / "softeq" / "b.py").write_text("b = 1\n")
    assert provenance.code_version() == (head, False), "read once per process"
    provenance.code_version.cache_clear()
    assert provenance.code_version() == (head, True)


def test_provenance_says_where_the_numbers_come_from():
    origin = provenance.of_run({"dtype": "float64"}, 1.23456)
    assert origin["seconds"] == 1.235
    assert origin["dtype"] == "float64"
    assert origin["device"] == "cpu"
    assert origin["torch"] == torch.__version__
    assert origin["threads"] == torch.get_num_threads()
    assert set(origin) >= {"commit", "dirty", "softeq", "numpy", "python", "utc"}
    assert origin["utc"].endswith("+00:00")
    assert record.encode(origin) == origin
    assert provenance.of_run({}, 0.0)["dtype"] == "float32"
    assert origin["precision"] == torch.get_float32_matmul_precision()
    assert origin["processor"] == provenance.processor()


def test_the_processor_is_named_as_the_system_does(tmp_path, monkeypatch):
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: Abacus 9\nprocessor\t: 1\nmodel name\t: Abacus 9\n")
    monkeypatch.setattr(provenance, "_CPU_INFO", listing)
    provenance.processor.cache_clear()
    assert provenance.processor().startswith("Abacus 9 (")
    monkeypatch.setattr(provenance, "_CPU_INFO", tmp_path / "absent")
    provenance.processor.cache_clear()
    assert f"{os.cpu_count()} cores" in provenance.processor()
    provenance.processor.cache_clear()
