"""Configurations of ``md-field``, so small that tests can run them."""

import copy

from softeq.experiments.molecules.field import COMPARISONS

TINY = {"walks": 8, "frames": 3, "burn": 4, "thin": 2}
COMPARISON = COMPARISONS["md-field"]


def config(variant="soft-50", **changes):
    found = copy.deepcopy(COMPARISON.configure("smoke", variant, 0))
    for point in found["points"]:
        point["sampling"] |= TINY
        point["sizes"] = {"train": 6, "validation": 3, "test": 4}
    found["training"] |= {"steps": 3, "validate_every": 2}
    return found | changes


def run(own, progress=lambda *n: None):
    return COMPARISON.run(own, progress)
