"""A soft layer as a user would write it, and for each promise that check_layer holds layers to some that break it."""

import torch
from torch import nn
from torch.nn import functional as F

from softeq import Vector
from softeq.groups import Z
from softeq.pathways import RESIDUAL, RESIDUAL_START, MergedLayer, Weights, pathways_of, plain_linear

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


class ReadsWhatAHookLeft(SoftCirculant):
    def _merged_part(self, part):
        if part == "bias":
            return None
        return self.nearest(self.pathways["equivariant"].weight) + self.pathways["residual"].weight


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
    "hooks": [ReadsWhatAHookLeft],
}
