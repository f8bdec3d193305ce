"""``softeq data``: what an experiment would generate is generated, told and kept; what cannot be is refused."""

from dataclasses import asdict

import pytest
import typer
from typer.testing import CliRunner

from softeq.errors import SofteqValueError
from softeq.experiments import cli_data
from softeq.experiments.data import small_molecules, trajectories
from softeq.experiments.data.walks import Sampling
from softeq.experiments.engine import registry
from softeq.experiments.molecules import field as molecules
from softeq.experiments.molecules.frames import frames_of


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Call the command with sets kept in an empty folder."""
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path))
    few = asdict(Sampling(walks=3, frames=2, burn=2, thin=1))
    for name, value in few.items():
        monkeypatch.setitem(molecules.SIZES["smoke"].data["sampling"], name, value)
    monkeypatch.setattr(
        registry, "SOURCES", ("softeq.experiments.molecules.field", "softeq.experiments.molecules.sets")
    )
    app = typer.Typer()
    app.command()(cli_data.data)

    def go(*arguments):
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    return go


def test_the_frames_of_an_experiment_are_kept_for_it(call, tmp_path, monkeypatch):
    done = call("md-field", "--preset", "smoke", "--jobs", "1")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        path, _, told = line.partition(": ")
        assert len(trajectories.load(path)) == 6
        assert told.endswith("(500 K asked for)")
    monkeypatch.setattr(trajectories, "_walk_to_file", lambda *task: pytest.fail("walked again"))
    assert call("md-field", "--preset", "smoke").stdout == done.stdout
    for point in molecules.COMPARISONS["md-field"].configure("smoke", "hard-50", 0)["points"]:
        assert len(frames_of(point)[0]) == 6  # the run finds them too


def test_one_molecule_with_and_without_a_field(call):
    free, pulled = (
        trajectories.load(call("malonaldehyde", "--preset", "smoke", *options).stdout.partition(": ")[0])
        for options in ((), ("--field", "0.02"))
    )
    assert sorted(free.numbers.tolist()) == [1, 1, 1, 1, 6, 6, 6, 8, 8]
    assert not free.field.any()
    assert pulled.field[2] == pytest.approx(0.02 * 51.4220675)
    assert pulled.about["directions"] == "uniform"
    assert abs(pulled.energies - free.energies).max() > 1e-3  # eV


def test_the_small_molecules(call, tmp_path, monkeypatch):
    monkeypatch.setattr(small_molecules, "nci_smiles", lambda limit: ["O", "CO", "C"][:limit])
    done = call("qm9-like", "--preset", "smoke")
    assert done.stdout.endswith("qm9-like, 3 molecules, 0 left out\n")
    assert len(list((tmp_path / "molecules").glob("qm9-like-*.npz"))) == 1


def test_what_is_refused(call):
    with pytest.raises(SofteqValueError, match="unknown experiment"):
        call("md-feild")
    with pytest.raises(SofteqValueError, match="an experiment has its own fields"):
        call("md-field", "--preset", "smoke", "--field", "0.01")
    with pytest.raises(SofteqValueError, match="field: expected a finite number"):
        call("ethanol", "--preset", "smoke", "--field", "nan")
    with pytest.raises(SofteqValueError, match="unknown preset 'tiny': expected one of smoke"):
        call("aspirin", "--preset", "tiny")
    with pytest.raises(SofteqValueError, match="unknown preset"):
        call("md-field", "--preset", "tiny")
    with pytest.raises(SofteqValueError, match="jobs"):
        call("md-field", "--preset", "smoke", "--jobs", "-1")
    with pytest.raises(SofteqValueError, match="nothing that is generated"):
        call("rmd17", "--preset", "smoke")
