"""md-field and its like: every arm runs on real frames; splits keep walks apart; equal trials; labels turn rightly."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from softeq.errors import SofteqError, SofteqValueError, SofteqWarning
from softeq.experiments.data import trajectories
from softeq.experiments.data.walks import Sampling
from softeq.experiments.engine import registry
from softeq.experiments.molecules import field as molecules
from softeq.experiments.molecules import frame_task
from softeq.experiments.molecules import frames as molecule_frames
from softeq.experiments.molecules.plots import plot_fields
from softeq.experiments.training.trials import train_trial
from softeq.strength._probes import scale_of

pytestmark = pytest.mark.filterwarnings("ignore:.*has not walked yet")
TINY = {"walks": 8, "frames": 3, "burn": 4, "thin": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "data_folder", lambda: folder)
        yield folder
    molecule_frames._trajectory.cache_clear()


COMPARISON = molecules.COMPARISONS["md-field"]


def config(variant="soft-50", **changes):
    found = copy.deepcopy(COMPARISON.configure("smoke", variant, 0))
    for point in found["points"]:
        point["sampling"] |= TINY
        point["sizes"] = {"train": 6, "validation": 3, "test": 4}
    found["training"] |= {"steps": 3, "validate_every": 2}
    return found | changes


def run(own, progress=lambda *n: None):
    return COMPARISON.run(own, progress)


@pytest.mark.parametrize("variant", [f"{arm}-50" for arm in COMPARISON.arms])
def test_every_arm_runs(cache, variant):
    own, done = config(variant), []
    metrics = run(own, lambda *n: done.append(n))
    assert done[-1] == (6, 6)  # two fields, one trial, three steps
    for point in metrics["points"].values():
        assert all(np.isfinite(point[key]) for key in frame_task.HEADLINES)
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
    first, second = (run(own) for _ in range(2))
    other = run(own | {"seed": 1})
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
        molecule_frames.prepared(own["points"][0] | {"sizes": {"train": 13, "validation": 1, "test": 1}}, own)


def test_a_training_lowers_the_error(cache):
    own = config("hard-50")
    own["training"] |= {"steps": 60, "validate_every": 30}
    task = frame_task.task_of(own, own["points"][0])
    before = frame_task._errors(frame_task.build_model(own, task), task.data.train, task.data)
    trained = train_trial(task, lambda: frame_task.build_model(own, task), own["trials"][0], own)
    after = frame_task._errors(trained.model, task.data.train, task.data)
    assert trained.training.steps == 60
    assert after["force"] < 0.8 * before["force"]


def test_a_loss_is_its_outputs_and_rotations_are_those_of_the_group(cache):
    own = config("hard-50", augment="true")
    task = frame_task.task_of(own, own["points"][0])
    model = frame_task.build_model(own, task)
    rows, seen = torch.arange(4), []
    loss, output = task.loss(model, rows, None)
    target = task.data.train.force[:4].flatten(1) / task.data.force_size
    energy = task.data.train.energy[:4] / task.data.force_size / 3  # nine atoms
    assert output.shape == (4, target.shape[1] + 1)
    by_hand = ((output[:, :-1] * 27**0.5 - target) ** 2).mean() + ((output[:, -1] - energy) ** 2).mean()
    torch.testing.assert_close(loss, by_hand)
    assert scale_of(loss, output, "gaussian") == pytest.approx(1, rel=1e-5)
    (slope,) = torch.autograd.grad(loss, output, retain_graph=True)
    assert slope.abs().min() > 0, "the loss is computed from the output"
    made = frame_task.batch_of

    def watched(x, *others):
        seen.append(x)
        return made(x, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_task, "batch_of", watched)
        task.loss(model, rows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0][..., 2].abs(), task.data.train.x[:4, :, 2].abs())
    assert not torch.allclose(seen[0], task.data.train.x[:4])


def test_a_training_that_diverges_is_recorded_as_such(cache):
    own = config("none-50")
    own["trials"] = [{"lr": 1e30, "prior": None}] * 3
    metrics = run(own)
    assert np.isnan(metrics["force_mae_mev_per_a@0"])


def test_configurations():
    found = registry.all()
    assert {"md-field", "md-ethanol", "md-aspirin", "rmd17"} <= set(found)
    points = COMPARISON.configure("default", "soft-200", 0)["points"]
    assert [p["name"] for p in points] == ["0", "0.005", "0.01", "0.015", "0.02"]
    assert points[0]["sampling"] == dataclasses.asdict(Sampling())
    aspirin = molecules.COMPARISONS["md-aspirin"].configure("default", "hard-50", 0)["points"]
    assert aspirin[0]["molecule"] == "aspirin"
    told = [v for v in COMPARISON.variants if COMPARISON.configure("smoke", v, 0)["network"]["field"]]
    assert told == ["hard+cause-50", "hard+cause-200", "hard+cause-950"]
    with pytest.raises(SofteqValueError, match="variant"):
        COMPARISON.configure("default", "soft-51", 0)
    with pytest.raises(SofteqValueError, match="source"):
        molecule_frames.frames_of({"source": "elsewhere"})


def test_the_published_set_is_missed_in_one_line(monkeypatch):
    monkeypatch.delenv("SOFTEQ_RMD17", raising=False)
    with pytest.raises(SofteqError, match="SOFTEQ_RMD17"):
        run(molecules.COMPARISONS["rmd17"].configure("smoke", "hard-50", 0))


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


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives(cache):
    there, here = (run(config("soft-grid-50", dtype="float64", device=device)) for device in ("cuda", "cpu"))
    for name, point in there["points"].items():
        wanted = here["points"][name]
        assert point["trials"][0]["train_losses"] == pytest.approx(wanted["trials"][0]["train_losses"], rel=1e-6)
        assert point["force_mae_mev_per_a"] == pytest.approx(wanted["force_mae_mev_per_a"], rel=1e-5)
