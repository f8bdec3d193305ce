"""``softeq list``: what it prints is kept until the code changes."""

import subprocess
import sys

from softeq.experiments import cli_list
from softeq.experiments.engine import registry

CODE = """
import sys
from softeq.experiments import cli
cli.main(["list"])
print("torch" in sys.modules)
"""


def test_the_list_is_kept_until_the_code_changes(monkeypatch, tmp_path, toys):
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path))
    assert cli_list._kept() == []
    lines = cli_list._fresh()
    assert lines[0] in registry.all()
    assert cli_list._kept() == lines
    monkeypatch.setattr(registry, "SOURCES", ())
    assert cli_list._kept() == []
    for wrong in ("", "{}", "[1]", '{"code": 1, "lines": [1]}', 4000 * "["):
        (tmp_path / "experiments.json").write_text(wrong)
        assert cli_list._kept() == []


def test_a_list_that_is_kept_needs_no_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path))
    lines = cli_list._fresh()  # keeps it
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    *shown, last = done.stdout.splitlines()
    assert last == "False", done.stderr
    assert "modified-inertia" in lines
    assert shown[: len(lines)] == lines


def test_without_a_cache_it_is_made_anew(monkeypatch, toys):
    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    assert cli_list._kept() == []
    assert cli_list._fresh()
