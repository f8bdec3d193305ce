"""md-field and its like: every arm runs on real frames; splits keep walks apart; equal trials; labels turn rightly."""

import copy

import numpy as np
import pytest
import torch

from softeq.errors import SofteqError, SofteqValueError, SofteqWarning
from softeq.experiments.data import trajectories
from softeq.experiments.data.walks import Sampling
from softeq.experiments.engine import registry
from softeq.experiments.molecules import field as molecules
from softeq.experiments.molecules import frames as molecule_frames
from softeq.experiments.molecules import run as molecule_run
from softeq.experiments.molecules.plots import plot_fields

pytestmark = pytest.mark.filterwarnings("ignore:.*has not walked yet")
TINY = {"walks": 8, "frames": 3, "burn": 4, "thin": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "data_folder", lambda: folder)
        yield folder
    molecule_frames._trajectory.cache_clear()


def config(variant="soft-50", **changes):
    found = copy.deepcopy(molecules.configure("md-field", "smoke", variant, 0))
    for point in found["points"]:
        point["sampling"] |= TINY
    found["sizes"] = {"train": 6, "validation": 3, "test": 4}
    found["training"]["steps"] = 3
    return found | changes


@pytest.mark.parametrize("variant", [f"{arm}-50" for arm in molecules.ARMS])
def test_every_arm_runs(cache, variant):
    own, done = config(variant), []
    metrics = molecule_run.run(own, lambda *n: done.append(n))
    assert done[-1] == (18, 18)  # two fields, three trials, three steps
    for point in metrics["points"].values():
        assert all(np.isfinite(point[key]) for key in molecule_run.HEADLINES)
        assert len(point["trials"]) == 3
    exact = variant.startswith("hard-")
    assert (metrics["equivariance_error@0.02"] < 1e-4) == exact
    assert (metrics["weight_defect_mean@0"] < 1e-6) == variant.startswith("hard")
    assert (metrics["lee_ratio@0"] < 1e-6) == variant.startswith("hard")
    assert metrics["force_mae_mev_per_a@0"] == metrics["points"]["0"]["force_mae_mev_per_a"]


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


def test_the_same_seed_gives_the_same_numbers(cache):
    own = config()
    own["points"] = own["points"][:1]
    first, second = (molecule_run.run(own, lambda *n: None) for _ in range(2))
    other = molecule_run.run(own | {"seed": 1}, lambda *n: None)
    key = "force_mae_mev_per_a@0"
    assert first[key] == second[key] != other[key]


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
        molecule_frames.prepared(own["points"][0], own | {"sizes": {"train": 13, "validation": 1, "test": 1}})


def test_a_training_lowers_the_error(cache):
    own = config("hard-50")
    own["points"], own["training"]["steps"] = own["points"][:1], 60
    data = molecule_frames.prepared(own["points"][0], own)
    untrained = molecule_run.build_model(own, data)
    before = molecule_run._errors(untrained, data.train, data)
    model, steps = molecule_run._trained(data, own["trials"][0], own, lambda: None)
    after = molecule_run._errors(model, data.train, data)
    assert len(steps) == 60
    assert after["force"] < 0.8 * before["force"]


def test_a_training_that_diverges_is_recorded_as_such(cache):
    own = config("none-50")
    own["trials"] = [{"lr": 1e30, "prior": None}] * 3
    metrics = molecule_run.run(own, lambda *n: None)
    assert np.isnan(metrics["force_mae_mev_per_a@0"])


def test_configurations():
    found = registry.all()
    assert {"md-field", "md-ethanol", "md-aspirin", "rmd17"} <= set(found)
    assert len(found["md-field"].variants) == 15
    trials = {len(molecules.configure("md-field", "default", v, 0)["trials"]) for v in found["md-field"].variants}
    assert len(trials) == 1
    assert [p["name"] for p in molecules.configure("md-field", "default", "soft-200", 0)["points"]] == [
        "0",
        "0.005",
        "0.01",
        "0.015",
        "0.02",
    ]
    assert molecules.configure("md-aspirin", "default", "hard-50", 0)["points"][0]["molecule"] == "aspirin"
    with pytest.raises(SofteqValueError, match="variant"):
        molecules.configure("md-field", "default", "soft-51", 0)
    with pytest.raises(SofteqValueError, match="source"):
        molecule_frames.frames_of({"source": "elsewhere"})
    assert molecules.SIZES["default"].sampling == Sampling()


def test_the_published_set_is_missed_in_one_line(monkeypatch):
    monkeypatch.delenv("SOFTEQ_RMD17", raising=False)
    with pytest.raises(SofteqError, match="SOFTEQ_RMD17"):
        molecule_run.run(molecules.configure("rmd17", "smoke", "hard-50", 0), lambda *n: None)


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
    own = molecules.configure("rmd17", "smoke", "hard-50", 0)
    own["points"] = own["points"][:1]
    data = molecule_frames.prepared(own["points"][0], own)
    torch.testing.assert_close(data.turned.energy, data.test.energy)
    torch.testing.assert_close(data.turned.force.norm(dim=-1), data.test.force.norm(dim=-1))
    pairs = torch.einsum("bni,bmi->bnm", data.test.x, data.test.force)
    torch.testing.assert_close(torch.einsum("bni,bmi->bnm", data.turned.x, data.turned.force), pairs)
    assert (data.turned.x - data.test.x).abs().max() > 0.1
    assert np.isfinite(molecule_run.run(own, lambda *n: None)["force_mae_mev_per_a@ethanol"])
    molecule_frames._published.cache_clear()


def test_the_figure(tmp_path):
    def record(variant, seed, value):
        keys = ("force_mae_mev_per_a", "turned_force_mae_mev_per_a", "weight_defect_mean")
        metrics = {f"{key}@{name}": value for key in keys for name in ("0", "0.02")}
        points = {"points": {"0": {}, "0.02": {}}}
        return {"experiment": "md-field", "variant": variant, "seed": seed, "metrics": metrics | points}

    records = [record(f"{arm}-{n}", seed, 1.0 + seed) for arm in ("hard", "soft") for n in (50, 200) for seed in (0, 1)]
    plot_fields(records, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    with pytest.raises(SofteqError, match="no records"):
        plot_fields([], tmp_path / "b.png")
