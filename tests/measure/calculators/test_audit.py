"""The whole audit: right calculators have no cause, and each broken one is named by its own."""

import json
import re

import numpy as np
import pytest
import toy_calculators as toys
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.calculators.audit import audit_calculator
from softeq.measure.errors import NotMeasurable

QUICK = {"degree": 1, "steps": 0}


def names(result):
    return [cause.name for cause in result.causes]


@pytest.mark.parametrize("atoms", [toys.cluster, toys.crystal])
def test_a_right_calculator_has_no_cause_and_zeros(atoms):
    found = audit_calculator(toys.Right(), atoms(), degree=2, steps=20)
    assert names(found) == []
    assert found.precision == "float64"
    for name, check in found.checks.items():
        for key, value in check.items():
            if name != "constant energy" and key.endswith(("_ev", "_per_a", "_per_a3", "_per_rad", "_relative")):
                assert np.abs(list(value.values()) if isinstance(value, dict) else value).max() < 1e-7, (name, key)
    json.dumps(found.as_dict(), allow_nan=False)


BROKEN = {
    "Ordered": (toys.cluster, "neighbour cap", "first 5 neighbours"),
    "Nearest": (toys.cluster, "neighbour cap", "keeps the 5 nearest"),
    "Sharp": (toys.cluster, "cutoff", r"4\.0000 Å"),
    "Frozen": (toys.crystal, "cell not rotated", "15% larger"),
    "Straight": (toys.crystal, "cell not rotated", "same lengths and angles"),
    "Field": (toys.cluster, "field", r"\[0\.000, 0\.600, 0\.800\]"),
    "Grid": (toys.cluster, "direction", "on no axis alone"),
    "Place": (toys.cluster, "absolute positions", "shifting all atoms"),
    "Handed": (toys.cluster, "handedness", "mirror images differ"),
    "Direct": (toys.cluster, "direct forces", "minus the energy's slope"),
    "Kilocalories": (toys.cluster, "unit of the forces", r"23\.06 times"),
    "Pressure": (toys.crystal, "unit of the stress", "-1 times"),
    "Unwrapped": (toys.crystal, "periodic images", "outside of the cell"),
    "Random": (toys.cluster, "not repeatable", "chance"),
    "Constant": (toys.crystal, "constant", "exactly as it was"),
    "Single": (toys.cluster, "float32", "compute in float64"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_calculator_is_named_and_nothing_else(name):
    atoms, cause, evidence = BROKEN[name]
    found = audit_calculator(getattr(toys, name)(), atoms(), **QUICK)
    assert names(found) == [cause]
    assert re.search(evidence, found.causes[0].evidence)


def test_a_directional_network_in_a_cell_is_not_taken_for_the_cell():
    class Leaning(toys.Right):
        def answer(self, found, atoms):
            return found | {"energy": found["energy"] + 1e-2 * np.ptp(atoms.positions[:, 2])}

    assert "direction" in names(audit_calculator(Leaning(), toys.crystal(), **QUICK))


def test_a_calculator_that_knows_no_vacuum_still_gets_its_cause():
    class Periodic(toys.Straight):
        def answer(self, found, atoms):
            if not atoms.pbc.all():
                raise ValueError("crystals alone")
            return found

    assert names(audit_calculator(Periodic(), toys.crystal(), **QUICK))[0] == "direction"


def test_classical_potentials_of_ase():
    argon = bulk("Ar", "fcc", 5.2, cubic=True)
    argon.rattle(0.1, seed=1)
    well = {"sigma": 3.4, "epsilon": 0.0104}
    smooth = LennardJones(**well, rc=8.0, ro=6.0, smooth=True)
    found = audit_calculator(smooth, argon, **QUICK)
    assert names(found) == []
    assert found.checks["rotation"]["energy_max_ev"] < 1e-14
    found = audit_calculator(LennardJones(**well, rc=8.0), argon, **QUICK)
    assert names(found) == ["cutoff"]  # ase's is cut without a smooth end unless told otherwise
    assert "8.0000" in found.causes[0].evidence


def test_toy_metal():
    found = audit_calculator(EMT(), molecule("CH3CH2OH"), **QUICK)
    assert names(found) == []
    assert found.checks["slopes"]["force_max_ev_per_a"] < 1e-8


def test_sizes_are_those_of_the_breaking():
    """A dipole in a field: the energy over all directions is uniform in the cosine."""
    found = audit_calculator(toys.Field(), toys.cluster(), degree=3, steps=0, temperature=500.0)
    atoms = toys.cluster()
    charges = (atoms.numbers - atoms.numbers.mean()) * 0.05
    dipole = np.linalg.norm(charges @ atoms.positions)
    check = found.checks["rotation"]
    assert check["energy_about_mean_ev"] == pytest.approx(dipole / np.sqrt(3), rel=1e-9)
    field = np.outer(charges, toys.Field.field)
    own = np.sqrt(2 * (field**2).sum(1))  # of a vector and one of uniform direction
    np.testing.assert_allclose(check["force_by_atom_ev_per_a"], own, rtol=1e-9)
    assert set(check["force_by_element_ev_per_a"]) == {"H", "C", "O"}
    assert [row["from_degrees"] for row in check["by_angle"]][-1] == 120.0
    torque = np.linalg.norm(np.cross(charges @ atoms.positions, toys.Field.field))
    assert found.checks["net force"]["torque_ev_per_rad"] == pytest.approx(torque)
    assert found.levels.energy == pytest.approx(500 * 8.617333262e-5)


def test_several_structures_and_the_models_own_error():
    frames = [toys.cluster(0), toys.water()]
    found = audit_calculator(toys.Field(), frames, energy_error=0.002, force_error=0.03, **QUICK)
    alone = [audit_calculator(toys.Field(), frame, **QUICK).checks["rotation"]["energy_max_ev"] for frame in frames]
    assert found.structures == 2
    assert found.checks["rotation"]["energy_max_ev"] == pytest.approx(max(alone), rel=0.5)
    assert (found.levels.energy, found.levels.forces) == (pytest.approx(0.016), 0.03)
    assert "own test error" in found.levels.about


def test_structures_that_allow_different_symmetries():
    frames = [toys.water()[[0]], toys.cluster(0)]  # an atom alone has no like ones
    found = audit_calculator(toys.Field(), frames, **QUICK)
    alone = audit_calculator(toys.Field(), frames[1], **QUICK)
    assert set(found.checks["permutation"]["force_by_element_ev_per_a"]) == set(frames[1].symbols)
    assert "force_by_atom_ev_per_a" not in found.checks["permutation"]
    assert found.not_measurable["permutation"].endswith("; 1 of 2 structures")
    assert "permutation" not in alone.not_measurable


def test_the_same_seed_gives_the_same_numbers():
    first, second, other = (audit_calculator(toys.Field(), toys.water(), seed=s, **QUICK).checks for s in (0, 0, 1))
    assert first == second != other


def test_one_atom_and_a_linear_molecule():
    found = audit_calculator(toys.Right(), Atoms("O"), degree=1, steps=20)
    assert names(found) == []
    assert "no two atoms" in found.not_measurable["permutation"]
    found = audit_calculator(toys.Field(), molecule("CO2"), **QUICK)
    assert names(found) == ["field"] or found.checks["rotation"]["energy_max_ev"] < 1e-9
    found = audit_calculator(toys.Field(), molecule("HCN"), **QUICK)
    assert found.checks["rotation"]["energy_max_ev"] > 1e-3


def test_atoms_outside_of_the_cell_change_nothing():
    inside, outside = toys.crystal(), toys.crystal()
    outside.positions[1] += 3 * outside.cell[0] - outside.cell[2]
    first, second = (audit_calculator(toys.Right(), atoms, **QUICK) for atoms in (inside, outside))
    assert first.scales["energy_ev"] == pytest.approx(second.scales["energy_ev"], abs=1e-12)
    assert names(second) == []


class FailsAt(toys.Right):
    """Has no answer for more atoms than it knows."""

    def answer(self, found, atoms):
        if len(atoms) > 8:
            raise RuntimeError("9 atoms are too many")
        return found


def test_a_check_that_fails_does_not_stop_the_others():
    found = audit_calculator(FailsAt(), toys.cluster(), degree=1, steps=20)
    assert "RuntimeError: 9 atoms are too many" in found.not_measurable["jumps"]
    assert {"rotation", "slopes", "constant energy"} <= set(found.checks)
    assert names(found) == []


class Nothing(toys.Right):
    def answer(self, found, atoms):
        return found | {"forces": found["forces"] * np.nan}


def test_bad_input():
    with pytest.raises(NotMeasurable, match="forces: expected finite numbers from the calculator, got nan at atom 0"):
        audit_calculator(Nothing(), toys.cluster())
    with pytest.raises(SofteqTypeError, match="calculator: expected an ase Calculator, got int"):
        audit_calculator(3, toys.cluster())
    for atoms, message in (
        ([], "at least one structure"),
        (Atoms(), "structure 0: expected at least one atom"),
        (Atoms("O", [[np.nan, 0, 0]]), "finite positions"),
        (Atoms("O2"), "atoms 0 and 1 are 0 Å apart"),
        (Atoms("O", pbc=True), "lacks the cell's vectors"),
    ):
        with pytest.raises(SofteqValueError, match=message):
            audit_calculator(toys.Right(), atoms)
    with pytest.raises(SofteqTypeError, match="structure 0: expected an ase Atoms, got int"):
        audit_calculator(toys.Right(), [3])
    for option, value in (
        ("seed", -1),
        ("degree", 0),
        ("degree", 99),
        ("steps", 5),
        ("temperature", 0),
        ("force_error", np.nan),
    ):
        with pytest.raises(SofteqValueError, match=f"{option}: expected"):
            audit_calculator(toys.Right(), toys.cluster(), **{option: value})
