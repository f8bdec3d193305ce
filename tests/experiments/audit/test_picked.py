"""One of several outputs, how many classes it has, and how it moves."""

from collections import namedtuple
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.experiments.audit.picked import Picked, as_logits, counted, declared, innermost
from softeq.experiments.audit.settings import Settings
from softeq.measure import Invariant
from softeq.measure.loading.model import Model

X = torch.rand(2, 3, 4, 4)
Pair = namedtuple("Pair", "logits map")


@dataclass
class Output:
    logits: torch.Tensor
    parts: tuple


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def model(make, **attributes):
    module = Gives(make)
    for name, value in attributes.items():
        setattr(module, name, value)
    half = (0.5, 0.5, 0.5)
    return Model("net", module, (4, 4), half, half, "bicubic", None, None, "")


def pooled(x):
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("make", "entry"),
    [
        (lambda x: {"out.0": pooled(x)}, "out.0"),
        (lambda x: {"out": [x, pooled(x)]}, "out.1"),
        (lambda x: {7: pooled(x)}, "7"),
        (lambda x: Pair(pooled(x), x), "logits"),
        (lambda x: (x, pooled(x)), "-1"),
        (lambda x: Output(x, (x, {"logits": pooled(x)})), "parts.1.logits"),
    ],
)
def test_an_entry_is_found(make, entry):
    torch.testing.assert_close(Picked(Gives(make), entry)(X), pooled(X))


@pytest.mark.parametrize(
    ("make", "entry", "words"),
    [
        (lambda x: x, "0", "no '0' in a tensor of shape"),
        (lambda x: Pair(x, x), "depth", r"no 'depth' in a Pair of 2 \(logits, map\)"),
        (lambda x: Output(x, ()), "aux", "in a Output with logits, parts"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(make, entry, words):
    with pytest.raises(SofteqValueError, match=words):
        Picked(Gives(make), entry)(X)


def test_classes_are_counted_where_nothing_is_said_of_them():
    settings = Settings()
    assert counted(model(pooled), settings).classes == 3
    several = model(lambda x: {"a": pooled(x)})
    assert counted(several, settings).classes is None
    assert counted(replace(several, module=Picked(several.module, "a")), settings).classes == 3
    headless = model(lambda x: {"a": pooled(x)}, num_classes=0)
    assert counted(replace(headless, module=Picked(headless.module, "a")), settings).classes is None
    for make in (lambda x: x, lambda x: pooled(x)[:, :1], lambda x: x / x.missing):
        assert counted(model(make), settings).classes is None
    for output in ("vector", "map"):
        assert counted(model(pooled), replace(settings, output=output)).choices == ()


def test_outputs_that_are_probabilities_already_are_not_taken_for_logits():
    p = torch.rand(1, 1000, generator=torch.Generator().manual_seed(0)).log_softmax(1).exp()
    own = replace(model(lambda x: p.expand(len(x), -1)), name="nets:own")
    found = as_logits(own, Settings(), X[:1])
    torch.testing.assert_close(found.module(X).softmax(1), p.expand(2, -1))
    assert found.choices[-1].startswith("outputs: taken as probabilities")
    assert innermost(Picked(found.module, "a")) == (own.module, "network.network.")
    for change in (lambda p: p.log(), lambda p: p - 1e-2 + 1e-2 * 1001 / 1000, lambda p: 1.01 * p):
        other = replace(own, module=Gives(lambda x, change=change: change(p.expand(len(x), -1))))
        assert as_logits(other, Settings(), X[:1]) is other
    assert as_logits(own, Settings(output="vector"), X[:1]) is own
    certain = replace(own, module=Gives(lambda x: torch.eye(4, dtype=x.dtype)[:1]))
    torch.testing.assert_close(as_logits(certain, Settings(), X[:1]).module(X).softmax(1), torch.eye(4)[:1])


def test_a_shape_that_an_exported_program_does_not_take():
    def guarded(x):
        raise AssertionError("Guard failed: x.size()[0] == 2")

    with pytest.raises(
        SofteqValueError, match=r"takes no images of shape \(1, 3, 4, 4\) \(Guard failed.*dynamic_shapes"
    ):
        declared(model(guarded), Settings(), X)

    def wrong(x):
        raise AssertionError("the user's own")

    with pytest.raises(AssertionError, match="own"):
        declared(model(wrong), Settings(), X)
    assert isinstance(declared(model(pooled), Settings(output="vector"), X), Invariant)
