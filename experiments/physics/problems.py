"""From a configuration to the task and the network that it describes: moments of inertia and pendulums."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from softeq import SoftLinear
from softeq.errors import SofteqValueError
from softeq.experiments.data import inertia, pendulum
from softeq.experiments.data.regression import Regression
from softeq.experiments.engine.bookkeeping import dtype_of, seeded
from softeq.experiments.engine.experiment import Config
from softeq.experiments.training.arms import ASSUMED, TRUE
from softeq.experiments.training.comparison import Point
from softeq.experiments.training.regression import RegressionTask
from softeq.experiments.training.task import Task
from softeq.groups import named
from softeq.models.dynamics import SoftEMLP
from softeq.models.hamiltonian import HNN, Trajectories, integrate
from softeq.models.mlp import MLP, matched_channels
from softeq.reps import Rep, Scalar, T, Vector

# Far below any network's error: 1e-19 against the true motion, where a network reaches 1e-4.
_TRUTH_STEP = 0.01
# The learned field's step; its own error is 3e-9 in the same units.
_MODEL_STEP = 0.2


def build_task(config: Config, point: Point | None = None) -> RegressionTask:
    """The task of a configuration of `physics.comparisons`: data drawn from ``config["seed"]``, groups, truth.

    Raises:
        SofteqValueError: for an unknown kind of problem or group.
    """
    problem = config["data"]
    rep_in, rep_out = _moving(problem, ASSUMED)
    names = ("group", "true_group", "cause")
    data = _data(tuple(sorted((k, _frozen(v)) for k, v in problem.items() if k not in names)), config["seed"])
    return RegressionTask(
        data.to(config["device"], dtype_of(config)),
        rep_in,
        rep_out,
        _truth(problem),
        seed=config["seed"],
        augmentation=_moving(problem, config["augment"]) if config["augment"] else None,
    )


def _moving(problem: Mapping[str, Any], which: str) -> tuple[Rep, Rep]:
    """How inputs and targets move under the assumed or the true group."""
    rep_in, rep_out = representations(problem["kind"], problem["true_group" if which == TRUE else "group"])
    return rep_in, rep_in if rep_out.size == 1 else rep_out  # an energy's targets are states


def build_model(config: Config, task: Task | None = None) -> nn.Module:
    """The network of a configuration, initialised from ``config["seed"]``.

    For the pendulum it is the map from an initial state to its trajectory under the learned Hamiltonian.
    """
    problem, network = config["data"], dict(config["network"])
    cause, group = network.pop("cause"), network.pop("group")
    rep_in, rep_out = representations(problem["kind"], group, causes=bool(cause))

    def build() -> nn.Module:
        model = network_for(dict(network), rep_in, rep_out)
        model = Told(model, cause) if cause else model
        if problem["kind"] == "pendulum":
            return Trajectories(HNN(model), pendulum.chunk_times(_sampling(problem)), step=_MODEL_STEP)
        return model

    return seeded(config, build)


class Told(nn.Module):
    """A network that is told of what breaks the symmetry: a vector behind every input.

    Args:
        network: of inputs with that vector.
        cause: its three components.
    """

    def __init__(self, network: nn.Module, cause: list[float]) -> None:
        super().__init__()
        self.network = network
        self.cause = tuple(cause)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., size)`` to what the network gives of ``(..., size + 3)``."""
        cause = x.new_tensor(self.cause).expand(*x.shape[:-1], -1)
        return self.network(torch.cat([x, cause], -1))


def representations(kind: str, group: str, *, causes: bool = False) -> tuple[Rep, Rep]:
    """Of the network's input and output: 5 scalars and 5 vectors to a matrix, or 4 vectors to an energy.

    Args:
        kind: ``"inertia"`` or ``"pendulum"``.
        group: of matrices of space, by a name that `softeq.groups.named` reads: ``"O(3)"``, ``"O2eR3"``.
        causes: with one more vector, the cause of the breaking.

    Raises:
        SofteqValueError: for an unknown kind, or a group of another space or none.
    """
    bound = named(group)
    if bound.d != 3:
        raise SofteqValueError(f"group: expected matrices of space, 3 x 3, got {bound}, of {bound.d} x {bound.d}")
    if kind == "inertia":
        rep_in, rep_out = inertia.BODIES * Scalar + inertia.BODIES * Vector, T(2)
    elif kind == "pendulum":
        rep_in, rep_out = 4 * Vector, Scalar
    else:
        raise SofteqValueError(f"kind: expected inertia or pendulum, got {kind!r}")
    return (rep_in + Vector if causes else rep_in)(bound), rep_out(bound)


def parameters_of(kind: str, group: str, constraint: str, channels: int, layers: int) -> int:
    """How many the `SoftEMLP` of these sizes has."""
    rep_in, rep_out = representations(kind, group)
    with torch.random.fork_rng(devices=[]):
        model = SoftEMLP(rep_in, rep_out, channels=channels, layers=layers, constraint=constraint)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


WIDTHS: Mapping[tuple[str, int, int], Mapping[str, int]] = {
    ("O(3)", 128, 3): {"none": 226, "hard": 168},
    ("SL(3)", 128, 3): {"none": 223, "hard": 176},
    ("O2eR3", 16, 2): {"none": 33, "hard": 23},
    ("O2eR3", 64, 3): {"none": 117, "hard": 88},
    ("O2eR3", 128, 3): {"none": 226, "hard": 168},
    ("O(3)", 384, 3): {"none": 703, "hard": 552},
    ("SL(3)", 384, 3): {"none": 675, "hard": 552},
}
"""By group, channels and layers of the soft network: `matched` of these, which takes minutes for wide networks."""


def matched(kind: str, group: str, constraint: str, channels: int, layers: int) -> int:
    """The width at which a ``none`` or ``hard`` network has about as many parameters as the soft one of these sizes."""
    found = WIDTHS.get((group, channels, layers), {}).get(constraint)
    return _matched(kind, group, constraint, channels, layers) if found is None else found


@functools.cache
def _matched(kind: str, group: str, constraint: str, channels: int, layers: int) -> int:
    wanted = parameters_of(kind, group, "soft", channels, layers)
    if constraint == "none":
        rep_in, rep_out = representations(kind, group)
        return matched_channels(rep_in.size, rep_out.size, layers=layers, parameters=wanted)
    before, step = channels, max(1, channels // 16)
    # Parameters rise with the width, so that the first width with more of them and the one before bracket the match.
    for width in range(channels, 4 * channels, step):
        if parameters_of(kind, group, constraint, width, layers) >= wanted:
            return min((before, width), key=lambda w: abs(parameters_of(kind, group, constraint, w, layers) - wanted))
        before = width
    return before


def projected(model: nn.Module) -> nn.Module:
    """The model with every `SoftLinear` in the projected form, of the same merged weights; changed in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SoftLinear):
                form = SoftLinear.from_linear(child.folded(), child.rep_in, child.rep_out, parametrization="projected")
                setattr(parent, name, form)
    return model


def network_for(network: dict[str, Any], rep_in: Rep, rep_out: Rep) -> nn.Module:
    """The network of a description: ``kind`` (``emlp`` or ``mlp``), and the arguments of that class.

    Raises:
        SofteqValueError: another kind.
    """
    kind, form = network.pop("kind"), network.pop("projected", False)
    if kind == "mlp":
        return MLP(rep_in.size, rep_out.size, **network)
    if kind == "emlp":
        model = SoftEMLP(rep_in, rep_out, **network)
        return projected(model) if form else model
    raise SofteqValueError(f"network kind: expected mlp or emlp, got {kind!r}")


# The variants of one seed follow each other and share its data; nobody writes into it.
@functools.lru_cache(maxsize=2)
def _data(problem_items: tuple[tuple[str, Any], ...], seed: int) -> Regression:
    problem = dict(problem_items)
    sizes = problem["sizes"]
    if problem["kind"] == "inertia":
        return inertia.inertia_data(seed, modified=problem["modified"], sizes=sizes, dtype=torch.float64)
    if problem["kind"] == "pendulum":
        sampling = _sampling(problem)
        return pendulum.pendulum_data(seed, wind=problem["wind"], sizes=sizes, sampling=sampling, dtype=torch.float64)
    raise SofteqValueError(f"kind: expected inertia or pendulum, got {problem['kind']!r}")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _sampling(problem: Mapping[str, Any]) -> pendulum.Sampling:
    return pendulum.Sampling(systems=problem["systems"], duration=problem["duration"], rtol=problem["rtol"])


def _truth(problem: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    if problem["kind"] == "inertia":
        return inertia.modified_moment_of_inertia if problem["modified"] else inertia.moment_of_inertia
    wind, times = tuple(problem["wind"]), pendulum.chunk_times(_sampling(problem))

    def motion(z: Tensor) -> Tensor:
        return integrate(lambda state: pendulum.velocity(state, wind), z, times, step=_TRUTH_STEP).transpose(0, 1)

    return motion
