"""An experiment of one's own: the two files of docs/how-to/experiment.md, in a package that softeq knows nothing of."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from softeq.errors import SofteqError
from softeq.experiments.engine import record, registry, runner
from softeq.experiments.training.comparison import PROTOCOL

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "how-to" / "experiment.md"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``mine.quadrupole`` and ``mine.comparisons`` as the page has them."""
    data, declaration, *_ = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "quadrupole.py").write_text(data)
    (folder / "comparisons.py").write_text(declaration.replace("# from mine", "from mine"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(registry.VARIABLE, " mine.comparisons ,")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_it_runs_with_every_arm_beside_the_others(package, tmp_path):
    experiment = registry.get("quadrupole")
    assert "inertia" in registry.all()
    assert registry.comparison("quadrupole").name == "quadrupole"
    runner.run_experiment(experiment, "smoke", out=tmp_path / "runs")
    found = {r["variant"]: r["metrics"] for r in record.read(tmp_path / "runs" / "quadrupole.jsonl")}
    assert list(found) == ["hard", "soft", "soft-grid", "none", "none-augmented"]
    assert found["hard"]["equivariance_error"] < 1e-4 < found["none"]["equivariance_error"]


def test_its_arms_have_equal_compute_and_are_under_the_protocol_once_they_are_tuned(package):
    comparison = registry.comparison("quadrupole")
    size = comparison.sizes["default"]
    assert set(size.costs) == set(comparison.all_arms)
    for arm, cost in size.costs.items():
        config = comparison.configure("default", arm, 0, trials=({"lr": 1e-3, "prior": None},))
        assert config["protocol"] == PROTOCOL
        assert config["training"]["steps"] * cost == pytest.approx(size.training["steps"], rel=0.01)
        assert comparison.configure("default", arm, 0)["protocol"] == 0
    smoke = comparison.sizes["smoke"]
    assert (smoke.network, smoke.training["batch_size"]) == (size.network, size.training["batch_size"]), "costs' place"


@pytest.mark.slow
def test_the_command_line_knows_it(package, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "softeq", "run", "quadrupole", "--preset", "smoke", "--workers", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 runs recorded" in done.stdout


def test_a_module_that_is_not_there_or_has_none_is_told_of(monkeypatch):
    monkeypatch.setenv(registry.VARIABLE, "no.such.module")
    with pytest.raises(SofteqError, match=r"SOFTEQ_EXPERIMENTS: there is no module 'no.such.module'"):
        registry.all()
    monkeypatch.setenv(registry.VARIABLE, "json")
    with pytest.raises(SofteqError, match="json: expected a module with EXPERIMENTS"):
        registry.all()
