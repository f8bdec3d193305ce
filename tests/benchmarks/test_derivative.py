"""The derivative benchmark on a small model: its arms compute what they say, and the tables are whole."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import derivative
from benchmarks.derivative_arms import CHUNKED, FORWARD, NINE, PUBLISHED, arm, prepared
from softeq.measure import FLOWS, lie_derivative


@pytest.fixture(scope="module")
def small():
    return prepared("resnet10t", 1)


def test_the_arms_compute_what_they_say(small):
    model, x = small
    assert arm(FORWARD, model, x)().shape == (1, 1000)
    nine, chunked = arm(NINE, model, x)(), arm(CHUNKED, model, x)()
    torch.testing.assert_close(nine.derivatives, chunked.derivatives, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="arm"):
        arm("all", model, x)


def test_the_published_way_turns_the_image(small):
    # Smooth images: there the published kink and the reference stencil differ little from each other.
    model, _ = small
    line = torch.linspace(0, 3, 224)
    x = (line.sin()[:, None] + line.cos()[None]).expand(1, 3, 224, 224).contiguous()
    theirs = arm(PUBLISHED, model, x)()
    ours = lie_derivative(model, x, FLOWS["rotation"], stencil="reference")
    cosine = torch.nn.functional.cosine_similarity(theirs.flatten(), ours.flatten(), dim=0)
    assert abs(float(cosine)) > 0.9


def test_where_torch_cannot_compute_the_published_way_the_rest_is_measured(monkeypatch):
    made = derivative.arm

    def without(kind, model, x):
        if kind != PUBLISHED:
            return made(kind, model, x)

        def refused():
            raise RuntimeError("derivative for aten::grid_sampler_2d_backward is not implemented")

        return refused

    monkeypatch.setattr(derivative, "arm", without)
    kinds, remarks = derivative._kinds("resnet10t", "cpu")
    assert kinds == (FORWARD, NINE, CHUNKED)
    assert "grid_sampler_2d_backward" in remarks[0]


@pytest.mark.slow
def test_quick_run(monkeypatch):
    monkeypatch.setattr(derivative, "MODELS", ("resnet10t",))
    report = derivative.run(quick=True, blocks=1, block_seconds=0.01)
    assert [row.arm for row in report.rows] == [FORWARD, NINE, CHUNKED, PUBLISHED]
    assert report.rows[0].ratio is None
    assert all(row.ratio.median > 1 for row in report.rows[1:])


@pytest.mark.slow
def test_a_worker_reports_its_peak():
    command = [sys.executable, "-m", "benchmarks.derivative_worker", "resnet10t", NINE, "2", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["memory_mib"] > 1
