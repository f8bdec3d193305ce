"""Calculators by name and structures by file; our own potentials and GFN2-xTB under rotations."""

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.audit.calculators import CalculatorSettings, audit_one, load_calculator, read_structures
from softeq.experiments.engine import record
from softeq.measure.calculators.evaluate import Evaluate
from softeq.measure.calculators.symmetry import deviations, rotations
from softeq.models.calculator import PotentialCalculator
from softeq.models.molecules import SoftPotential


def under_rotations(calculator):
    """The largest changes of the energy in eV and of the forces in eV/Angstrom."""
    atoms, evaluate = molecule("CH3CH2OH"), Evaluate(calculator)
    found = deviations(evaluate, evaluate(atoms), rotations(atoms, 1, np.random.default_rng(0)))
    return np.abs(found.energy).max(), np.linalg.norm(found.forces, axis=-1).max()


@pytest.mark.parametrize(("constraint", "zero"), [("hard", True), ("soft", False), ("none", False)])
def test_our_own_potentials(constraint, zero):
    torch.manual_seed(0)
    model = SoftPotential((1, 6, 8), channels=4, constraint=constraint, scale=0.2).double()
    energy, forces = under_rotations(PotentialCalculator(model))
    assert (energy < 1e-12) == (forces < 1e-11) == zero
    assert zero or energy > 1e-5


def test_the_reference_is_zero_within_its_tolerance():
    tblite = pytest.importorskip("tblite.ase")
    energy, forces = under_rotations(tblite.TBLite(method="GFN2-xTB", verbosity=0, accuracy=1e-4))
    assert energy < 1e-9
    assert forces < 1e-6


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "frames.xyz"
    frames = []
    for seed in range(7):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    write(path, frames)
    return path


def test_structures_are_taken_evenly(file):
    everything = read_structures(file, 100)
    assert len(everything) == 7
    for atoms, k in zip(read_structures(file, 3), (0, 3, 6), strict=True):
        np.testing.assert_allclose(atoms.positions, everything[k].positions)
    assert len(read_structures(file, 1)) == 1


def test_files_that_are_none(tmp_path):
    (tmp_path / "no.xyz").write_text("this is no structure\n")
    (tmp_path / "empty.xyz").write_text("")
    for name, message in (
        ("absent.xyz", "no such file"),
        ("no.xyz", "cannot read it"),
        ("empty.xyz", "no.xyz|structure|read"),
    ):
        with pytest.raises(SofteqError, match=message) as caught:
            read_structures(tmp_path / name, 3)
        assert "\n" not in str(caught.value)
    with pytest.raises(SofteqValueError, match="structures: expected at least 1"):
        read_structures(tmp_path / "no.xyz", 0)


def test_calculators_by_name():
    assert isinstance(load_calculator("ase.calculators.emt:EMT"), EMT)
    for name, message in (
        ("EMT", "expected module:factory"),
        ("ase.calculators.emt:XYZ", "has no 'XYZ'"),
        ("ase.build:molecule", "without arguments failed"),
        ("math:pi", "to be callable, got float"),
    ):
        with pytest.raises(SofteqError, match=f"^calculator: .*{message}"):
            load_calculator(name)


def test_a_record_holds_all_that_the_report_needs(file, tmp_path):
    settings = CalculatorSettings(
        "ase.calculators.emt:EMT", str(file), structures=2, degree=1, steps=20, force_error=30.0
    )
    line = audit_one(settings, tmp_path / "runs")
    (held,) = record.read(tmp_path / "runs" / "audit-calculator.jsonl")
    assert held == line
    assert held["config"]["class"] == "ase.calculators.emt.EMT"
    assert held["config"]["structures"] == held["metrics"]["structures"] == 2
    assert held["metrics"]["levels"]["forces"] == pytest.approx(0.03)
    assert held["metrics"]["structure"]["symbols"] == ["O", "H", "H"]
    assert held["provenance"]["dtype"] == "float64"
    assert held["metrics"]["causes"] == []
