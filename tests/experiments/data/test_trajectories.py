"""Generated frames: the thermostat's temperature, one seed one set, a killed generation goes on, damage is reported."""

import numpy as np
import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.data import trajectories
from softeq.experiments.data.molecules import load
from softeq.experiments.data.trajectories import data_folder, in_field, set_name, trajectory, turned
from softeq.experiments.data.walks import Sampling, minimum, walk
from softeq.experiments.data.xtb import FIELD_UNIT, Engine

TINY = Sampling(walks=3, frames=2, burn=4, thin=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return trajectory("ethanol", 0.02, TINY, folder=folder), folder


def test_frames_say_what_they_are(tiny):
    frames, folder = tiny
    assert len(frames) == 6
    assert frames.block.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(frames.field, [0, 0, 0.02 * FIELD_UNIT])
    assert (frames.about["engine"], frames.about["method"]) == ("tblite", "GFN2-xTB")
    assert frames.about["sampling"]["temperature"] == 500.0
    engine = Engine(frames.numbers, frames.field)
    found = engine(frames.positions[3])
    assert found.energy == pytest.approx(frames.energies[3], abs=1e-6)
    np.testing.assert_allclose(found.forces, frames.forces[3], atol=1e-5)
    np.testing.assert_allclose(frames.forces.sum(1), 0, atol=1e-8)
    assert [path.suffix for path in sorted(folder.iterdir())] == [".lock", ".npz"]


def test_the_same_seed_gives_the_same_set_in_two_processes(tiny, tmp_path):
    frames, _ = tiny
    counts = []
    again = trajectory("ethanol", 0.02, TINY, folder=tmp_path, jobs=2, done=lambda *n: counts.append(n))
    np.testing.assert_allclose(again.positions, frames.positions, atol=1e-9)
    assert counts == [(0, 3), (1, 3), (2, 3), (3, 3)]
    numbers, start = minimum("ethanol", 0)
    other = walk(numbers, start, 0.02, Sampling(walks=3, frames=2, burn=4, thin=2, seed=1), 0)
    assert np.abs(other.positions - frames.positions[:2]).max() > 1e-3


def test_a_killed_generation_goes_on_where_it_was(tiny, tmp_path, monkeypatch):
    frames, _ = tiny
    whole = trajectories._walk_to_file
    calls = []

    def failing(*task):
        calls.append(task[5])
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(*task)

    monkeypatch.setattr(trajectories, "_walk_to_file", failing)
    with pytest.raises(KeyboardInterrupt):
        trajectory("ethanol", 0.02, TINY, folder=tmp_path)
    again = trajectory("ethanol", 0.02, TINY, folder=tmp_path)
    assert calls == [0, 1, 1, 2]  # the first walk is not made again
    np.testing.assert_allclose(again.positions, frames.positions, atol=1e-9)


def test_turned_frames_have_the_labels_of_the_unturned_field(tiny):
    frames, folder = tiny
    moved = turned(frames, TINY, first_block=1, folder=folder)
    assert set(moved.block.tolist()) == {1, 2}
    distances = [
        np.linalg.norm(f.positions[:, :, None] - f.positions[:, None], axis=-1)
        for f in (moved, frames.rows(slice(2, 6)))
    ]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert np.abs(moved.energies - frames.energies[2:]).max() > 1e-3
    found = Engine(frames.numbers, frames.field)(moved.positions[0])
    assert found.energy == pytest.approx(moved.energies[0], abs=1e-6)
    np.testing.assert_array_equal(turned(frames, TINY, first_block=1, folder=folder).energies, moved.energies)


def test_names_tell_settings_apart(monkeypatch, tmp_path):
    names = {
        set_name("ethanol", 0.0, TINY),
        set_name("ethanol", 0.01, TINY),
        set_name("aspirin", 0.0, TINY),
        set_name("ethanol", 0.0, Sampling()),
    }
    assert len(names) == 4
    monkeypatch.setenv("SOFTEQ_CACHE", str(tmp_path))
    assert data_folder() == tmp_path / "molecules"
    monkeypatch.setenv("SOFTEQ_CACHE", "off")
    assert not data_folder().is_absolute()


def test_bad_input(tmp_path, tiny):
    with pytest.raises(SofteqValueError, match="molecule"):
        trajectory("benzene", 0.0, TINY, folder=tmp_path)
    with pytest.raises(SofteqValueError, match="field"):
        trajectory("ethanol", float("nan"), TINY, folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SofteqError, match="cannot be written"):
        trajectory("ethanol", 0.0, TINY, folder=tmp_path / "file")
    path = tmp_path / f"{set_name('ethanol', 0.02, TINY)}.npz"
    original = next(tiny[1].glob("*au-????????????.npz"))
    path.write_bytes(original.read_bytes()[:-200])
    with pytest.raises(SofteqError, match="corrupt"):
        trajectory("ethanol", 0.02, TINY, folder=tmp_path)
    assert len(load(original)) == 6


def test_a_field_changes_labels_alone(tmp_path):
    """Geometries and directions are the same at every field; a walk inside the field would align with it."""
    free, weak, strong = (in_field("ethanol", field, TINY, folder=tmp_path) for field in (0.0, 0.01, 0.02))
    np.testing.assert_array_equal(weak.positions, strong.positions)
    np.testing.assert_array_equal(free.positions, strong.positions)
    np.testing.assert_allclose(strong.field, [0, 0, 0.02 * FIELD_UNIT])
    assert np.abs(strong.forces - free.forces).max() > 1.5 * np.abs(weak.forces - free.forces).max() > 0.01
    walks = trajectory("ethanol", 0.0, TINY, folder=tmp_path)
    np.testing.assert_allclose(free.energies, walks.energies, atol=1e-6)
    found = Engine(strong.numbers, strong.field)(strong.positions[4])
    np.testing.assert_allclose(found.forces, strong.forces[4], atol=1e-5)
    first, second = (np.linalg.pinv(walks.positions[k]) @ strong.positions[k] for k in (0, 1))
    assert np.abs(first - second).max() > 0.1  # frames of one walk are turned apart
    assert turned(strong, TINY, first_block=1, folder=tmp_path).about["directions"] == "uniform"
    with pytest.raises(SofteqValueError, match="field"):
        in_field("ethanol", float("inf"), TINY, folder=tmp_path)
