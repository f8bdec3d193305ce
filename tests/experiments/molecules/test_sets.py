"""qm9-like: every arm runs on real molecules; a hard model's dipole turns with the molecule, a free one's does not."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.data import qm9
from softeq.experiments.data.small_molecules import qm9_like
from softeq.experiments.molecules import parts, set_task
from softeq.experiments.molecules import sets as molecule_sets
from softeq.experiments.training.trials import train_trial
from softeq.strength._probes import scale_of


@pytest.fixture(scope="module", autouse=True)
def few(tmp_path_factory):
    own = qm9_like(limit=30, folder=tmp_path_factory.mktemp("sets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_molecules", lambda source, limit: own)
        yield own


COMPARISON = molecule_sets.COMPARISONS["qm9-like"]


def config(variant, sizes=(12, 4, 8), steps=4, **changes):
    found = COMPARISON.configure("smoke", variant, 0)
    found["data"]["sizes"] = list(sizes)
    found["training"] |= {"steps": steps, "validate_every": max(1, steps // 2)}
    return found | changes


def run(own, progress=lambda *n: None):
    return COMPARISON.run(own, progress)


def trained(own):
    task = set_task.task_of(own, {"name": ""})
    return task, train_trial(task, lambda: set_task.build_model(own, task), own["trials"][0], own).model


@pytest.mark.parametrize("variant", [f"{arm}-100" for arm in molecule_sets.ARMS])
def test_every_arm_runs(variant):
    done = []
    metrics = run(config(variant), lambda *n: done.append(n))
    assert done[-1] == (4, 4)
    assert all(np.isfinite(metrics[key]) for key in set_task.HEADLINES)
    for key in ("equivariance_error", "dipole_equivariance_error", "weight_defect_mean"):
        assert (metrics[key] < 1e-4) == variant.startswith("hard"), key
    change = abs(metrics["turned_dipole_error_e_a"] / metrics["dipole_error_e_a"] - 1)
    assert (change < 1e-3) == variant.startswith("hard")


def test_the_seed_draws_the_training_molecules_and_not_the_tests():
    first, second = (parts.prepared(config("hard-100", seed=seed)) for seed in (0, 1))
    torch.testing.assert_close(torch.cat(list(first[2].places)), torch.cat(list(second[2].places)))
    assert [len(z) for z in first[0].numbers] != [len(z) for z in second[0].numbers]
    sides = [{tuple(x.flatten().tolist()) for x in part.places} for part in first]
    assert [len(side) for side in sides] == [12, 4, 8]
    assert len(set.union(*sides)) == 24


def test_the_dipole_is_the_slope_of_the_energy():
    own = config("none-100", dtype="float64")
    task, model = trained(own)
    part = task.train.rows(torch.arange(2))
    _, dipole = set_task.energy_and_dipole(model, part)
    batch, step = set_task._batch(part, model), 1e-4
    for axis in range(3):
        field = torch.zeros(2, 3, dtype=torch.float64)
        field[:, axis] = step
        up, down = (model(dataclasses.replace(batch, field=f)) for f in (field, -field))
        torch.testing.assert_close((down - up) / (2 * step), dipole[:, axis], rtol=1e-5, atol=1e-7)


def test_a_training_lowers_the_error_of_both():
    own = config("hard-100", steps=60)
    task, model = trained(own)
    before = task._loss(set_task.build_model(own, task), task.train)[0]
    loss, output = task._loss(model, task.train)
    assert loss < 0.6 * before
    assert output.shape == (12, 4)
    loss, output = task.loss(model, torch.arange(4), None)
    (slope,) = torch.autograd.grad(loss, output)
    assert slope.abs().min() > 0, "the loss is computed from the output"
    loss, output = task.loss(model, torch.arange(4), None)
    assert scale_of(loss, output, "gaussian") == pytest.approx(1, rel=1e-5)


def test_the_elements_energies_know_nothing_of_test_molecules(few, monkeypatch):
    own = config("hard-100")
    train, _, test = parts.prepared(own)
    sizes, last = own["data"]["sizes"], few.energies.copy()
    held = torch.randperm(30, generator=parts.generator_for(0, 5))[: sizes[2]]
    last[held.numpy()] += 100.0
    monkeypatch.setattr(parts, "_molecules", lambda *_: dataclasses.replace(few, energies=last))
    again, _, moved = parts.prepared(own)
    torch.testing.assert_close(again.energy, train.energy)
    torch.testing.assert_close(moved.energy, test.energy + 100.0)


def test_a_set_without_dipoles_gives_energies_alone(few, monkeypatch):
    monkeypatch.setattr(parts, "_molecules", lambda *_: dataclasses.replace(few, dipoles=None))
    metrics = run(config("soft-100"))
    assert np.isfinite(metrics["energy_mae_mev"])
    assert np.isnan(metrics["dipole_error_e_a"])


def test_a_training_that_diverges_is_recorded_as_such():
    trials = [{"lr": 1e30, "prior": None}] * 2
    assert np.isnan(run(config("none-100", trials=trials))["energy_mae_mev"])


def test_bad_configurations(monkeypatch):
    with pytest.raises(SofteqValueError, match="variant"):
        COMPARISON.configure("smoke", "hard-7", 0)
    with pytest.raises(SofteqValueError, match="at most 30"):
        parts.prepared(config("hard-100", sizes=(30, 4, 4)))


def test_of_a_set_with_dipole_sizes_the_sizes_are_learned(few, monkeypatch):
    sizes = dataclasses.replace(few, dipoles=None, dipole_sizes=np.linalg.norm(few.dipoles, axis=1))
    monkeypatch.setattr(parts, "_molecules", lambda *_: sizes)
    own = config("hard-100", dtype="float64", steps=40)
    task, model = trained(own)
    train, test, start = task.train, task.held_out, set_task.build_model(own, task)
    error = lambda m: float(train.dipole_error(set_task.energy_and_dipole(m, train)[1]).mean())
    assert error(model) < 0.7 * error(start)
    assert train.dipole_rms == pytest.approx(float(np.sqrt((train.dipole_size**2).mean() / 3)))
    # A direction is neither known nor asked for: the error of a rotated dipole is the same.
    dipole = torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(test.dipole_error(dipole), test.dipole_error(-dipole[:, [1, 2, 0]]))


def test_the_published_set_runs(monkeypatch):
    monkeypatch.setattr(parts, "_molecules", lambda source, limit: parts.qm9(limit))
    if importlib.util.find_spec("qm9pack") is None:
        pytest.skip("qm9pack is not installed")
    found = molecule_sets.COMPARISONS["qm9"].configure("smoke", "soft-250", 0)
    found["data"]["sizes"] = [6, 2, 4]
    metrics = run(found)
    assert all(np.isfinite(metrics[key]) for key in set_task.HEADLINES)


def test_the_published_set_is_missed_in_one_line(monkeypatch):
    monkeypatch.setattr(parts, "_molecules", lambda source, limit: parts.qm9(limit))
    monkeypatch.delenv("SOFTEQ_QM9", raising=False)
    monkeypatch.setattr(qm9.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"softeq\[qm9\].*SOFTEQ_QM9"):
        run(molecule_sets.COMPARISONS["qm9"].configure("smoke", "hard-250", 0))


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives():
    there, here = (run(config("soft-grid-100", dtype="float64", device=device)) for device in ("cuda", "cpu"))
    assert there["trials"][0]["train_losses"] == pytest.approx(here["trials"][0]["train_losses"], rel=1e-6)
    assert there["energy_mae_mev"] == pytest.approx(here["energy_mae_mev"], rel=1e-5)
