"""The sentences of an audit: what matters first, nothing claimed that was not measured."""

import numpy as np
import pytest
import toy_calculators as toys
from ase import Atoms

from softeq.measure.calculators.audit import audit_calculator
from softeq.measure.calculators.words import amount, is_broken, ratio_to_level, verdict


def said(calculator, atoms, **options):
    return verdict(audit_calculator(calculator, atoms, degree=1, **{"steps": 0} | options).as_dict())


def test_a_right_calculator():
    first, *rest = said(toys.Right(), toys.crystal(), steps=100)
    assert first == "C2O (3 atoms): it follows every symmetry that was measured, within rounding."
    assert rest[0].startswith(
        "Nothing changes under rotations, the inversion, translations, exchanging like atoms, moving"
    )
    assert any(text.startswith("Stress and the energy's slope") for text in rest)
    assert any("the total energy drifts by" in text and "no drift is seen" in text for text in rest)
    assert not any("Cause" in text or "Not measured" in text for text in rest)


def test_one_that_matters_and_one_that_hardly_does():
    first, cause, broken, *_, missing = said(toys.Field(), toys.cluster())
    assert first.startswith("C2H5O (8 atoms): rotations and the inversion change its answers by up to ")
    assert first.endswith("(kT at 300 K for energies and kT at 300 K per Å for forces): it matters.")
    assert cause.startswith("Cause: field. The energy depends on the direction")
    assert broken.startswith("Rotations: the energy changes by 1 eV at most and")
    assert "of their size, most on " in broken
    assert missing.startswith("Not measured: images (the atoms have no periodic images); stress (")
    lax = {"energy_error": 1000.0, "force_error": 1000.0}
    assert said(toys.Field(), toys.cluster(), **lax)[0].endswith("it hardly matters.")


def test_without_forces_and_with_nothing_to_measure():
    told = " ".join(said(toys.Handed(), toys.cluster()))
    assert "Cause: handedness" in told
    assert "eV/Å" not in told.replace("kT at 300 K per Å", "")
    found = audit_calculator(toys.Right(), Atoms("O"), degree=1, steps=0).as_dict()
    assert verdict(found | {"checks": {}})[0] == "O (1 atom): no symmetry could be measured."


def test_a_constant_answer_is_not_praised():
    assert said(toys.Constant(), toys.cluster())[0].endswith("its answers do not depend on the atoms.")


def test_the_ratio_is_of_the_worse_of_energy_and_forces():
    found = audit_calculator(
        toys.Field(), toys.cluster(), degree=1, steps=0, energy_error=1e3, force_error=0.1
    ).as_dict()
    worst = found["checks"]["rotation"]["force_max_ev_per_a"] / 0.1
    assert ratio_to_level(found, "rotation") == pytest.approx(worst)
    assert is_broken(found, "rotation")
    assert not is_broken(found, "translation")
    assert np.isfinite(worst)


def test_amounts_are_short():
    values = (1234.0, 120.4, 0.0456, 0.00101, 4.5e-9, 0.0, -3.2, 2e6)
    assert [amount(v) for v in values] == ["1200", "120", "0.046", "0.001", "4.5e-09", "0", "-3.2", "2e+06"]
