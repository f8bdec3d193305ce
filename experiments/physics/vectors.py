"""Comparisons of networks between representations, on any task: what a new experiment of this kind starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from softeq.errors import SofteqValueError
from softeq.experiments.engine.bookkeeping import seeded
from softeq.experiments.engine.experiment import Config
from softeq.experiments.physics.problems import network_for
from softeq.experiments.training.arms import ASSUMED, Arm, Variant
from softeq.experiments.training.comparison import Domain, Point, Size
from softeq.experiments.training.regression import RegressionTask
from softeq.reps import Rep


def network_of(arm: Arm, width: Mapping[str, Any]) -> dict[str, Any]:
    """The network of an arm: `SoftEMLP` where there is a symmetry, `MLP` for ``none``.

    Args:
        arm: says its constraint and form.
        width: ``channels`` and ``layers``.
    """
    sizes = {"channels": width["channels"], "layers": width["layers"]}
    if arm.constraint == "none":
        return {"kind": "mlp", **sizes}
    return {
        "kind": "emlp",
        "constraint": arm.constraint,
        **sizes,
        "published": list(arm.published) if isinstance(arm.published, tuple) else arm.published,
        "projected": arm.projected,
    }


def vector_domain(
    task: Callable[[Config, Point], RegressionTask], representations: Mapping[str, tuple[Rep, Rep]]
) -> Domain:
    """A domain of networks from one representation to another.

    Args:
        task: the data of a configuration; its seed is ``config["seed"]``.
        representations: of input and output, bound to a group: ``"assumed"``, and ``"true"`` for arms of the subgroup
            that really holds.
    """

    def network(size: Size, variant: Variant) -> dict[str, Any]:
        arm = variant.arm
        if arm.matched or arm.cause:
            raise SofteqValueError(f"arm: {arm.name} needs a network of its own; write the domain's network and build")
        if arm.group not in representations:
            raise SofteqValueError(f"arm: {arm.name} needs representations of the group that really holds")
        return {**network_of(arm, size.network), "group": arm.group}

    def build(config: Config, task: RegressionTask) -> nn.Module:
        own = dict(config["network"])
        rep_in, rep_out = representations[own.pop("group", ASSUMED)]
        return seeded(config, lambda: network_for(own, rep_in, rep_out))

    return Domain(task, build, network)
