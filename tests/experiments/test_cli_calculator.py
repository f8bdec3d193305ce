"""``softeq audit --calculator``: the verdict, the record, the page, and one line for every mistake."""

import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from typer.testing import CliRunner

from softeq.experiments import cli
from softeq.experiments.engine import record

USER = """
import numpy as np
from ase.calculators.emt import EMT

class Broken(EMT):
    def calculate(self, *arguments):
        super().calculate(*arguments)
        self.results["forces"] = self.results["forces"] * np.nan

class Raises(EMT):
    def calculate(self, *arguments):
        raise RuntimeError("no <b>weights</b>")

class Leaves(EMT):
    def calculate(self, *arguments):
        raise SystemExit(3)

class Leaning(EMT):
    def calculate(self, *arguments):
        super().calculate(*arguments)
        self.results["energy"] += 0.01 * self.atoms.positions[0, 0] - 0.01 * self.atoms.positions[1, 0]
        self.results["forces"][0, 0] -= 0.01
        self.results["forces"][1, 0] += 0.01
"""
QUICK = ("--steps", "0", "--structures", "1")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call ``softeq audit`` in a folder with a user's module and structures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (tmp_path / "own_calculators.py").write_text(USER)
    write("water.xyz", molecule("H2O"))

    def go(*arguments):
        return CliRunner().invoke(cli.build_app(), ["audit", *arguments], catch_exceptions=False)

    return go


def test_a_right_calculator(call, tmp_path):
    done = call("--calculator", "ase.calculators.emt:EMT", "--atoms", "water.xyz", *QUICK)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "H2O (3 atoms): it follows every symmetry that was measured, within rounding."
    assert lines[-1] == "1 record in runs/audit-calculator.jsonl; open runs/audit.html"
    page = (tmp_path / "runs" / "audit.html").read_text()
    assert "Interatomic potentials" in page
    assert lines[0] in page
    assert "There are no records" not in page


def test_a_broken_one_is_named_and_every_option_reaches_it(call, tmp_path):
    options = ("--energy-error", "2", "--force-error", "30", "--temperature", "500", "--seed", "3", "--out", "a")
    done = call("--calculator", "own_calculators:Leaning", "--atoms", "water.xyz", *QUICK, *options)
    assert done.exit_code == 0, done.stderr
    assert "Cause: field." in done.stdout
    assert "rotations about [1.000, 0.000, 0.000]" in done.stdout
    (line,) = record.read(tmp_path / "a" / "audit-calculator.jsonl")
    wanted = {"energy_error": 2.0, "force_error": 30.0, "temperature": 500.0, "seed": 3, "structures": 1, "steps": 0}
    assert {key: line["config"][key] for key in wanted} == wanted
    assert line["metrics"]["levels"]["energy"] == pytest.approx(0.006)


MISTAKES = {
    "no atoms": (("--calculator", "ase.calculators.emt:EMT"), "atoms: expected a file of structures"),
    "no calculator": (("--atoms", "water.xyz"), "calculator: expected module:factory"),
    "models too": (("resnet50", "--calculator", "a:b", "--atoms", "water.xyz"), "models: expected none"),
    "nothing": ((), "models: expected MODEL"),
    "no file": (("--calculator", "ase.calculators.emt:EMT", "--atoms", "gone.xyz"), "gone.xyz: no such file"),
    "nan forces": (
        ("--calculator", "own_calculators:Broken", "--atoms", "water.xyz"),
        "forces: expected finite numbers from the calculator, got nan at atom 0",
    ),
    "raises": (
        ("--calculator", "own_calculators:Raises", "--atoms", "water.xyz"),
        "the calculator raised RuntimeError: no <b>weights</b>",
    ),
    "leaves": (("--calculator", "own_calculators:Leaves", "--atoms", "water.xyz"), "raised SystemExit: 3"),
    "steps": (
        ("--calculator", "ase.calculators.emt:EMT", "--atoms", "water.xyz", "--steps", "3"),
        "steps: expected 20",
    ),
    "structures": (
        ("--calculator", "ase.calculators.emt:EMT", "--atoms", "water.xyz", "--structures", "0"),
        "structures: expected at least 1",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(call, tmp_path, arguments, message):
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "audit-calculator.jsonl").exists()


def test_a_failed_audit_loses_nothing_that_was_measured(call, tmp_path):
    assert call("--calculator", "ase.calculators.emt:EMT", "--atoms", "water.xyz", *QUICK).exit_code == 0
    before = (
        (tmp_path / "runs" / "audit-calculator.jsonl").read_bytes(),
        (tmp_path / "runs" / "audit.html").read_bytes(),
    )
    assert call("--calculator", "own_calculators:Raises", "--atoms", "water.xyz").exit_code == 2
    assert before[0] == (tmp_path / "runs" / "audit-calculator.jsonl").read_bytes()
    assert before[1] == (tmp_path / "runs" / "audit.html").read_bytes()


def test_one_atom_and_a_linear_molecule(call):
    write("one.xyz", Atoms("O"))
    write("line.xyz", molecule("CO"))
    for name in ("one.xyz", "line.xyz"):
        done = call("--calculator", "ase.calculators.emt:EMT", "--atoms", name, *QUICK)
        assert done.exit_code == 0, done.stderr
        assert "no two atoms are of the same element" in done.stdout
