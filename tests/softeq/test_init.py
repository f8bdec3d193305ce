"""The package's own names: all there, where the table says, imported on first use and never hidden by a module."""

import subprocess
import sys
from pathlib import Path

import pytest

import softeq

ROOT = Path(softeq.__file__).parent


@pytest.mark.parametrize("name", softeq.__all__)
def test_every_public_name_is_there(name):
    assert getattr(softeq, name) is not None


def test_the_table_of_homes_holds_every_public_name_once():
    homes = [name for names in softeq._HOMES.values() for name in names]
    assert sorted(homes) == sorted(softeq.__all__)


def test_no_module_bears_a_public_name():
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not modules & set(softeq.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'SoftLinar'"):
        softeq.SoftLinar  # noqa: B018
    assert softeq.groups.SO(3).d == 3
    assert "SoftLinear" in dir(softeq)


def test_the_package_alone_needs_no_torch_and_the_core_nothing_of_models_measure_and_experiments():
    """import-linter holds the other directions; these folders are inside the core's own package."""
    core = [path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("__")]
    program = f"""
import importlib, sys, softeq
assert "torch" not in sys.modules
softeq.SoftLinear
assert "torch" in sys.modules
for name in {core}:
    importlib.import_module("softeq." + name)
print([m for m in sys.modules if m.startswith(("softeq.models", "softeq.measure", "softeq.experiments"))])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr
