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
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
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


def test_under_inference_mode_the_numbers_are_the_same():
    atoms, again = ethanol(), ethanol()
    atoms.calc, again.calc = PotentialCalculator(build()), PotentialCalculator(build())
    with torch.inference_mode():
        forces, energies = atoms.get_forces(), atoms.get_potential_energies()
    np.testing.assert_array_equal(forces, again.get_forces())
    np.testing.assert_array_equal(energies, again.get_potential_energies())


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


CELL = np.array([[3.1, 0.0, 0.0], [0.9, 3.3, 0.0], [-0.4, 0.5, 3.6]])


def crystal():
    """Water in a skewed cell that is smaller than the cutoff."""
    atoms = molecule("H2O", cell=CELL, pbc=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_energies_of_the_atoms_and_the_free_energy():
    for atoms in (ethanol(), crystal()):
        atoms.calc = PotentialCalculator(build())
        energy = atoms.get_potential_energy()
        assert atoms.get_potential_energies().sum() == pytest.approx(energy, rel=1e-12)
        assert atoms.get_potential_energies().shape == (len(atoms),)
        assert atoms.get_potential_energy(force_consistent=True) == energy


def test_a_repeated_cell_has_as_many_times_the_energy_and_the_same_forces():
    atoms, large = crystal(), crystal() * (2, 1, 3)
    atoms.calc = large.calc = calc = PotentialCalculator(build())
    once = calc.get_potential_energy(atoms), calc.get_forces(atoms), calc.get_stress(atoms)
    assert calc.get_potential_energy(large) == pytest.approx(6 * once[0], rel=1e-12)
    np.testing.assert_allclose(calc.get_forces(large), np.tile(once[1], (6, 1)), atol=1e-12)
    np.testing.assert_allclose(calc.get_stress(large), once[2], atol=1e-13)
    alone = molecule("H2O")
    assert abs(calc.get_potential_energy(alone) - once[0]) > 1e-3
    wide = molecule("H2O", cell=60 * np.eye(3), pbc=True)
    assert calc.get_potential_energy(wide) == pytest.approx(calc.get_potential_energy(alone), rel=1e-12)


@pytest.mark.parametrize("constraint", ["soft", "hard"])
def test_forces_and_stress_are_slopes_of_the_energy(constraint):
    atoms = crystal()
    atoms.calc = PotentialCalculator(build(constraint))
    np.testing.assert_allclose(calculate_numerical_forces(atoms, eps=1e-5), atoms.get_forces(), atol=1e-7)
    stress = atoms.get_stress()
    np.testing.assert_allclose(calculate_numerical_stress(atoms, eps=1e-5), stress, atol=1e-8)
    assert np.abs(stress).min() > 1e-4


def test_atoms_outside_of_the_cell_count_as_those_inside():
    atoms, moved = crystal(), crystal()
    moved.positions[1] += 3 * CELL[0] - 2 * CELL[2]
    atoms.calc = moved.calc = PotentialCalculator(build())
    inside = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    outside = moved.get_potential_energy(), moved.get_forces(), moved.get_stress()
    for a, b in zip(inside, outside, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_slabs_have_neighbours_along_two_vectors_alone():
    atoms = crystal()
    atoms.pbc = (True, True, False)
    atoms.calc = PotentialCalculator(build())
    slab = atoms.get_potential_energy(), atoms.get_stress()
    atoms.cell[2] = (0, 0, 9.0)
    assert atoms.get_potential_energy() == pytest.approx(slab[0], rel=1e-12)
    assert not np.allclose(atoms.get_stress(), slab[1])  # per volume


def test_stress_needs_a_cell():
    for atoms in (ethanol(), molecule("H2O", cell=CELL)):
        atoms.calc = PotentialCalculator(build())
        with pytest.raises(SofteqValueError, match=r"stress: expected a periodic cell with three vectors"):
            atoms.get_stress()
        assert np.isfinite(atoms.get_potential_energy())


def test_a_changed_field_changes_the_answer():
    atoms, fresh = ethanol(), ethanol()
    atoms.calc = PotentialCalculator(build(field=True), field=(0, 0, 0))
    fresh.calc = PotentialCalculator(build(field=True), field=FIELD)
    before = atoms.get_potential_energy()
    atoms.calc.uniform_field = FIELD
    assert atoms.calc.get_potential_energy() == fresh.get_potential_energy() != before
    atoms.calc.set(field=(0, 0, 0))
    assert atoms.get_potential_energy() == before
    own = np.array([0.0, 0.2, 0.5])
    atoms.calc.uniform_field = own
    own[:] = 0  # the caller's array is not the calculator's
    assert atoms.get_potential_energy() == fresh.get_potential_energy()
    for wrong in ((0, 1), (0, 0, float("nan")), None):
        with pytest.raises(SofteqValueError, match="field: expected"):
            atoms.calc.uniform_field = wrong
    with pytest.raises(SofteqValueError, match="charge: the potential has no such parameter"):
        atoms.calc.set(charge=1)


def test_a_retrained_or_replaced_model_changes_the_answer():
    atoms, model = ethanol(), build()
    atoms.calc = calc = PotentialCalculator(model)
    seen = [calc.get_potential_energy(atoms)]
    for change in (
        lambda: model.last.pathways["residual"].weight.data.mul_(1.5),  # behind autograd's back
        lambda: model.load_state_dict({k: 0.9 * v for k, v in model.state_dict().items()}),
        lambda: setattr(calc, "model", build("hard")),
        lambda: setattr(model, "cutoff", 2.0) or setattr(calc, "model", model),
    ):
        change()
        assert calc.calculation_required(atoms, ["energy"])
        seen.append(calc.get_potential_energy(atoms))
        assert seen[-1] == calc.get_potential_energy()
    assert len(set(seen)) == len(seen)


def test_what_has_not_changed_is_not_computed_again(monkeypatch):
    atoms = ethanol()
    atoms.calc = PotentialCalculator(build())
    first = atoms.get_potential_energy()
    monkeypatch.setattr(SoftPotential, "forward", None)
    assert atoms.get_potential_energy() == first
    assert atoms.get_forces().shape == (9, 3)


def test_compiled_averaged_and_nested_models():
    model = build()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for wrapped in (torch.compile(model, backend="eager"), averaged, torch.compile(averaged, backend="eager")):
        for atoms in (ethanol(), crystal()):
            atoms.calc = PotentialCalculator(wrapped)
            got = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_potential_energies()
            atoms.calc = PotentialCalculator(model)
            want = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_potential_energies()
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    atoms = ethanol()
    atoms.calc = PotentialCalculator(averaged)
    before = atoms.get_potential_energy()
    with torch.no_grad():
        model.scale.mul_(2)
    averaged.update_parameters(model)
    assert atoms.get_potential_energy() != before


def test_one_atom_has_the_energy_of_its_shift():
    for atoms in (Atoms("O"), Atoms("O", cell=20 * np.eye(3), pbc=True)):
        model = build(shift=(0.5, 1.5, 2.5))
        atoms.calc = PotentialCalculator(model)
        assert atoms.get_potential_energy() == pytest.approx(2.5)
        assert np.abs(atoms.get_forces()).max() == 0


def test_positions_cells_and_energies_that_are_not_finite_are_refused():
    for atoms in (ethanol(), crystal()):
        atoms.positions[1, 2] = np.nan
        atoms.calc = PotentialCalculator(build())
        with pytest.raises(SofteqValueError, match="positions: expected finite numbers"):
            atoms.get_potential_energy()
    atoms, model = ethanol(), build()
    with torch.no_grad():
        model.scale.fill_(float("nan"))
    atoms.calc = PotentialCalculator(model)
    with pytest.raises(SofteqValueError, match="model: expected finite energy"):
        atoms.get_potential_energy()
    flat = Atoms("O", cell=np.zeros((3, 3)), pbc=True)
    flat.calc = PotentialCalculator(build())
    with pytest.raises(SofteqValueError, match="cell: expected independent vectors"):
        flat.get_potential_energy()
    with pytest.raises(SofteqValueError, match="n at least 1"):
        PotentialCalculator(build()).get_potential_energy(Atoms())


def test_unknown_species_and_atoms_on_top_of_each_other():
    for atoms, message in (
        (Atoms("ON", [[0, 0, 0], [0, 0, 1]]), r"got \[7\]"),
        (Atoms("OH", [[0, 0, 0]] * 2), "apart"),
    ):
        atoms.calc = PotentialCalculator(build())
        with pytest.raises(SofteqValueError, match=message):
            atoms.get_forces()


def test_arguments():
    with pytest.raises(SofteqValueError, match="atoms: expected those to compute, got none"):
        PotentialCalculator(build()).get_potential_energy()
    for wrong in ((1, 1.5), ("H", "O")):
        with pytest.raises(SofteqTypeError, match="species: expected atomic numbers as whole numbers"):
            SoftPotential(wrong)
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
