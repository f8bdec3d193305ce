"""The layer benchmark's arms compute what they claim, at a tiny width; nothing here is timed."""

import pytest
import torch

from benchmarks import layers
from benchmarks.naive import NaiveTwoPathways, l2_penalty
from softeq import SoftLinear, prior_penalty
from softeq.groups import SL, O
from softeq.models.dynamics import uniform_rep

CHANNELS = 48
SAME_WEIGHT = ["projected", "pathways", "naive two pathways"]


@pytest.fixture
def data():
    return layers.batch(7, CHANNELS)


def gradients(name, data):
    """Output, penalty and the input's gradient after one step."""
    module, forward = layers.arms(CHANNELS)[name]
    layers.training_step(module, forward, *data)()
    y, penalty = forward(data[0])
    return y.detach(), penalty.detach(), data[0].grad.clone(), module


@pytest.mark.parametrize("name", SAME_WEIGHT)
def test_arms_with_one_merged_weight_give_one_output_and_input_gradient(name, data):
    y, _, grad, _ = gradients(layers.TWIN, data)
    own_y, _, own_grad, _ = gradients(name, data)
    torch.testing.assert_close(own_y, y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own_grad, grad, atol=1e-5, rtol=1e-5)


def test_hard_is_another_layer_but_near(data):
    y = gradients(layers.TWIN, data)[0]
    hard = gradients("hard", data)[0]
    assert 0 < float((hard - y).norm() / y.norm()) < 0.01


def test_naive_and_soft_agree_in_penalty_and_every_gradient(data):
    _, penalty, _, soft = gradients("pathways", data)
    _, naive_penalty, _, naive = gradients("naive two pathways", data)
    torch.testing.assert_close(naive_penalty, penalty)
    for name in ("equivariant", "residual"):
        pathway = soft.pathways[name]
        torch.testing.assert_close(getattr(naive, name).grad, pathway.weight.grad, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(getattr(naive, f"{name}_bias").grad, pathway.bias.grad, atol=1e-5, rtol=1e-5)


def test_naive_projection_under_a_group_whose_dual_differs():
    rep = uniform_rep(30, SL(3))
    soft = SoftLinear(rep, rep)
    naive = NaiveTwoPathways(soft)
    pathway = soft.pathways["equivariant"]
    with torch.no_grad():
        torch.nn.init.normal_(naive.equivariant)
        torch.nn.init.normal_(naive.equivariant_bias)
        pathway.weight.copy_(naive.equivariant)
        pathway.bias.copy_(naive.equivariant_bias)
    residual = soft.pathways["residual"]
    torch.testing.assert_close(naive.projected_weight() + residual.weight, soft.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(naive.projected_bias() + residual.bias, soft.bias, atol=1e-5, rtol=1e-5)


def test_l2_penalty_is_the_prior_of_a_layer_without_constraint():
    rep = uniform_rep(24, O(3))
    layer = SoftLinear(rep, rep, constraint="none")
    torch.testing.assert_close(l2_penalty(layer, layers.PRIOR.residual), prior_penalty(layer, layers.PRIOR))


def test_a_step_leaves_fresh_gradients(data):
    module, forward = layers.arms(CHANNELS)["pathways"]
    step = layers.training_step(module, forward, *data)
    step()
    first = [parameter.grad.clone() for parameter in module.parameters()]
    step()
    torch.testing.assert_close([parameter.grad for parameter in module.parameters()], first)


def test_inference_arms_give_one_output():
    x = layers.batch(5, CHANNELS)[0].detach()
    outputs = [module(x) for module in layers.inference_arms(CHANNELS).values()]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], atol=1e-5, rtol=1e-5)


def test_run_gives_a_row_per_arm_with_ratios_to_its_twin():
    report = layers.run(quick=True, channels=CHANNELS, rows=7, blocks=2, block_seconds=0.0)
    training = {row.arm: row for row in report.rows if row.case == "training step, eager"}
    assert list(training) == list(layers.arms(CHANNELS))
    assert training[layers.TWIN].ratio is None
    assert all(row.twin == layers.TWIN and row.ratio.n == 2 for arm, row in training.items() if arm != layers.TWIN)
    assert {row.arm for row in report.rows if row.case.startswith("inference")} == set(layers.inference_arms(CHANNELS))
    assert report.tables[0].row_count == len(report.rows)
