import pytest

from softeq.errors import SofteqError
from softeq.experiments.molecules.plots import plot_fields


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
