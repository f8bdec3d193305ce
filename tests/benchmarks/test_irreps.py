"""The irreps benchmark's arms compute what they claim, at a tiny size; nothing here is timed."""

import builtins

import pytest
import torch

pytest.importorskip("e3nn")

from benchmarks import irreps
from benchmarks.layers import batch

TINY = "3x0e + 2x1o + 1x2e"


def gradients(built, name, rows=5):
    """Output, penalty and the input's gradient after one step."""
    module, forward = built[name]
    x, grad = batch(rows, 14)
    irreps.training_step(module, forward, x, grad)()
    y, penalty = forward(x)
    return y.detach(), penalty.detach(), x.grad.clone()


def test_soft_has_the_plain_layers_weight_and_hard_is_e3nns_function():
    built = irreps.arms(TINY)
    plain, soft, hard, e3nn = (gradients(built, name) for name in (irreps.TWIN, "soft", "hard", irreps.E3NN))
    for first, second in ((plain, soft), (hard, e3nn)):
        torch.testing.assert_close(first[0], second[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(first[2], second[2], atol=1e-5, rtol=1e-5)
    assert 0 < float((hard[0] - plain[0]).norm() / plain[0].norm()) < 0.05
    assert all(float(result[1]) > 0 for result in (plain, soft, hard, e3nn))


def test_every_parameter_of_every_arm_is_trained():
    for name, (module, _) in (built := irreps.arms(TINY)).items():
        gradients(built, name)
        assert all(parameter.grad is not None for parameter in module.parameters()), name


def test_inference_arms():
    layers = irreps.inference_arms(TINY)
    x = batch(4, 14)[0].detach()
    outputs = {name: layer(x).detach() for name, layer in layers.items()}
    assert type(layers["folded"]) is torch.nn.Linear
    for name in ("folded", "not folded"):
        torch.testing.assert_close(outputs[name], outputs[irreps.PLAIN], atol=1e-6, rtol=1e-6)
    assert (outputs[irreps.E3NN] - outputs[irreps.PLAIN]).abs().max() > 1e-5


def test_run_gives_a_row_per_arm_with_ratios_to_both_twins():
    said = []
    report = irreps.run(quick=True, irreps=TINY, rows=4, blocks=2, block_seconds=0.0, say=said.append)
    trained = {row.arm: row for row in report.rows if "training" in row.case}
    assert list(trained) == list(irreps.arms(TINY))
    assert {row.arm for row in report.rows if "inference" in row.case} == set(irreps.inference_arms(TINY))
    assert trained[irreps.TWIN].ratio is None
    assert trained["soft"].twin == irreps.TWIN
    assert trained[irreps.E3NN].more["over_e3nn_median"] == 1
    assert all(row.more["over_e3nn_median"] > 0 for row in report.rows)
    assert report.tables[0].row_count == len(report.rows)
    assert said == ["irreps: eager, threads: 1"]


def test_without_e3nn_one_line_says_so(monkeypatch):
    original = builtins.__import__

    def missing(name, *rest, **options):
        if name.split(".")[0] == "e3nn":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RuntimeError, match=r"the twin needs e3nn: pip install 'softeq\[e3nn\]'"):
        irreps.run(quick=True, irreps=TINY, rows=4, blocks=1, block_seconds=0.0)
