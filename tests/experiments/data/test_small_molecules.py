"""The QM9-like set, and the published QM9's files as they are written."""

import numpy as np
import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.data import small_molecules
from softeq.experiments.data.small_molecules import load, nci_smiles, qm9, qm9_like, read_qm9_xyz
from softeq.experiments.data.xtb import HARTREE, Engine

PROPERTIES = (
    "799.58812 437.90386 282.94545 1.8511 6.31 -0.2928 0.0687 0.3615 19.0002 0.021375"
    " -76.404702 -76.401867 -76.400922 -76.422349 6.002"
)
WATER = "\n".join(
    [
        "3",
        "\t".join(["gdb 3", *PROPERTIES.split(), ""]),
        "O\t-0.0343604951\t 0.9775395708\t 0.0076015923\t-0.589706",
        "H\t 0.0647664923\t 2.0560*^-2\t 0.0015346341\t 0.294853",
        "H\t 0.8717903737\t 1.3007924048\t 0.0006931336\t 0.294853",
        "1671.4222\t3803.6305\t3907.698\t",
        "O\tO\t",
        "InChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n",
    ]
)


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


def test_a_published_file(tmp_path):
    path = tmp_path / "dsgdb9nsd_000003.xyz"
    path.write_text(WATER)
    numbers, positions, energy, smiles = read_qm9_xyz(path)
    assert numbers.tolist() == [8, 1, 1]
    assert positions[1].tolist() == [0.0647664923, 0.02056, 0.0015346341]
    assert energy == pytest.approx(-76.404702 * HARTREE)
    assert smiles == "O"


DAMAGES = {
    "cut": lambda text: text[:150],
    "no tag": lambda text: text.replace("gdb", "abc"),
    "an element too many": lambda text: text.replace("O\t-", "X\t-"),
    "empty": lambda text: "",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files(tmp_path, damage):
    path = tmp_path / "a.xyz"
    path.write_text(damage(WATER))
    with pytest.raises(SofteqError, match=r"a\.xyz"):
        read_qm9_xyz(path)


def test_the_published_set(monkeypatch, tmp_path):
    monkeypatch.delenv("SOFTEQ_QM9", raising=False)
    with pytest.raises(SofteqError, match=r"10\.1038"):
        qm9()
    monkeypatch.setenv("SOFTEQ_QM9", str(tmp_path))
    with pytest.raises(SofteqError, match="no dsgdb9nsd"):
        qm9()
    for number in (1, 2):
        (tmp_path / f"dsgdb9nsd_{number:06d}.xyz").write_text(WATER)
    assert len(qm9()) == 2
    assert qm9().dipoles is None
    assert len(qm9(limit=1)) == 1


def test_bad_sets(few, tmp_path):
    _, folder, _ = few
    with pytest.raises(SofteqValueError, match="expected"):
        small_molecules.Molecules("x", [], [], np.zeros(0), None, [])
    path = next(folder.glob("*.npz"))
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SofteqError, match="corrupt"):
        load(tmp_path / "cut.npz")
