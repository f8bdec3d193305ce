"""qm9-like: every arm runs on real molecules; a hard model's dipole turns with the molecule, a free one's does not."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from softeq.errors import MissingExtraError, SofteqValueError
from softeq.experiments.data import qm9
from softeq.experiments.molecules import parts, set_task
from softeq.experiments.molecules import sets as molecule_sets

from .set_configs import config, run

COMPARISON = molecule_sets.COMPARISONS["qm9-like"]
pytestmark = pytest.mark.usefixtures("few")


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


def test_a_set_without_dipoles_gives_energies_alone(few, monkeypatch):
    monkeypatch.setattr(parts, "_molecules", lambda *_: dataclasses.replace(few, dipoles=None))
    metrics = run(config("soft-100"))
    assert np.isfinite(metrics["energy_mae_mev"])
    assert np.isnan(metrics["dipole_error_e_a"])


def test_a_training_that_diverges_is_recorded_as_such():
    trials = [{"lr": 1e30, "prior": None}] * 2
    assert np.isnan(run(config("none-100", trials=trials))["energy_mae_mev"])


def test_bad_configurations():
    with pytest.raises(SofteqValueError, match="variant"):
        COMPARISON.configure("smoke", "hard-7", 0)


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
