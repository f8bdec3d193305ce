"""Models for audits, by `toy_models:name`: small ones, and such as fail."""

import os
import time

import torch
from torch import nn


class _Toy(nn.Module):
    image_size = (12, 16)
    num_classes = 4

    def __init__(self, width=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, width, 3, padding=1)
            self.act = nn.GELU()
            self.head = nn.Linear(width, self.num_classes)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def cnn():
    return _Toy()


def wide():
    return _Toy(8)


class _Constant(_Toy):
    def forward(self, x):
        return super().forward(0 * x)


def constant():
    return _Constant()


class _NotANumber(_Toy):
    def forward(self, x):
        return super().forward(x) / 0 * 0


def not_a_number():
    return _NotANumber()


class _Broken(_Toy):
    def forward(self, x):
        raise RuntimeError("this model has <b>no</b> forward pass")


def broken():
    return _Broken()


class _Features(_Toy):
    """A timm model without a class head says so by 0 classes."""

    def __init__(self):
        super().__init__()
        self.num_classes = 0


def features():
    return _Features()


class _Hungry(_Toy):
    """Has memory for one image at a time."""

    sizes = []  # noqa: RUF012

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().forward(x)


def hungry():
    return _Hungry()


class _Slow(_Toy):
    def forward(self, x):
        time.sleep(float(os.environ.get("TOY_DELAY", "0")))
        return super().forward(x)


def slow():
    return _Slow()


def no_module():
    return "a text"


def leaves():
    raise SystemExit(3)


class _Leaves(_Toy):
    def forward(self, x):
        raise SystemExit(3)


def leaves_in_forward():
    return _Leaves()


class _Certain(_Toy):
    """Ends in its probabilities."""

    def forward(self, x):
        return super().forward(x).softmax(1)


def certain():
    return _Certain()


class _Silent(_Toy):
    """Says nothing of its classes."""

    num_classes = None

    def __init__(self):
        with torch.random.fork_rng():
            nn.Module.__init__(self)
            torch.manual_seed(0)
            self.net = _Toy()

    def forward(self, x):
        return self.net(x)


def silent():
    return _Silent()


def scripted():
    return torch.jit.script(_Toy().eval())


def exported():
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(_Toy().eval(), (torch.rand(2, 3, 12, 16),), dynamic_shapes=({0: batch},)).module()


class _Parts(_Toy):
    """Gives several things, as detectors and language models' vision parts do."""

    mean, std = (0.4, 0.5, 0.6), 0.25

    def forward(self, x):
        features = self.act(self.conv(x))
        return {"logits": self.head(features.mean((2, 3))), "aux": [features, features.flatten(2).mT]}


def parts():
    return _Parts()


class _Equivariant(nn.Module):
    """A map that moves along: a circular convolution; odd because the kernel must be on the grid."""

    image_size = (12, 16)
    mean = std = (0.5,)

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")

    def forward(self, x):
        return self.conv(x)


def dense():
    return _Equivariant()
