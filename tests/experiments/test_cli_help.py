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


def test_python_m_softeq_passes_the_exit_code_on():
    done = subprocess.run([sys.executable, "-m", "softeq", "nonsense" + 5000 * "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert len(done.stderr) < 1500
