"""md-field and its like: every arm runs on real frames; splits keep walks apart; equal trials; labels turn rightly."""

import dataclasses

import numpy as np
import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.data.walks import Sampling
from softeq.experiments.engine import registry
from softeq.experiments.molecules import field as molecules
from softeq.experiments.molecules import frame_task

from .field_configs import config, run

pytestmark = pytest.mark.filterwarnings("ignore:.*has not walked yet")


COMPARISON = molecules.COMPARISONS["md-field"]


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


def test_the_same_seed_gives_the_same_numbers(cache):
    own = config()
    own["points"] = own["points"][:1]
    first, second = (run(own) for _ in range(2))
    other = run(own | {"seed": 1})
    key = "force_mae_mev_per_a@0"
    assert first[key] == second[key] != other[key]


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


def test_the_published_set_is_missed_in_one_line(monkeypatch):
    monkeypatch.delenv("SOFTEQ_RMD17", raising=False)
    with pytest.raises(SofteqError, match="SOFTEQ_RMD17"):
        run(molecules.COMPARISONS["rmd17"].configure("smoke", "hard-50", 0))


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives(cache):
    there, here = (run(config("soft-grid-50", dtype="float64", device=device)) for device in ("cuda", "cpu"))
    for name, point in there["points"].items():
        wanted = here["points"][name]
        assert point["trials"][0]["train_losses"] == pytest.approx(wanted["trials"][0]["train_losses"], rel=1e-6)
        assert point["force_mae_mev_per_a"] == pytest.approx(wanted["force_mae_mev_per_a"], rel=1e-5)
