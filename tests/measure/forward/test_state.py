import copy
import random
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from softeq.measure import (
    NotMeasurable,
    equivariance_error,
    finite_step_curve,
    flip_horizontal,
    layerwise,
    lie_derivative,
    local_equivariance_error,
)
from softeq.measure.forward.dual import Dual
from softeq.measure.forward.state import Kept, held_by, unchanged


class Notes:
    """An object of the user's own, held by a module."""

    def __init__(self):
        self.last, self.seen = None, []


class Restless(nn.Module):
    """Does in its forward pass everything that networks do to themselves."""

    def __init__(self, fails=False):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.register_buffer("level", torch.zeros(4))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("nothing", None)
        self.calls, self.history, self.cache, self.queue, self.names = 0, [], {}, deque([1], maxlen=3), {"a"}
        self.notes, self.array, self.plain = Notes(), np.zeros(3), torch.ones(2)
        self.nested = {"deep": [[0], {"er": (1, [2])}]}
        self.fails = fails

    def forward(self, x):
        y = self.norm(self.conv(x)).mean((2, 3))
        self.level = 0.9 * self.level + 0.1 * y.detach()[0]  # assigned: becomes whatever y is
        self.count += 1  # in place
        self.nothing = y[0]
        self.calls += 1
        self.last = y
        self.history.append(y)
        self.cache[self.calls] = y
        self.queue.append(y)
        self.names.add(self.calls)
        self.notes.last = y
        self.notes.seen.append(y)
        self.array[0] += 1
        self.plain.mul_(1.5)
        self.nested["deep"][1]["er"][1].append(y)
        self.conv.weight.data.mul_(1.1)
        self.head.weight.data = self.head.weight.data * 2
        del self.head.bias.some
        self.register_forward_hook(lambda *_: None)
        if self.fails:
            raise KeyError("in the middle")
        return self.head(y)


def network(fails=False):
    torch.manual_seed(0)
    model = Restless(fails)
    model.train()
    model.norm.eval()
    model.conv.bias.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    model.register_forward_pre_hook(lambda *_: None)
    return model


def freed(model):
    """Without the attribute whose deletion a second pass would trip over."""
    model.forward = partial(_forward, model)
    return model


def _forward(model, x):
    model.head.bias.some = 1
    return Restless.forward(model, x)


def snapshot(value):
    """Everything that a network holds, as comparable values; tensors by type, identity of memory, and numbers."""
    if isinstance(value, nn.Module):
        return {name: snapshot(held) for name, held in value.__dict__.items() if name != "forward"}
    if isinstance(value, dict):
        return [(str(key), snapshot(held)) for key, held in value.items()]
    if isinstance(value, list | tuple | deque | set):
        return [snapshot(held) for held in value]
    if isinstance(value, Notes):
        return snapshot(value.__dict__)
    if isinstance(value, torch.Tensor):
        kept = (type(value).__name__, value.data_ptr(), value.requires_grad, value.tolist())
        return (*kept, None if value.grad is None else value.grad.tolist())
    return value.tolist() if isinstance(value, np.ndarray) else repr(value)


def chance():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
MEASURES = {
    "lie_derivative": lambda f: lie_derivative(f, X, "rotation"),
    "lee": lambda f: local_equivariance_error(f, X, output="logits"),
    "lee in batches": lambda f: local_equivariance_error(f, X, ["rotation"], output="logits", batch_size=1),
    "layerwise": lambda f: layerwise(f, X, "rotation", output="logits"),
    "flip": lambda f: equivariance_error(f, X, flip_horizontal()),
    "steps": lambda f: finite_step_curve(f, X, "rotation", steps=[0.1, 0.01]),
}


@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("name", MEASURES)
def test_the_model_is_left_exactly_as_it_was(name, wrapped, fails):
    if wrapped and name == "layerwise":
        pytest.skip("takes modules alone")
    model = freed(network(fails))
    if wrapped:
        model.eval()
    before, drawn = snapshot(model), chance()
    try:
        MEASURES[name]((lambda x: model(x) * 2) if wrapped else model)
        assert not fails
    except NotMeasurable:
        assert not fails  # level couples the batch, weights are written into: refusing is right too
    except KeyError:
        assert fails
    assert snapshot(model) == before
    assert chance() == drawn


def test_it_trains_afterwards_as_if_nothing_had_been():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
            self.register_buffer("level", torch.zeros(4))

        def forward(self, x):
            y = self.conv(x).mean((2, 3))
            self.level = 0.9 * self.level + 0.1 * y.mean(0)
            return self.head(y - self.level)

    torch.manual_seed(0)
    model = Average()
    twin = copy.deepcopy(model)
    lie_derivative(model, X, "rotation")
    for m in (model, twin):
        m(X).sum().backward()
    assert type(model.level) is torch.Tensor
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_random_numbers_are_noticed_and_put_back():
    class Draws(nn.Module):
        def __init__(self, draw):
            super().__init__()
            self.draw, self.source, self.numpy = draw, torch.Generator(), np.random.default_rng(0)

        def forward(self, x):
            return x.flatten(1) * self.draw(self)

    for draw in (
        lambda m: torch.rand(1),
        lambda m: float(np.random.rand()),
        lambda m: random.random(),
        lambda m: torch.rand(1, generator=m.source),
        lambda m: float(m.numpy.random()),
    ):
        model, before = Draws(draw), chance()
        states = model.source.get_state().tolist(), model.numpy.bit_generator.state
        with pytest.raises(NotMeasurable, match="draws random numbers"):
            lie_derivative(model, X, "rotation")
        assert chance() == before
        assert (model.source.get_state().tolist(), model.numpy.bit_generator.state) == states


def test_each_pass_starts_from_the_same_state():
    class Drifts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("gain", torch.ones(()))

        def forward(self, x):
            self.gain = self.gain * 2
            return self.gain * x.flatten(1)

    model = Drifts()
    whole = local_equivariance_error(model, X, ["rotation"], output="logits", control=False)
    apart = local_equivariance_error(model, X, ["rotation"], output="logits", control=False, batch_size=1)
    torch.testing.assert_close(whole.per_sample(), apart.per_sample())


def test_what_a_function_refers_to_is_found():
    inner, other = nn.Linear(2, 2), nn.Linear(2, 2)

    def calls(x):
        return inner(x)

    def outer(x):
        return outer if x is None else calls(x)

    class Holds:
        def __init__(self):
            self.net = other

        def __call__(self, x):
            return self.net(x)

    assert held_by(inner) == [inner]
    assert held_by(calls) == held_by(outer) == [inner]
    assert held_by(partial(calls, model=other)) == [other, inner]
    assert held_by(inner.forward) == [inner]
    assert held_by(Holds()) == [other]
    assert held_by(torch.sin) == []


def test_nothing_of_the_measurement_stays_in_a_function_s_module():
    class Keeps(nn.Module):
        def forward(self, x):
            self.last = x
            return x.flatten(1)

    model = Keeps()
    lie_derivative(lambda x: model(x), X, "rotation")
    assert not hasattr(model, "last")
    assert not isinstance(getattr(model, "last", None), Dual)


def test_tensors_that_a_function_writes_into_are_put_back():
    store = torch.zeros(3, 3, 8, 8)
    found = lie_derivative(lambda x: store.copy_(x) * x, X, "rotation")
    torch.testing.assert_close(found, lie_derivative(lambda x: x * x, X, "rotation"))
    assert store.is_leaf
    assert not store.requires_grad
    assert torch.equal(store, torch.zeros_like(store))


def test_a_scripted_module_too():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("level", torch.zeros(3))
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            self.level = self.level + x.mean((0, 2, 3))
            return self.linear(x.mean((2, 3)) - self.level)

    model = torch.jit.script(Counts())
    level = model.level
    lie_derivative(model, X, "rotation")
    assert model.level is level
    assert torch.equal(level, torch.zeros(3))
    assert model.training


def test_lazy_modules_are_refused_with_the_reason():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(NotMeasurable, match="lazy"):
        lie_derivative(model, X, "rotation")


def test_control_without_the_guard_things_change():
    model = freed(network())
    before = snapshot(model)
    model(X)
    assert snapshot(model) != before
    kept = Kept([model])
    model(X)
    assert kept.drew() is False
    torch.rand(1)
    assert kept.drew() is True
    with unchanged(model):
        pass
