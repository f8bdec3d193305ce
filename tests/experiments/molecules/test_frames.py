"""Frames of a point: walks that are made, splits that keep them apart, labels that turn with a molecule."""

import numpy as np
import pytest
import torch

from softeq.errors import SofteqValueError, SofteqWarning
from softeq.experiments.data import trajectories
from softeq.experiments.molecules import field as molecules
from softeq.experiments.molecules import frames as molecule_frames

from .field_configs import config, run

pytestmark = pytest.mark.filterwarnings("ignore:.*has not walked yet")


def test_walks_that_a_run_must_make_are_told_of(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(trajectories, "data_folder", lambda: tmp_path)
    own = config(seed=0)["points"][1]
    own["sampling"]["seed"] = 5
    with pytest.warns(SofteqWarning, match="ethanol has not walked yet: 80 steps .*softeq data"):
        molecule_frames.frames_of(own)
    molecule_frames._trajectory.cache_clear()
    recwarn.clear()
    molecule_frames.frames_of(own)
    assert not [w for w in recwarn if w.category is SofteqWarning]


def test_no_walk_is_on_two_sides(cache):
    own = config()
    frames, moved = molecule_frames.frames_of(own["points"][0])
    data = molecule_frames.prepared(own["points"][0], own)
    block = {
        tuple(np.round(x.astype(np.float32).flatten().astype(float), 4)): b
        for x, b in zip(frames.positions, frames.block, strict=True)
    }
    sides = [
        {block[tuple(np.round(x.flatten().double().numpy(), 4))] for x in s.x}
        for s in (data.train, data.validation, data.test)
    ]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert set(moved.block) <= {6, 7}
    with pytest.raises(SofteqValueError, match="at most 12 training frames"):
        molecule_frames.prepared(own["points"][0] | {"sizes": {"train": 13, "validation": 1, "test": 1}}, own)


def test_turned_labels_of_a_published_set(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    base = np.array([[0, 0, 0], [0, 0, 1.2], [1.0, 0, -0.5]])
    np.savez(
        tmp_path / "rmd17_ethanol.npz",
        nuclear_charges=np.array([6, 8, 1]),
        coords=base + 0.05 * generator.normal(size=(40, 3, 3)),
        energies=generator.normal(size=40),
        forces=generator.normal(size=(40, 3, 3)),
    )
    monkeypatch.setenv("SOFTEQ_RMD17", str(tmp_path))
    molecule_frames._published.cache_clear()
    own = molecules.COMPARISONS["rmd17"].configure("smoke", "hard-50", 0)
    own["points"] = own["points"][:1]
    data = molecule_frames.prepared(own["points"][0], own)
    torch.testing.assert_close(data.turned.energy, data.test.energy)
    torch.testing.assert_close(data.turned.force.norm(dim=-1), data.test.force.norm(dim=-1))
    pairs = torch.einsum("bni,bmi->bnm", data.test.x, data.test.force)
    torch.testing.assert_close(torch.einsum("bni,bmi->bnm", data.turned.x, data.turned.force), pairs)
    assert (data.turned.x - data.test.x).abs().max() > 0.1
    assert np.isfinite(run(own)["force_mae_mev_per_a@ethanol"])
    molecule_frames._published.cache_clear()


def test_rotations_are_rotations_and_come_from_their_seed():
    g = molecule_frames.rotations(50, 3)
    torch.testing.assert_close(g @ g.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(g), torch.ones(50, dtype=torch.float64))
    assert torch.equal(g, molecule_frames.rotations(50, 3))
    assert not torch.equal(g, molecule_frames.rotations(50, 4))


def test_validation_frames_are_spread_evenly_and_no_more_than_there_are():
    rows = np.arange(100, 110)
    assert molecule_frames._spread(rows, 4).tolist() == [100, 103, 106, 109]
    assert molecule_frames._spread(rows, 99).tolist() == rows.tolist()


def test_an_unknown_source():
    with pytest.raises(SofteqValueError, match="source: expected 'trajectory' or 'rmd17', got 'elsewhere'"):
        molecule_frames.frames_of({"source": "elsewhere"})
