"""In a checkout the short names of the folders and the installed names are the same modules and classes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("short_first", [True, False], ids=["short name first", "full name first"])
def test_short_and_full_names_are_the_same_objects(short_first):
    lines = ["import measure, models, experiments", "import softeq.measure, softeq.models, softeq.experiments"]
    program = "\n".join(
        [
            *(lines if short_first else lines[::-1]),
            "import measure.motion.flows as a",
            "import softeq.measure.motion.flows as b",
            "from measure.errors import NotMeasurable",
            "assert measure is softeq.measure and models is softeq.models and experiments is softeq.experiments",
            "assert a is b and a.__spec__.name == 'softeq.measure.motion.flows'",
            "assert NotMeasurable is softeq.measure.NotMeasurable",
            "print('same')",
        ]
    )
    assert run(program).stdout.strip() == "same"


def test_a_module_that_does_not_exist_is_not_found_under_its_short_name():
    result = run("import measure.nothing")
    assert result.returncode == 1
    assert "ModuleNotFoundError: No module named 'measure.nothing'" in result.stderr


def test_modules_run_under_either_name():
    for name in ("measure.errors",):  # under its full name any module runs
        result = subprocess.run(
            [sys.executable, "-m", name], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stderr
