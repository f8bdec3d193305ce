"""The convolution benchmark's arms compute what they claim, at a tiny size; nothing here is timed."""

import pytest
import torch

pytest.importorskip("escnn")

from benchmarks import convolutions
from benchmarks.convolutions import Setting

TINY = Setting(channels=8, kernel=3, batch=2, side=6)


def gradients(arms, name, setting):
    """Output and the input's gradient after one step."""
    module, forward = arms[name]
    x, grad = setting.data()
    convolutions.training_step(module, forward, x, grad)()
    return forward(x)[0].detach(), x.grad.clone()


@pytest.mark.parametrize("order", [4, 8])
def test_soft_has_the_plain_layers_filter_and_hard_is_near(order):
    arms = convolutions.steerable_arms(order, TINY)
    plain, soft, hard = (gradients(arms, name, TINY) for name in (convolutions.TWIN, "soft", "hard"))
    torch.testing.assert_close(soft, plain, atol=1e-5, rtol=1e-5)
    assert 0 < float((hard[0] - plain[0]).norm() / plain[0].norm()) < 0.05


@pytest.mark.parametrize("name", ["local", "lowrank", "local, summed"])
def test_unshared_arms_start_as_the_plain_layer(name):
    arms = convolutions.unshared_arms(TINY)
    torch.testing.assert_close(
        gradients(arms, name, TINY), gradients(arms, convolutions.TWIN, TINY), atol=1e-5, rtol=1e-5
    )


def test_summed_and_merged_agree_in_every_gradient():
    arms = convolutions.unshared_arms(TINY)
    for name in ("local", "local, summed"):
        module = arms[name][0]
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        gradients(arms, name, TINY)
    merged, summed = (dict(arms[name][0].named_parameters()) for name in ("local", "local, summed"))
    assert set(merged) == set(summed)
    for name, parameter in merged.items():
        torch.testing.assert_close(summed[name].grad, parameter.grad, atol=1e-3, rtol=1e-4)


def test_the_floors_count_weights_and_operations():
    floors = convolutions.floors(Setting(channels=2, kernel=1, batch=1, side=1), rank=3)
    # Images 2 numbers, kernel 4, bias 2: plain 12 + 18; local 12 + 3 * (4 + 2 + 4); lowrank 12 + 3 * (16 + 3 + 2).
    assert floors["local"] == {"operations_over_plain": 1.0, "bytes_over_plain": pytest.approx(42 / 30)}
    assert floors["lowrank"] == {"operations_over_plain": 4.0, "bytes_over_plain": pytest.approx(75 / 30)}


def test_inference_arms_give_one_output():
    x = TINY.data()[0].detach()
    outputs = [module(x) for module in convolutions.inference_arms(TINY).values()]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], atol=1e-5, rtol=1e-5)


def test_run_gives_a_row_per_arm_with_ratios_to_its_twin_and_the_floors():
    report = convolutions.run(
        quick=True, steerable_setting=TINY, unshared_setting=TINY, blocks=2, block_seconds=0.0, say=lambda _: None
    )
    arms = [row.arm for row in report.rows if row.case == "C4, training step, eager"]
    assert arms == list(convolutions.steerable_arms(4, TINY))
    unshared = {row.arm: row for row in report.rows if row.case.startswith("unshared")}
    assert list(unshared) == list(convolutions.unshared_arms(TINY))
    for arm in ("local", "lowrank", "local, summed"):
        assert unshared[arm].twin == convolutions.TWIN
        assert unshared[arm].more == convolutions.floors(TINY)[arm.split(",")[0]]
    assert unshared[convolutions.TWIN].more == {}
    assert {row.arm for row in report.rows if "inference" in row.case} == set(convolutions.inference_arms(TINY))
    assert report.tables[0].row_count == len(report.rows)
