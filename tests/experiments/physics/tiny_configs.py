"""Configurations of the comparisons, so small that tests can run them."""

from dataclasses import replace

from softeq.experiments.physics.comparisons import COMPARISONS
from softeq.experiments.training.comparison import Size

_TRAINING = {"steps": 4, "batch_size": 30, "validate_every": 2}
TINY = {
    "inertia": ({"channels": 24, "layers": 1}, {"sizes": [60, 20, 40]}),
    "pendulum": ({"channels": 12, "layers": 1}, {"sizes": [20, 10, 10], "systems": 40, "duration": 2.0, "rtol": 1e-4}),
}


def tiny(name, variant, seed=0):
    comparison = COMPARISONS[name]
    network, data = TINY[comparison.sizes["smoke"].data["kind"]]
    size = Size(1, network, {**comparison.sizes["smoke"].data, **data}, _TRAINING, trials="one")
    comparison = replace(comparison, sizes={"tiny": size})
    return comparison.configure("tiny", variant, seed)
