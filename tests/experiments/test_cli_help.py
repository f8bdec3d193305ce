"""What the command says without torch."""

import subprocess
import sys

import pytest

CODE = """
import sys, time
begun = time.process_time()
from softeq.experiments import cli
code = cli.main(sys.argv[1:])
print(code, time.process_time() - begun, "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("audit", "--help"), ("run", "--help")], ids=" ".join
)
def test_help_does_not_wait_for_torch(arguments):
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=60)
    code, seconds, torch = done.stdout.splitlines()[-1].split()
    assert (code, torch) == ("0", "False"), done.stderr
    assert float(seconds) < 1.5  # a busy machine; alone it is .3


def test_the_list_is_kept_until_the_code_changes(monkeypatch, tmp_path, toys):
    from softeq.experiments import cli_list
    from softeq.experiments.engine import registry

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
    from softeq.experiments import cli_list

    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path))
    lines = cli_list._fresh()  # keeps it
    done = subprocess.run([sys.executable, "-c", CODE, "list"], capture_output=True, text=True)
    *shown, last = done.stdout.splitlines()
    assert last.split()[2] == "False", done.stderr
    assert "modified-inertia" in lines
    assert shown[: len(lines)] == lines


def test_without_a_cache_it_is_made_anew(monkeypatch, toys):
    from softeq.experiments import cli_list

    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    assert cli_list._kept() == []
    assert cli_list._fresh()


def test_python_m_softeq_passes_the_exit_code_on():
    done = subprocess.run([sys.executable, "-m", "softeq", "nonsense" + 5000 * "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert len(done.stderr) < 1500
