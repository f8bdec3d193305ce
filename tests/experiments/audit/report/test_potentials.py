"""The report's chapter on potentials: all numbers there, texts escaped, records by hand told and left out."""

import copy
import json

import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from softeq.errors import SofteqWarning
from softeq.experiments.audit.report.page import html_text
from softeq.experiments.audit.report.potentials import potentials
from softeq.measure.calculators.audit import audit_calculator


@pytest.fixture(scope="module")
def line():
    atoms = molecule("H2O")
    found = json.loads(json.dumps(audit_calculator(EMT(), atoms, degree=1, steps=20).as_dict()))
    structure = {"symbols": atoms.get_chemical_symbols(), "positions": atoms.positions.tolist()}
    config = {"class": "a.<b>", "atoms": "w.xyz", "atoms_hash": "01", "structures": 1}
    return {"variant": "m:<i>f</i>/w.xyz", "config": config, "metrics": {**found, "structure": structure}}


def test_the_numbers_and_the_picture(line):
    page = potentials([line])
    for text in ("What each symmetry changes", "By the angle of the rotation", "by element", "by atom", "rotations"):
        assert text in page
    assert page.count("<circle") == 3
    assert "&lt;i&gt;f&lt;/i&gt;" in page
    assert "<i>" not in page
    assert "<b>" not in page


def test_the_last_record_of_each_counts_and_the_page_has_it(line):
    assert potentials([line, line]).count("<section>") == 1
    other = {**line, "variant": "other"}
    assert potentials([line, other]).count("<section>") == 2
    assert "Interatomic potentials" in html_text([], calculators=[line])
    assert potentials([]) == ""
    assert "There are no records" in html_text([])


def test_records_by_hand_are_told_and_left_out(line):
    for part, key, value in (("metrics", "checks", 3), ("metrics", "levels", None), ("config", "class", None)):
        broken = copy.deepcopy(line)
        broken[part][key] = value
        if key == "class":
            del broken[part][key]
        with pytest.warns(SofteqWarning, match="its record cannot be shown"):
            assert potentials([broken]) == ""
