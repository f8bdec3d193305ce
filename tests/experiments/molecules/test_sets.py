"""qm9-like: every arm runs on real molecules; a hard model's dipole turns with the molecule, a free one's does not."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.data import qm9
from softeq.experiments.data.small_molecules import qm9_like
from softeq.experiments.molecules import parts
from softeq.experiments.molecules import sets as molecule_sets


@pytest.fixture(scope="module", autouse=True)
def few(tmp_path_factory):
    own = qm9_like(limit=30, folder=tmp_path_factory.mktemp("sets"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_molecules", lambda source, limit: own)
        yield own


def config(variant, **changes):
    found = molecule_sets.configure("qm9-like", "smoke", variant, 0)
    return found | {"sizes": [12, 4, 8], "training": {**found["training"], "steps": 4}} | changes


@pytest.mark.parametrize("variant", [f"{arm}-100" for arm in molecule_sets.ARMS])
def test_every_arm_runs(variant):
    own, done = config(variant), []
    metrics = molecule_sets.run(own, lambda *n: done.append(n))
    assert done[-1] == (steps := 4 * len(own["trials"]), steps)
    assert all(np.isfinite(metrics[key]) for key in molecule_sets.HEADLINES)
    for key in ("equivariance_error", "dipole_equivariance_error", "weight_defect_mean"):
        assert (metrics[key] < 1e-4) == variant.startswith("hard"), key
    change = abs(metrics["turned_dipole_error_e_a"] / metrics["dipole_error_e_a"] - 1)
    assert (change < 1e-3) == variant.startswith("hard")
    assert len(metrics["trials"]) == len(own["trials"]) > 1


def test_the_seed_draws_the_training_molecules_and_not_the_tests():
    first, second = (parts.prepared(config("hard-100", seed=seed)) for seed in (0, 1))
    torch.testing.assert_close(torch.cat(list(first[2].places)), torch.cat(list(second[2].places)))
    assert [len(z) for z in first[0].numbers] != [len(z) for z in second[0].numbers]
    sides = [{tuple(x.flatten().tolist()) for x in part.places} for part in first]
    assert [len(side) for side in sides] == [12, 4, 8]
    assert len(set.union(*sides)) == 24


def test_the_dipole_is_the_slope_of_the_energy():
    own = config("none-100", dtype="float64")
    train, _, _ = parts.prepared(own)
    model, _ = molecule_sets._trained(train, own["trials"][0], own, lambda: None)
    part = train.rows(torch.arange(2))
    _, dipole = molecule_sets.energy_and_dipole(model, part)
    batch, step = molecule_sets._batch(part, model), 1e-4
    for axis in range(3):
        field = torch.zeros(2, 3, dtype=torch.float64)
        field[:, axis] = step
        up, down = (model(dataclasses.replace(batch, field=f)) for f in (field, -field))
        torch.testing.assert_close((down - up) / (2 * step), dipole[:, axis], rtol=1e-5, atol=1e-7)


def test_a_training_lowers_the_error_of_both():
    own = config("hard-100")
    own["training"]["steps"] = 60
    train, _, _ = parts.prepared(own)
    before = molecule_sets._loss(molecule_sets.build_model(own, train), train, train)
    model, steps = molecule_sets._trained(train, own["trials"][0], own, lambda: None)
    assert len(steps) == 60
    assert molecule_sets._loss(model, train, train) < 0.6 * before


def test_the_elements_energies_know_nothing_of_test_molecules(few, monkeypatch):
    own = config("hard-100")
    train, _, test = parts.prepared(own)
    sizes, last = own["sizes"], few.energies.copy()
    held = torch.randperm(30, generator=parts.generator_for(0, 5))[: sizes[2]]
    last[held.numpy()] += 100.0
    monkeypatch.setattr(parts, "_molecules", lambda *_: dataclasses.replace(few, energies=last))
    again, _, moved = parts.prepared(own)
    torch.testing.assert_close(again.energy, train.energy)
    torch.testing.assert_close(moved.energy, test.energy + 100.0)


def test_a_set_without_dipoles_gives_energies_alone(few, monkeypatch):
    monkeypatch.setattr(parts, "_molecules", lambda *_: dataclasses.replace(few, dipoles=None))
    metrics = molecule_sets.run(config("soft-100"), lambda *n: None)
    assert np.isfinite(metrics["energy_mae_mev"])
    assert np.isnan(metrics["dipole_error_e_a"])


def test_a_training_that_diverges_is_recorded_as_such():
    trials = [{"lr": 1e30, "prior": None}] * 2
    assert np.isnan(molecule_sets.run(config("none-100", trials=trials), lambda *n: None)["energy_mae_mev"])


def test_bad_configurations(monkeypatch):
    with pytest.raises(SofteqValueError, match="variant"):
        molecule_sets.configure("qm9-like", "smoke", "hard-7", 0)
    with pytest.raises(SofteqValueError, match="at most 30"):
        parts.prepared(config("hard-100", sizes=[30, 4, 4]))
    trials = {len(molecule_sets.configure("qm9-like", "default", f"{a}-250", 0)["trials"]) for a in molecule_sets.ARMS}
    assert len(trials) == 1


def test_of_a_set_with_dipole_sizes_the_sizes_are_learned(few, monkeypatch):
    sizes = dataclasses.replace(few, dipoles=None, dipole_sizes=np.linalg.norm(few.dipoles, axis=1))
    monkeypatch.setattr(parts, "_molecules", lambda *_: sizes)
    own = config("hard-100", dtype="float64")
    own["training"]["steps"] = 40
    train, _, test = parts.prepared(own)
    start = molecule_sets.build_model(own, train)
    model, _ = molecule_sets._trained(train, own["trials"][0], own, lambda: None)
    error = lambda m: float(train.dipole_error(molecule_sets.energy_and_dipole(m, train)[1]).mean())
    assert error(model) < 0.7 * error(start)
    assert train.dipole_rms == pytest.approx(float(np.sqrt((train.dipole_size**2).mean() / 3)))
    # A direction is neither known nor asked for: the error of a rotated dipole is the same.
    dipole = torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(test.dipole_error(dipole), test.dipole_error(-dipole[:, [1, 2, 0]]))


def test_the_published_set_runs(monkeypatch):
    monkeypatch.setattr(parts, "_molecules", lambda source, limit: parts.qm9(limit))
    if importlib.util.find_spec("qm9pack") is None:
        pytest.skip("qm9pack is not installed")
    found = molecule_sets.configure("qm9", "smoke", "soft-250", 0)
    metrics = molecule_sets.run(found | {"sizes": [6, 2, 4], "trials": found["trials"][:1]}, lambda *n: None)
    assert all(np.isfinite(metrics[key]) for key in molecule_sets.HEADLINES)


def test_the_published_set_is_missed_in_one_line(monkeypatch):
    monkeypatch.setattr(parts, "_molecules", lambda source, limit: parts.qm9(limit))
    monkeypatch.delenv("SOFTEQ_QM9", raising=False)
    monkeypatch.setattr(qm9.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"softeq\[qm9\].*SOFTEQ_QM9"):
        molecule_sets.run(molecule_sets.configure("qm9", "smoke", "hard-250", 0), lambda *n: None)
