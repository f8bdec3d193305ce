"""check_layer passes a layer of a user's and fails on each of its promises that a layer breaks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softeq import SofteqTypeError, SofteqValueError, SoftLinear, SoftPathways, Vector
from softeq._layer_situations import CHECKS
from softeq.groups import O, Z
from softeq.pathways import RESIDUAL, RESIDUAL_START, MergedLayer, Weights, pathways_of, plain_linear
from softeq.testing import check_layer

SHIFTS = Vector(Z(6))


class SoftCirculant(MergedLayer):
    """Cyclic convolutions of a signal, as a user writes it: the layer of docs/how-to/layer.md."""

    def __init__(self, size=6, constraint="soft"):
        super().__init__()
        self.constraint = constraint
        for name in pathways_of(constraint):
            factor = RESIDUAL_START if name == RESIDUAL and constraint == "soft" else 1.0
            self.pathways[name] = Weights(torch.randn(size, size) * factor / size**0.5, None)

    def nearest(self, weight):
        first_row = torch.stack([row.roll(-i) for i, row in enumerate(weight)]).mean(0)
        return torch.stack([first_row.roll(i) for i in range(len(weight))])

    def forward(self, x):
        return F.linear(x, *self.merged_for(x))

    def folded(self):
        return plain_linear(self.weight, self.bias).train(self.training)


class ParameterOutside(SoftCirculant):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))


class SharedParameter(SoftCirculant):
    def __init__(self):
        super().__init__()
        self.pathways["residual"].weight = self.pathways["equivariant"].weight


class ShrinkingProjector(SoftCirculant):
    def nearest(self, weight):
        return 0.9 * super().nearest(weight)


class ObliqueProjector(SoftCirculant):
    def nearest(self, weight):  # onto the circulants, along the wrong complement
        return torch.stack([weight[0].roll(i) for i in range(len(weight))])


class OtherFold(SoftCirculant):
    def folded(self):
        return plain_linear(self.pathways["equivariant"].weight, None)


class AliasingFold(SoftCirculant):
    def __init__(self):
        super().__init__(constraint="none")

    def folded(self):
        plain = nn.Linear(6, 6, bias=False)
        plain.weight = self.pathways["residual"].weight
        return plain


class HardensToItself(SoftCirculant):
    def hardened(self):
        return self


class KeepsTheResidual(SoftCirculant):
    def hardened(self):
        hard = type(self)()
        hard.load_state_dict(self.state_dict())
        hard.constraint = "hard"
        return hard


class HardensFromNothing(SoftCirculant):
    def __init__(self):
        super().__init__(constraint="none")

    def hardened(self):
        return SoftCirculant(constraint="hard")


class ForgetsWhatItSaw(SoftCirculant):
    def penalty(self, precisions, seen):
        return super().penalty(precisions, set(seen))


class WholeSquares(SoftCirculant):
    def penalty(self, precisions, seen):
        return 2 * super().penalty(precisions, seen)


class DefectWithoutNaN(SoftCirculant):
    def weight_defect(self):
        return min(1.0, super().weight_defect())


class DefectOfTheResidual(SoftCirculant):
    def weight_defect(self):
        return 0.1


class UnusedParameter(SoftCirculant):
    def expand(self, part, own, base):
        return super().expand(part, own.detach(), base)


class NarrowOutput(SoftCirculant):
    def forward(self, x):
        return super().forward(x).float()


class NarrowWeight(SoftCirculant):
    def forward(self, x):
        weight, _ = self.merged_for(x)
        return F.linear(x, weight.bfloat16().to(weight.dtype))


class NoAutocast(SoftCirculant):
    def forward(self, x):
        if torch.is_autocast_enabled(x.device.type):
            raise RuntimeError("dtypes do not agree")
        return super().forward(x)


class UncheckedInput(SoftCirculant):
    def forward(self, x):
        return F.linear(x, self.weight)


class OtherSymmetry(SoftCirculant):
    def nearest(self, weight):
        return (weight + weight.T) / 2


class BiasedOutput(SoftCirculant):
    def forward(self, x):
        return super().forward(x) + torch.arange(6.0).to(x)

    def folded(self):
        return plain_linear(self.weight, torch.arange(6.0))


class WithTable(SoftCirculant):
    """What layers were before: an index table as a buffer."""

    persistent = False

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(6), persistent=self.persistent)

    def forward(self, x):
        return super().forward(x).index_select(-1, self.table % 6)


class WithSavedTable(WithTable):
    persistent = True


class WithFloatTable(SoftCirculant):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(6), persistent=False)
        self.calls = 0

    def forward(self, x):
        return super().forward(x) * self.factor

    def _apply(self, fn, recurse=True):
        return super()._apply(fn, recurse)


class HoldsAClosure(SoftCirculant):
    def __init__(self):
        super().__init__()
        self.sampler = lambda: None


class HoldsItsWeight(SoftCirculant):
    def __init__(self):
        super().__init__()
        self.kept = [self.pathways["residual"].weight]

    def forward(self, x):
        return super().forward(x) + F.linear(x, self.kept[0])


class BreaksTheGraph(SoftCirculant):
    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


class DependsOnData(SoftCirculant):
    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class FunctionOfItsOwn(SoftCirculant):
    def forward(self, x):
        return Own.apply(super().forward(x))


class FlattenedByView(SoftCirculant):
    """On images, each row a signal."""

    def forward(self, x):
        return super().forward(x.view(-1, 6)).view(x.shape)


BROKEN = {
    "partition": [ParameterOutside, SharedParameter],
    "merged": [ShrinkingProjector, ObliqueProjector],
    "fold": [OtherFold, AliasingFold],
    "harden": [HardensToItself, KeepsTheResidual, HardensFromNothing],
    "penalty": [ForgetsWhatItSaw, WholeSquares],
    "defect": [DefectWithoutNaN, DefectOfTheResidual],
    "gradients": [UnusedParameter],
    "double": [NarrowOutput, NarrowWeight],
    "autocast": [NoAutocast],
    "dtypes": [UncheckedInput],
    "equivariance": [OtherSymmetry, BiasedOutput],
    "state": [WithSavedTable],
    "meta": [WithTable, WithFloatTable],
    "pickle": [HoldsAClosure],
    "averages": [WithTable],
    "functional": [HoldsItsWeight],
    "compile": [BreaksTheGraph, DependsOnData],
    "export": [DependsOnData],
    "trace": [FunctionOfItsOwn],
    "channels_last": [FlattenedByView],
}
IMAGES = (2, 6, 6, 6)


def example(check):
    return torch.randn(IMAGES if check == "channels_last" else (4, 6))


@pytest.mark.parametrize("constraint", ["soft", "hard", "none"])
@pytest.mark.parametrize("check", [name for name in CHECKS if name != "pickle"])
def test_a_users_layer_passes(check, constraint):
    layer = SoftCirculant(constraint=constraint)
    spaces = (SHIFTS, SHIFTS)
    assert check_layer(layer, example(check), only=[check], spaces=spaces)[check] == "passed" or constraint != "soft"


def test_every_check_has_a_layer_that_fails_it():
    assert set(BROKEN) == set(CHECKS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("check", "broken"), [(check, layer) for check, layers in BROKEN.items() for layer in layers])
def test_a_broken_promise_is_found(check, broken):
    layer = broken()
    with pytest.raises(AssertionError, match=f"^{check}: "):
        check_layer(layer, example(check), only=[check], spaces=(SHIFTS, SHIFTS))


def test_what_does_not_apply_is_said():
    found = check_layer(SoftPathways(equivariant=nn.Linear(3, 3), residual=nn.Linear(3, 3)), torch.randn(2, 3))
    assert found["equivariance"] == "how the group acts is not known: give spaces"
    assert found["merged"] == "the layer has no merged weight"
    assert found["fold"] == "passed"


REFUSED = {
    "no layer": (nn.Linear(3, 3), torch.randn(2, 3), {}, SofteqTypeError, "layer: expected a SoftLayer"),
    "no tensor": (SoftCirculant(), [1.0], {}, SofteqTypeError, "example: expected a tensor"),
    "nothing": (SoftCirculant(), (), {}, SofteqTypeError, "example: expected a tensor"),
    "unknown": (SoftCirculant(), torch.randn(2, 6), {"only": ["speed"]}, SofteqValueError, "expected names among"),
    "unknown to skip": (SoftCirculant(), torch.randn(2, 6), {"skip": ["speed"]}, SofteqValueError, "expected names"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case):
    layer, x, options, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        check_layer(layer, x, **options)


def test_the_layer_is_left_as_it_was():
    layer = SoftLinear(Vector(O(3)), Vector(O(3))).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    check_layer(layer, torch.randn(2, 3), skip=["compile", "export"])
    assert layer.training
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
