"""Hooks that watch every call: none stays, none is forgotten; what cannot be attributed is listed with reasons."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softeq.measure.errors import NotMeasurable
from softeq.measure.forward.trace import CallTrace
from softeq.measure.layerwise import layerwise
from softeq.measure.motion.actions import Invariant
from softeq.measure.motion.flows import FLOWS

PERIODIC = {"boundary": "periodic", "stencil": "fourier"}


def images(b=3, c=3, h=16, w=16, dtype=torch.float64, seed=0):
    return torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def circular(channels_in, channels_out):
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode="circular", dtype=torch.float64)


class Residual(nn.Module):
    """Functional operations between modules: an in-place addition, F.relu, a flattening."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(inplace=True))
        self.head = nn.Linear(4 * 8 * 8, 5)
        self.double()

    def forward(self, x):
        x = self.act(self.stem(x))
        y = self.inner(x)
        y += x
        return self.head(F.relu(y).flatten(1))


class Mask(nn.Module):
    """Looks at one place more than at another: the fault to find."""

    def __init__(self, width, strength=0.3):
        super().__init__()
        self.register_buffer("weight", 1 + strength * torch.rand(width, width, dtype=torch.float64))

    def forward(self, x):
        return x * self.weight


class Power(nn.Module):
    """By Parseval, invariant to shifts of what it is given."""

    def forward(self, x):
        return x.square().mean((-1, -2))


def assert_complete(result, gap=1e-8):
    for flow in result.flows:
        assert sum(result.shares(flow).values()) == pytest.approx(1, abs=gap)
        assert result.gap(flow) < gap


def test_a_module_called_several_times_is_summed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask, self.conv, self.power = Mask(15), circular(3, 3), Power()

        def forward(self, x):
            return self.power(self.conv(self.mask(self.conv(self.mask(x)))))

    model = Twice()
    result = layerwise(model, images(h=15, w=15), "translation_y", output="logits", **PERIODIC)
    assert_complete(result)
    assert result.names == ("mask", "conv", "power", "")
    assert result.shares()["mask"] == pytest.approx(1, abs=1e-9)
    # the control: counting one call of the two would not do
    calls = nn.Sequential(Mask(15), model.conv, model.mask, model.conv, model.power)
    calls[0].weight = model.mask.weight
    parts = layerwise(calls, images(h=15, w=15), "translation_y", output="logits", **PERIODIC).shares()
    assert parts["0"] + parts["2"] == pytest.approx(1, abs=1e-9)
    assert min(abs(parts["0"]), abs(parts["2"])) > 1e-3


def test_tuples_unknown_shapes_and_other_batches_are_listed_and_counted_in_what_is_around_them():
    class Pair(nn.Module):
        def forward(self, x):
            return x, 2 * x

    class Windows(nn.Module):
        def forward(self, x):
            return x.unfold(2, 8, 8).unfold(3, 8, 8).movedim(1, 3).flatten(0, 2)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.mask, self.windows, self.volume = Pair(), Mask(16), Windows(), nn.Unflatten(1, (3, 1))

        def forward(self, x):
            a, b = self.pair(x)
            w = self.windows(self.mask(a + b))
            return self.volume(w.unflatten(0, (len(x), 4)).mean(1)).square().mean((2, 3, 4))

    result = layerwise(Odd(), images(), "rotation", output="logits")
    assert_complete(result)
    reasons = dict(result.not_attributable)
    assert "tuple" in reasons["pair"]
    assert "batch" in reasons["windows"]
    assert "declare" in reasons["volume"]
    assert result.names == ("mask", "")
    assert "not attributable" in str(result)


def test_activations_in_place_are_switched_off_and_back_on():
    model = Residual().train()
    layerwise(model, images(), "scale")
    assert model.act.inplace
    assert model.inner[2].inplace
    assert model.training
    assert model.inner[1].training
    assert all(p.requires_grad for p in model.parameters())


class Keeps(Mask):
    """Holds on to what it returned."""

    def forward(self, x):
        self.kept = super().forward(x)
        return self.kept


@pytest.mark.parametrize("kept", [False, True])
def test_tensors_overwritten_behind_a_module(kept):
    """The one that goes on is a copy; where both are one to the model, the parts miss the sum, and are refused."""

    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Keeps(16), Mask(16)

        def forward(self, x):
            y = self.first(x)
            z = self.second(y)
            (self.first.kept if kept else y).mul_(0.5)  # after `second` took it
            return (y + z).square().mean((-1, -2))

    if kept:
        with pytest.raises(NotMeasurable, match="miss"):
            layerwise(Overwriting(), images(), "rotation", output="logits")
        return
    result = layerwise(Overwriting(), images(), "rotation", output="logits")
    assert_complete(result)
    assert not result.not_attributable
    assert result.names == ("first", "second", "")


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks)]


def test_hooks_are_gone_afterwards_also_after_an_error():
    model = Residual().eval()
    layerwise(model, images(), "scale")
    assert not hooks(model)

    model.inner.append(Breaking())
    with pytest.raises(ZeroDivisionError):
        layerwise(model, images(), "scale")
    assert not hooks(model)
    with CallTrace(model, images(), [FLOWS["scale"]]):
        assert hooks(model)  # the control: there are some inside
    assert not hooks(model)


class Breaking(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError


def test_own_hooks_of_the_model_still_run_and_stay():
    model, seen = Residual().eval(), []
    model.act.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    layerwise(model, images(), "scale")
    assert seen
    assert len(hooks(model)) == 1


def test_attention_weights_are_not_taken_for_a_image():
    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Softmax(-1)

        def forward(self, tokens):
            heads = tokens.unflatten(2, (2, 4)).movedim(2, 1)
            return (self.inner(heads @ heads.mT) @ heads).movedim(1, 2).flatten(2)

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attention = nn.Conv2d(3, 8, 4, stride=4, dtype=torch.float64), Weights()

        def forward(self, x):
            return self.attention(self.patch(x).flatten(2).mT).square().mean(1)

    result = layerwise(Tiny(), images(), "rotation", output="logits", prefix=0)
    assert_complete(result)
    assert "layer of tokens" in dict(result.not_attributable)["attention.inner"]
    assert result.names == ("patch", "attention", "")
    declared = {"attention.inner": (Invariant(), Invariant())}
    assert "attention.inner" in layerwise(Tiny(), images(), "rotation", prefix=0, actions=declared).names


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_that_lets_no_backward_pass_be_taken_is_refused(mode):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())

        def forward(self, x):
            with mode():
                return self.inner(x)

    with pytest.raises(NotMeasurable, match=r"computes in torch\.no_grad or torch\.inference_mode"):
        layerwise(Frozen(), torch.rand(2, 3, 6, 6), "translation_x", output="logits")
