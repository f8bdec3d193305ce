"""The ase calculator: numbers and units, what it refuses, and molecular dynamics that conserves energy."""

import builtins
import importlib
import sys

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.md.verlet import VelocityVerlet

from softeq.errors import MissingExtraError, SofteqTypeError, SofteqValueError
from softeq.models.calculator import PotentialCalculator
from softeq.models.molecule_batches import molecule_batch
from softeq.models.molecules import SoftPotential

FIELD = (0.0, 0.2, 0.5)


def build(constraint="soft", **options):
    torch.manual_seed(0)
    return SoftPotential((1, 6, 8), channels=4, constraint=constraint, scale=0.2, **options).double()


def ethanol():
    return molecule("CH3CH2OH")


@pytest.mark.parametrize("field", [None, FIELD], ids=["vacuum", "field"])
def test_the_numbers_are_the_models(field):
    atoms, model = ethanol(), build(field=field is not None)
    atoms.calc = PotentialCalculator(model, field=field)
    batch = molecule_batch([atoms.numbers], [atoms.positions], cutoff=model.cutoff, field=field)
    energy, forces = model.energy_and_forces(batch)
    assert atoms.get_potential_energy() == pytest.approx(float(energy.detach()), rel=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), forces.detach().numpy(), rtol=1e-12, atol=1e-14)
    assert atoms.get_forces().dtype == np.float64
    before = atoms.get_potential_energy()
    atoms.positions[0] += 0.1
    assert atoms.get_potential_energy() != before


def test_a_float32_model():
    atoms = ethanol()
    atoms.calc = PotentialCalculator(build().float())
    single = atoms.get_forces()
    atoms.calc = PotentialCalculator(build())
    np.testing.assert_allclose(single, atoms.get_forces(), atol=1e-4)


class Leaning(PotentialCalculator):
    """The control: forces that are no gradient, turned by 1 degree about z."""

    def calculate(self, *arguments):
        super().calculate(*arguments)
        c, s = np.cos(np.pi / 180), np.sin(np.pi / 180)
        self.results["forces"] = self.results["forces"] @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def drift(calculator, steps=120):
    """The spread of the total energy over that of the kinetic one in steps of 0.25 fs, and the latter in eV."""
    atoms = ethanol()
    speeds = np.random.default_rng(0).normal(size=(9, 3)) * np.sqrt(300 * units.kB / atoms.get_masses())[:, None]
    atoms.set_velocities(speeds)
    atoms.calc = calculator
    kinetic, total = [], []
    run = VelocityVerlet(atoms, 0.25 * units.fs)
    for _ in range(steps // 5):
        run.run(5)
        kinetic.append(atoms.get_kinetic_energy())
        total.append(atoms.get_total_energy())
    return np.ptp(total) / np.ptp(kinetic), np.ptp(kinetic)


def test_molecular_dynamics_stays_on_the_energy_shell_and_leaning_forces_do_not():
    on_shell, moved = drift(PotentialCalculator(build()))
    assert moved > 0.02
    assert on_shell < 5e-4
    assert drift(Leaning(build()))[0] > 5e-3


def test_periodic_boundaries_are_refused():
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=[5, 5, 5], pbc=True)
    atoms.calc = PotentialCalculator(build())
    with pytest.raises(SofteqValueError, match="expected a molecule in vacuum"):
        atoms.get_potential_energy()


def test_unknown_species_and_atoms_on_top_of_each_other():
    for atoms, message in (
        (Atoms("ON", [[0, 0, 0], [0, 0, 1]]), r"got \[7\]"),
        (Atoms("OH", [[0, 0, 0]] * 2), "apart"),
    ):
        atoms.calc = PotentialCalculator(build())
        with pytest.raises(SofteqValueError, match=message):
            atoms.get_forces()


def test_arguments():
    with pytest.raises(SofteqTypeError, match="expected a SoftPotential, got Linear"):
        PotentialCalculator(torch.nn.Linear(2, 2))
    with pytest.raises(SofteqValueError, match="field: expected None"):
        PotentialCalculator(build(), field=FIELD)
    with pytest.raises(SofteqValueError, match=r"field: expected \(3,\) in V/Angstrom"):
        PotentialCalculator(build(field=True))
    assert issubclass(PotentialCalculator, Calculator)


def test_without_ase_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def missing(name, *rest, **options):
        if name.split(".")[0] == "ase":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "softeq.models.calculator")
    with pytest.raises(MissingExtraError, match=r"pip install 'softeq\[molecules\]'"):
        importlib.import_module("softeq.models.calculator")
