"""From a configuration to the task and the network that it describes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from softeq.errors import SofteqValueError
from softeq.experiments.data import inertia, pendulum
from softeq.experiments.data.regression import Regression
from softeq.experiments.engine.experiment import Config
from softeq.experiments.training.task import Task
from softeq.groups import SL, Group, O, O2eR3
from softeq.models.dynamics import SoftEMLP
from softeq.models.hamiltonian import HNN, Trajectories, integrate
from softeq.models.mlp import MLP, matched_channels
from softeq.reps import Rep, Scalar, T, Vector

GROUPS: dict[str, Callable[[], Group]] = {"O(3)": lambda: O(3), "SL(3)": lambda: SL(3), "O2eR3": O2eR3}
"""The groups that experiments assume, by the name in a configuration."""

# Far below any network's error: 1e-19 against the true motion, where a network reaches 1e-4.
_TRUTH_STEP = 0.01
# The learned field's step; its own error is 3e-9 in the same units.
_MODEL_STEP = 0.2


def build_task(config: Config) -> Task:
    """The task of a configuration of `physics.comparisons`: data drawn from ``config["seed"]``, group, truth.

    Raises:
        SofteqValueError: for an unknown kind of problem or group.
    """
    problem = config["problem"]
    rep_in, rep_out = representations(problem["kind"], problem["group"])
    data = _data(tuple(sorted((k, _frozen(v)) for k, v in problem.items() if k != "group")), config["seed"])
    if rep_out.size == 1:  # the network's output is an energy, what is compared are the states
        rep_out = rep_in
    return Task(data.to(config["device"], getattr(torch, config["dtype"])), rep_in, rep_out, _truth(problem))


def build_model(config: Config) -> nn.Module:
    """The network of a configuration, initialised from ``config["seed"]`` without touching torch's global generator.

    For the pendulum it is the map from an initial state to its trajectory under the learned Hamiltonian.
    """
    problem, network = config["problem"], dict(config["network"])
    rep_in, rep_out = representations(problem["kind"], problem["group"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = _network(network, rep_in, rep_out)
    if problem["kind"] == "pendulum":
        times = pendulum.chunk_times(_sampling(problem))
        model = Trajectories(HNN(model), times, step=_MODEL_STEP)
    return model.to(config["device"], getattr(torch, config["dtype"]))


def representations(kind: str, group: str) -> tuple[Rep, Rep]:
    """Of the network's input and output: 5 scalars and 5 vectors to a matrix, or 4 vectors to an energy."""
    if group not in GROUPS:
        raise SofteqValueError(f"group: expected one of {', '.join(GROUPS)}, got {group!r}")
    if kind == "inertia":
        rep_in, rep_out = inertia.BODIES * Scalar + inertia.BODIES * Vector, T(2)
    elif kind == "pendulum":
        rep_in, rep_out = 4 * Vector, Scalar
    else:
        raise SofteqValueError(f"kind: expected inertia or pendulum, got {kind!r}")
    bound = GROUPS[group]()
    return rep_in(bound), rep_out(bound)


@functools.cache
def mlp_channels_matching_soft(kind: str, group: str, channels: int, layers: int) -> int:
    """The width of the `MLP` whose parameters come closest in number to those of the soft network of these sizes."""
    rep_in, rep_out = representations(kind, group)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        soft = SoftEMLP(rep_in, rep_out, channels=channels, layers=layers)
    parameters = sum(p.numel() for p in soft.parameters() if p.requires_grad)
    return matched_channels(rep_in.size, rep_out.size, layers=layers, parameters=parameters)


def _network(network: dict[str, Any], rep_in: Rep, rep_out: Rep) -> nn.Module:
    kind = network.pop("kind")
    if kind == "mlp":
        return MLP(rep_in.size, rep_out.size, **network)
    if kind == "emlp":
        return SoftEMLP(rep_in, rep_out, **network)
    raise SofteqValueError(f"network kind: expected mlp or emlp, got {kind!r}")


# The variants of one seed follow each other and share its data; nobody writes into it.
@functools.lru_cache(maxsize=2)
def _data(problem_items: tuple[tuple[str, Any], ...], seed: int) -> Regression:
    problem = dict(problem_items)
    sizes = problem["sizes"]
    if problem["kind"] == "inertia":
        return inertia.inertia_data(seed, modified=problem["modified"], sizes=sizes, dtype=torch.float64)
    return pendulum.pendulum_data(
        seed, wind=problem["wind"], sizes=sizes, sampling=_sampling(problem), dtype=torch.float64
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _sampling(problem: dict[str, Any]) -> pendulum.Sampling:
    return pendulum.Sampling(systems=problem["systems"], duration=problem["duration"], rtol=problem["rtol"])


def _truth(problem: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    if problem["kind"] == "inertia":
        return inertia.modified_moment_of_inertia if problem["modified"] else inertia.moment_of_inertia
    wind, times = tuple(problem["wind"]), pendulum.chunk_times(_sampling(problem))

    def motion(z: Tensor) -> Tensor:
        return integrate(lambda state: pendulum.velocity(state, wind), z, times, step=_TRUTH_STEP).transpose(0, 1)

    return motion
