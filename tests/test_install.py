"""Installed beside a project that has its own ``models``, ``measure`` and ``experiments``, neither hides the other."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "measure", "experiments")

PROGRAM = """
import models, measure, experiments
assert [m.MINE for m in (models, measure, experiments)] == ["models", "measure", "experiments"]
import softeq
import softeq.models, softeq.measure, softeq.experiments
from softeq.models.mlp import MLP
for name in ("models", "measure", "experiments"):
    ours, theirs = getattr(softeq, name), globals()[name]
    assert ours is not theirs and not hasattr(ours, "MINE"), name
    assert "site-packages" in ours.__file__, ours.__file__
from softeq.measure.motion.flows import FLOWS
from models.own import VALUE
assert VALUE == 7
layer = softeq.SoftLinear(softeq.Vector(softeq.groups.SO(3)), softeq.Vector(softeq.groups.SO(3)))
assert layer.weight.shape == (3, 3)
print("both", softeq.__version__)
"""


def uv() -> str:
    found = shutil.which("uv") or shutil.which("uv", path=ROOT / ".uv-bootstrap" / "bin")
    if found is None:
        pytest.skip("uv is not installed; the Makefile brings a copy of its own")
    return found


def run(*command: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["SOFTEQ_CACHE"] = str(cwd / "cache")
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(uv(), "build", "--out-dir", str(out), str(ROOT), cwd=out)  # the wheel is built from the sdist
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture
def project(tmp_path) -> Path:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f'MINE = "{name}"\n')
    (tmp_path / "models" / "own.py").write_text("VALUE = 7\n")
    return tmp_path


@pytest.mark.parametrize("extras", ["", "[experiments]"], ids=["the core alone", "with the command"])
def test_beside_a_project_with_folders_of_the_same_names(wheel, project, extras):
    run(uv(), "venv", "--quiet", str(project / "env"), cwd=project)
    python = project / "env" / "bin" / "python"
    run(uv(), "pip", "install", "--quiet", "--python", str(python), f"{wheel}{extras}", cwd=project)
    assert run(str(python), "-c", PROGRAM, cwd=project).startswith("both ")
    if extras:
        assert "modified-inertia" in run(str(project / "env" / "bin" / "softeq"), "list", cwd=project)
        assert "modified-inertia" in run(str(python), "-m", "softeq", "list", cwd=project)
    else:
        result = subprocess.run(
            [str(project / "env" / "bin" / "softeq"), "list"], cwd=project, capture_output=True, text=True, check=False
        )
        assert result.returncode != 0
        assert "softeq[experiments]" in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
