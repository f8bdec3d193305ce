"""The split over modules: it sums to one, finds a planted fault, clears equivariant layers and leaves no hook."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.layerwise import layerwise
from softeq.measure.lie_derivative import lie_derivative
from softeq.measure.motion.actions import ImageMap, Invariant, Pick
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


def planted(width=15):
    return nn.Sequential(circular(3, 4), circular(4, 4), Mask(width), circular(4, 4), Power()), images(w=15, h=15)


def assert_complete(result, gap=1e-8):
    for flow in result.flows:
        assert sum(result.shares(flow).values()) == pytest.approx(1, abs=gap)
        assert result.gap(flow) < gap


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_shares_sum_to_one_with_functional_operations_between_modules(output):
    result = layerwise(Residual().eval(), images(), ["translation_x", "rotation", "scale"], output=output)
    assert_complete(result)
    assert not result.not_attributable
    assert result.names == ("stem", "act", "inner", "inner.0", "inner.1", "inner.2", "head", "")
    shares = result.shares("rotation")
    assert abs(shares["inner"]) < 1e-12  # a plain chain has nothing between its modules
    assert abs(shares["inner.1"]) < 1e-12  # batch normalisation in evaluation is a map per channel
    assert abs(shares["head"]) < 1e-12  # it is given what already counts as invariant
    assert abs(shares[""]) > 1e-3  # the flattening, F.relu and the addition


def test_parts_are_the_layers_own_lie_derivatives_carried_to_the_output():
    model, x = Residual().eval(), images()
    result = layerwise(model, x, "rotation", output="logits")
    kept = {}

    def keep(module, args, out):
        kept[module] = args[0].detach().clone(), out
        return out.clone()  # what follows writes in place

    handles = [module.register_forward_hook(keep) for module in (model.stem, model.inner)]
    logits = model(x.clone().requires_grad_())
    for handle in handles:
        handle.remove()
    derivative = lie_derivative(model, x, "rotation")
    for name in ("stem", "inner"):
        entered, left = kept[model.get_submodule(name)]
        turn = FLOWS["rotation"]  # the same for square maps of any size
        own = lie_derivative(model.get_submodule(name), entered, turn, turn)
        gradient = torch.autograd.grad(logits, left, derivative, retain_graph=True)[0]
        expected = (gradient * own).flatten(1).sum(1)
        names = [n for n in result.names if n == name or n.startswith(f"{name}.")]
        found = sum(result.contributions[0, result.names.index(n)] for n in names)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_planted_fault_gets_the_whole_share_and_equivariant_layers_none():
    model, x = planted()
    result = layerwise(model, x, ["translation_x", "translation_y"], output=Invariant(), **PERIODIC)
    assert_complete(result)
    for flow in result.flows:
        shares = result.shares(flow)
        assert shares["2"] == pytest.approx(1, abs=1e-9)
        assert all(abs(share) < 1e-9 for name, share in shares.items() if name != "2")
        assert result.top(1, flow)[0][0] == "2"
    assert "Mask" in str(result)


def test_without_the_fault_there_is_nothing_to_split_but_rounding():
    model, x = planted()
    model[2].weight.fill_(1.0)
    with pytest.raises(NotMeasurable, match=r"parts miss \|\|L f\|\|\^2"):
        layerwise(model, x, "translation_x", output=Invariant(), **PERIODIC)


class Detached(nn.Module):
    """Its backward pass is not the derivative of its values."""

    def forward(self, x):
        return x.sin() * x.detach()


class Complex(nn.Module):
    """A network whose inner features and weights are complex."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, dtype=torch.complex128)
        self.head = nn.Linear(4, 3, dtype=torch.complex128)

    def forward(self, x):
        y = self.conv(x + 0j)
        return self.head((y * y.conj() + y.sin()).mean((2, 3))).abs()


def test_a_backward_pass_of_no_derivative_gives_no_shares():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Detached(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)).double()
    with pytest.raises(NotMeasurable, match=r"translation_x .*%.*detach"):
        layerwise(model, images(), "translation_x", output="logits")


def test_complex_features_keep_their_imaginary_part():
    torch.manual_seed(0)
    result = layerwise(Complex(), images(), ["translation_x", "rotation"], output="logits")
    assert max(result.gap("translation_x"), result.gap("rotation")) < 1e-12
    assert abs(result.shares("rotation")["head"]) > 1e-6 or abs(result.shares("rotation")["conv"]) > 1e-6


def test_a_model_without_any_error_is_refused():
    class Constant(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x):
            ones = torch.ones(len(x), 2, dtype=x.dtype)
            return ones if self.scale is None else ones + self.scale * x.mean((1, 2, 3))[:, None]

    for scale in (None, 0.0):
        with pytest.raises(NotMeasurable, match="exactly 0"):
            layerwise(Constant(scale), images(), "rotation", output="logits")
    assert_complete(layerwise(Constant(1.0), images(), "rotation", output="logits"))


def test_a_declared_action_makes_a_module_attributable_and_none_takes_it_out():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.fold, self.mask, self.power = nn.Unflatten(1, (3, 1)), Mask(15), Power()

        def forward(self, x):
            return self.power(self.mask(self.fold(x).squeeze(2)))

    x = images(h=15, w=15)
    inferred = layerwise(Split(), x, "translation_x", output="logits", **PERIODIC)
    assert [name for name, _ in inferred.not_attributable] == ["fold"]
    declared = {"mask": (ImageMap(), ImageMap())}
    result = layerwise(Split(), x, "translation_x", output="logits", actions=declared, **PERIODIC)
    assert result.shares()["mask"] == pytest.approx(1, abs=1e-9)
    without = layerwise(Split(), x, "translation_x", output="logits", actions={"mask": None}, **PERIODIC)
    assert ("mask", "declared not attributable") in without.not_attributable
    assert without.shares()[""] == pytest.approx(1, abs=1e-9)


def test_a_wrong_declaration_moves_the_blame_and_not_the_sum():
    model, x = planted()
    result = layerwise(model, x, "translation_x", output="logits", actions={"1": Invariant()}, **PERIODIC)
    assert_complete(result)
    assert abs(result.shares()["1"]) > 0.1


def test_tuples_of_outputs_by_pick():
    inner, x = planted()

    class Tupled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return None, self.inner(x)

    result = layerwise(Tupled(), x, "translation_x", output=Pick(1, Invariant()), **PERIODIC)
    assert result.shares()["inner.2"] == pytest.approx(1, abs=1e-9)


def test_map_outputs():
    model = nn.Sequential(circular(3, 3), Mask(15), circular(3, 2))
    result = layerwise(model, images(h=15, w=15), "translation_x", output=ImageMap(), **PERIODIC)
    assert_complete(result)
    assert result.shares()["1"] == pytest.approx(1, abs=1e-9)


def test_batches_change_nothing():
    model, x = Residual().eval(), images(5)
    whole, pieces = (layerwise(model, x, ["scale", "shear_x"], batch_size=size) for size in (None, 2))
    torch.testing.assert_close(pieces.contributions, whole.contributions)
    assert pieces.total.shape == (2, 5)


def test_several_flows_are_those_measured_alone():
    model, x = Residual().eval(), images()
    together = layerwise(model, x, FLOWS)
    alone = layerwise(model, x, "hyperbolic")
    assert together.flows == tuple(FLOWS)
    assert alone.shares() == pytest.approx(together.shares("hyperbolic"), rel=1e-6, abs=1e-9)


def test_result_as_json_and_as_text():
    result = layerwise(Residual().eval(), images(), ["scale", "shear_x"])
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert sum(record["shares"]["scale"].values()) == pytest.approx(1)
    assert sum(record["by_type"]["scale"].values()) == pytest.approx(1)
    assert set(record["by_type"]["scale"]) == {"Conv2d", "ReLU", "BatchNorm2d", "SiLU", "Linear", "functional"}
    assert record["modules"][2] == {"name": "inner", "type": "Sequential", "functional": True}
    assert (record["samples"], record["not_attributable"]) == (3, [])
    assert record["gap"]["shear_x"] < 1e-8
    text = result.table("scale", 3)
    assert text.count("\n") == 3
    assert "gap" in text
    assert "(the model)  Residual: functional operations" in str(result)


def test_bad_input_is_named():
    model, x = Residual().eval(), images()
    with pytest.raises(SofteqTypeError, match=r"nn\.Module"):
        layerwise(lambda z: z, x, "scale")
    with pytest.raises(SofteqValueError, match="'stam'"):
        layerwise(model, x, "scale", actions={"stam": ImageMap()})
    with pytest.raises(SofteqValueError, match="output"):
        layerwise(model, x, "scale", actions={"": ImageMap()})
    with pytest.raises(SofteqValueError, match="at least one sample"):
        layerwise(model, x[:0], "scale")
    with pytest.raises(SofteqValueError, match="scale, shear_x"):
        layerwise(model, x, ["scale", "shear_x"]).shares("rotation")


def test_intervals_over_images_hold_the_shares_and_shrink():
    torch.manual_seed(0)
    model = Residual()
    result = layerwise(model, images(12), ["rotation", "scale"], output="logits")
    shares, ends = result.shares("scale"), result.intervals("scale")
    for name, (low, high) in ends.items():
        assert low <= shares[name] <= high
    assert ends == result.intervals("scale")
    assert ends != result.intervals("scale", seed=1)
    wide = layerwise(model, images(3), "scale", output="logits").intervals(level=0.99)
    assert sum(h - low for low, h in wide.values()) > sum(h - low for low, h in ends.values())
    alone = layerwise(model, images(1), "scale", output="logits")
    assert all(low != low for low, _ in alone.intervals().values())
    record = json.loads(json.dumps(result.to_dict()))
    assert record["intervals"]["scale"]["stem"] == list(ends["stem"])
    assert "negative share" in record["how_to_read"]
    assert "[" in result.table("scale")
    with pytest.raises(SofteqValueError, match="level: expected"):
        result.intervals("scale", level=2)
    with pytest.raises(SofteqValueError, match="batch_size: expected"):
        layerwise(model, images(1), "scale", output="logits", batch_size=0)
