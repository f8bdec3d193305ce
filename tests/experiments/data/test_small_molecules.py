"""The QM9-like set."""

import numpy as np
import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.data import small_molecules
from softeq.experiments.data.small_molecules import load, nci_smiles, qm9_like
from softeq.experiments.data.xtb import Engine


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    counts = []
    return qm9_like(limit=5, folder=folder, done=lambda *n: counts.append(n)), folder, counts


def test_the_molecules_are_small_neutral_and_different():
    smiles = nci_smiles()
    assert len(smiles) == len(set(smiles)) > 300
    assert not any(c in text for text in smiles for c in ("+", ".", "Cl", "S"))


def test_the_generated_set(few):
    molecules, folder, counts = few
    assert len(molecules) == 5
    assert counts[-1] == (5, 5)
    assert molecules.about["method"] == "GFN2-xTB"
    found = Engine(molecules.numbers[2])(molecules.positions[2])
    assert found.energy == pytest.approx(molecules.energies[2], abs=1e-6)
    np.testing.assert_allclose(found.dipole, molecules.dipoles[2], atol=1e-5)
    again = qm9_like(limit=5, folder=folder, done=lambda *n: pytest.fail("it is computed again"))
    np.testing.assert_array_equal(again.energies, molecules.energies)
    assert list(again.labels) == list(molecules.labels)


def test_molecules_that_the_engine_refuses_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(small_molecules, "nci_smiles", lambda limit: ["C", "not one", "CC"])
    found = qm9_like(limit=3, folder=tmp_path)
    assert list(found.labels) == ["C", "CC"]
    assert found.about["left_out"][0][0] == "not one"


def test_bad_sets(few, tmp_path):
    _, folder, _ = few
    with pytest.raises(SofteqValueError, match="expected"):
        small_molecules.Molecules("x", [], [], np.zeros(0), None, [])
    path = next(folder.glob("*.npz"))
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SofteqError, match="corrupt"):
        load(tmp_path / "cut.npz")
