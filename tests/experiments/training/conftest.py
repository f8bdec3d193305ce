"""A linear regression as a task that remembers which samples it was asked for."""

import pytest
import torch
from torch.nn.functional import mse_loss

from softeq.experiments.training.task import Task, evaluated


class Line(Task):
    headline = "test_mse"
    keys = ("test_mse", "extra")

    def __init__(self, samples=40, seed=0, dtype=torch.float64, size=3):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(samples, size, generator=generator, dtype=dtype)
        self.y = self.x @ torch.ones(size, 1, dtype=dtype)
        self.seen, self.asked = [], []

    @property
    def samples(self):
        return len(self.x)

    def loss(self, model, rows, motion):
        self.seen.append(rows.tolist())
        x = self.x[rows]
        if motion is not None:
            x = x + torch.randn(x.shape, generator=motion, dtype=x.dtype)
        output = model(x)
        return mse_loss(output, self.y[rows]), output

    def validation_error(self, model):
        self.asked.append("validation")
        return mse_loss(evaluated(model, self.x), self.y).item()

    def test(self, model):
        self.asked.append("test")
        return 100 + mse_loss(evaluated(model, self.x), self.y).item()

    def measure(self, model):
        return {"test_mse": self.test(model), "extra": 1.0}


@pytest.fixture
def line():
    """The toy task's class."""
    return Line
