"""The published QM9: its xyz files and the package's tables as they are written, and the real set where it is."""

import importlib.util

import numpy as np
import pytest

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.experiments.data import qm9 as module
from softeq.experiments.data.qm9 import DEBYE, qm9, read_xyz
from softeq.experiments.data.xtb import HARTREE

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


HEAD = (
    "XYZ_file,Index,SMILES,InChi,N_atoms,Stoichiometry,Elements,XYZ_Ang,Mulliken_pop,Harmonic_Freq_cmi,RotA_GHz,"
    "RotB_GHz,RotC_GHz,Dipole_debye,Polarizability_bohr3,HOMO_au,LUMO_au,HOMO_LUMO_gap_au,R2_bohr2,ZPVE_au,"
    "InternalEnergy_0K_au,InternalEnergy_298K_au,Enthalphy_298K_au,GibbsFreeEnergy_298K_au,Heatcapacity_Cv_cal_mol_K"
)
LINE = (
    '"dsgdb9nsd_000003.xyz",3,"O","InChI=1S/H2O/h1H2",3,"[2,0,0,1,0]","[\'O\',\'H\',\'H\']",'
    '"[[-0.0343604951,0.9775395708,0.0076015923],[0.0647664923,0.02056,0.0015346341],'
    '[0.8717903737,1.3007924048,0.]]","[-0.589706,0.294853,0.294853]","[1671.4222,3803.6305,3907.698]",'
    + PROPERTIES.replace(" ", ",")
)


def published(folder):
    (folder / "dsgdb9nsd_000003.xyz").write_text(WATER)
    return folder


def packaged(folder, *lines):
    (folder / "qm9_part1.csv").write_text("\n".join([HEAD, *(lines or [LINE])]) + "\n")
    return folder


@pytest.mark.parametrize("write", [published, packaged])
def test_one_molecule_as_it_is_published_and_as_it_is_packaged(tmp_path, write):
    found = qm9(folder=write(tmp_path))
    assert found.numbers[0].tolist() == [8, 1, 1]
    assert found.positions[0][1].tolist() == [0.0647664923, 0.02056, 0.0015346341]
    assert found.energies == pytest.approx(-76.404702 * HARTREE)
    assert found.dipole_sizes == pytest.approx(1.8511 * DEBYE)
    assert found.dipoles is None
    assert list(found.labels) == ["O"]
    assert found.about["energy"] == "U0"


TARGETS = {"U0": -76.404702, "U": -76.401867, "H": -76.400922, "G": -76.422349, "ZPVE": 0.021375}
TARGETS |= {"HOMO": -0.2928, "LUMO": 0.0687, "gap": 0.3615}


@pytest.mark.parametrize("write", [published, packaged])
def test_every_energy_by_name(tmp_path, write):
    assert set(TARGETS) == set(module.TARGETS)
    for target, hartree in TARGETS.items():
        assert qm9(folder=write(tmp_path), target=target).energies == pytest.approx(hartree * HARTREE)


def test_the_polarisability_is_refused_with_the_reason(tmp_path):
    for target in ("A_xx", "polarizability"):
        with pytest.raises(SofteqValueError, match="own axes, not in those of the published geometries"):
            qm9(folder=packaged(tmp_path), target=target)
    with pytest.raises(SofteqValueError, match="target: expected one of U0, U, H"):
        qm9(folder=packaged(tmp_path), target="u0")


def test_a_part_goes_evenly_over_the_set(tmp_path):
    lines = [LINE.replace('"O",', f'"{k}",', 1) for k in range(7)]
    assert list(qm9(3, folder=packaged(tmp_path, *lines)).labels) == ["0", "3", "6"]
    assert len(qm9(100, folder=tmp_path)) == len(qm9(folder=tmp_path)) == 7
    with pytest.raises(SofteqValueError, match="limit: expected at least 1"):
        qm9(0, folder=tmp_path)


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
        read_xyz(path)


TABLE_DAMAGES = {
    "cut": LINE[:150],
    "element": LINE.replace("'O'", "'X'"),
    "atoms": LINE.replace("0.9775395708,", ""),
    "a word": LINE.replace("-76.404702", "none"),
    "nan": LINE.replace("-76.404702", "nan"),
}


@pytest.mark.parametrize("line", TABLE_DAMAGES.values(), ids=TABLE_DAMAGES)
def test_damaged_tables(tmp_path, line):
    with pytest.raises(SofteqError, match="qm9"):
        qm9(folder=packaged(tmp_path, line))


def test_tables_that_are_none(tmp_path):
    (tmp_path / "qm9_part1.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SofteqError, match="cannot read it"):
        qm9(folder=tmp_path)
    for text in ("", HEAD):
        (tmp_path / "qm9_part1.csv").write_text(text)
        with pytest.raises(SofteqError, match=r"cannot read it|no molecule"):
            qm9(folder=tmp_path)


def test_where_it_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("SOFTEQ_QM9", raising=False)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"softeq\[qm9\].*10\.1038.*SOFTEQ_QM9"):
        qm9()
    monkeypatch.setenv("SOFTEQ_QM9", str(tmp_path))
    with pytest.raises(SofteqError, match="neither qm9_part"):
        qm9()
    published(tmp_path)
    assert len(qm9()) == 1


@pytest.fixture(scope="module")
def real():
    if importlib.util.find_spec("qm9pack") is None:  # its import reads with pandas and setuptools, which none need
        pytest.skip("qm9pack is not installed")
    return qm9(300)


def test_the_real_set(real):
    assert len(real) == 300
    assert {int(kind) for numbers in real.numbers for kind in numbers} == {1, 6, 7, 8, 9}
    assert real.labels[0] == "C"  # methane, -40.47893 Hartree
    assert real.energies[0] == pytest.approx(-40.47893 * HARTREE)
    nearest = [np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(len(x), 1)].min() for x in real.positions]
    assert 0.9 < min(nearest) < max(nearest) < 1.2
    assert 0.4 < np.median(real.dipole_sizes) < 0.6
    counts = np.array([[(n == kind).sum() for kind in (1, 6, 7, 8, 9)] for n in real.numbers], dtype=float)
    elements = np.linalg.lstsq(counts, real.energies, rcond=None)[0]
    assert np.abs(real.energies - counts @ elements).mean() < 1.0  # eV, of energies of some ten thousand
    assert elements[1] == pytest.approx(-38.0 * HARTREE, rel=0.01)


def test_the_tensors_of_the_real_set_are_not_in_the_axes_of_its_geometries(real):
    """Water: along H-H, which is its own axis by symmetry, the tensor must map onto itself, and does not."""
    lines = (module._package() / "qm9_polarizability.csv").read_text().splitlines()
    xx, xy, yy, xz, yz, zz = (float(cell) for cell in lines[3].split(",")[1:])
    water = module._table_row(*water_line(), "U0")
    along = water.positions[2] - water.positions[1]
    along /= np.linalg.norm(along)
    mapped = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ along
    assert np.linalg.norm(mapped - (mapped @ along) * along) > 1.0


def water_line():
    path = module._package() / "qm9_part1.csv"
    with path.open() as file:
        head, *lines = (next(file) for _ in range(4))
    return path, head.strip().split(","), lines[2]
