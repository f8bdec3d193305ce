"""In a checkout the short names of the folders and the installed names are the same modules and classes."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_short_and_full_names_are_the_same_objects():
    program = """
        import measure, models, experiments
        import softeq.measure, softeq.models, softeq.experiments
        import measure.motion.flows as a
        import softeq.measure.motion.flows as b
        from measure.errors import NotMeasurable
        assert measure is softeq.measure and models is softeq.models and experiments is softeq.experiments
        assert a is b and a.__spec__.name == "softeq.measure.motion.flows"
        assert NotMeasurable is softeq.measure.NotMeasurable
        try:
            import measure.nothing
        except ModuleNotFoundError as error:
            print(error)
    """
    assert run(textwrap.dedent(program)).stdout.strip() == "No module named 'measure.nothing'"


def test_the_full_name_may_come_first():
    program = """
        import softeq.experiments.engine.provenance as a
        import experiments.engine.provenance as b
        assert a is b
        print("same")
    """
    assert run(textwrap.dedent(program)).stdout.strip() == "same"


def test_modules_run_under_their_short_names():
    command = [sys.executable, "-m", "experiments.cli", "--help"]  # it needs no torch
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
