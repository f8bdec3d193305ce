"""The displacement curve: its values, its limit, what is exact, and decisions."""

import json
import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure import (
    FLOWS,
    GridMap,
    ImageMap,
    Invariant,
    NotMeasurable,
    Tokens,
    default_displacements,
    displacement_curve,
    local_equivariance_error,
    time_flows,
)

X = torch.rand(4, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PERIODIC = {"boundary": "periodic", "output": "logits"}


def classifier(classes=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(400, classes)).double().eval()


def pooled():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_values_are_those_of_the_moved_images(output):
    model, flow = classifier(), FLOWS["rotation"]
    curve = displacement_curve(model, X, "rotation", [0.3, -0.1], output=output, batch_size=3)
    assert curve.displacements.tolist() == [-0.1, 0.3]
    with torch.no_grad():
        value = model(X).softmax(1) if output == "probabilities" else model(X)
        for s, t in enumerate([-0.1, 0.3]):
            after = model(flow(X, t))
            d = (after.softmax(1) if output == "probabilities" else after) - value
            torch.testing.assert_close(curve.values["mean_square"][s], d.square().mean(1))
            torch.testing.assert_close(curve.values["mean_abs"][s], d.abs().mean(1))
            torch.testing.assert_close(curve.values["relative"][s], d.square().sum(1) / value.square().sum(1))
            variance = (value - value.mean(0)).square().sum(1).mean()
            torch.testing.assert_close(curve.values["centred"][s], d.square().sum(1) / variance)
            assert curve.decisions.kept[s].tolist() == (after.argmax(1) == value.argmax(1)).double().tolist()


@pytest.mark.parametrize("norm", ["mean_square", "mean_abs", "relative", "centred"])
def test_the_slope_is_the_limit(norm):
    for flow in ("translation_x", "scale"):
        curve = displacement_curve(classifier(), X, flow, [1e-5, 1e-4], norm=norm, output="logits")
        torch.testing.assert_close(curve.per_motion()[0], curve.slope.per_sample(norm)[:, 0], rtol=1e-3, atol=0)
        torch.testing.assert_close(curve.tangent(), curve.mean(), rtol=1e-2, atol=0)


def test_equivariance_is_0_where_the_group_allows_and_only_there():
    curve = displacement_curve(pooled(), X, "translation_x", [0.3, 1.0, 2.5, 3.0], **PERIODIC)
    assert curve.exact == (False, True, False, True)
    assert curve.mean()[[1, 3]].max() < 1e-28
    assert curve.mean()[[0, 2]].min() > 1e-9  # of a cubic spline between the pixels the mean is not what it was
    turns = displacement_curve(nn.Identity(), X, "rotation", [math.pi / 2, 0.4, math.pi], output=ImageMap())
    assert turns.exact == (False, True, True)
    assert turns.mean()[1:].max() == 0
    assert turns.mean()[0] > 0.001


@pytest.mark.parametrize("flow", ["translation_x", "rotation", "scale"])
def test_what_left_the_frame_is_left_out_of_maps(flow):
    t = {"translation_x": 3.0, "rotation": math.pi / 4, "scale": 0.5}[flow]

    curve = displacement_curve(nn.Identity(), X, flow, [t], output=ImageMap())
    places = FLOWS[flow].within(-t, 12, 12)
    assert 0 < places.double().mean() < 1
    assert curve.compared.item() == pytest.approx(places.double().mean().item())
    back = FLOWS[flow](FLOWS[flow](X, t), -t)
    d, held = (back - X)[..., places].flatten(1), X[..., places].flatten(1)
    torch.testing.assert_close(curve.values["relative"][0], d.square().sum(1) / held.square().sum(1))
    torch.testing.assert_close(curve.values["mean_abs"][0], d.abs().mean(1))
    variance = (held - held.mean(0)).square().sum(1).mean()
    torch.testing.assert_close(curve.values["centred"][0], d.square().sum(1) / variance)
    assert curve.mean("relative") < 0.5 * ((back - X).flatten(1).square().sum(1) / X.flatten(1).square().sum(1)).mean()


def test_whole_shifts_of_maps_and_tokens_cost_nothing_within_the_frame():
    shifted = displacement_curve(nn.Identity(), X, "translation_y", [3.0], output=ImageMap())
    assert shifted.mean().item() == 0
    assert shifted.compared.item() == 9 / 12
    wrapped = displacement_curve(nn.Identity(), X, "translation_y", [3.0], output=ImageMap(), boundary="periodic")
    assert (wrapped.mean().item(), wrapped.compared.item()) == (0, 1)

    def tokens(x):  # one that stays, then patches of 2 x 2
        return torch.cat([x.mean((2, 3))[:, None] * 0 + 1, nn.functional.avg_pool2d(x, 2).flatten(2).mT], 1)

    curve = displacement_curve(tokens, X, "translation_x", [4.0], output=Tokens((6, 6), 1))
    assert curve.mean().item() < 1e-30
    assert curve.compared.item() == pytest.approx((1 + 24) / 37)
    with pytest.raises(NotMeasurable, match="after a motion of 40 pixels nothing"):
        displacement_curve(nn.Identity(), X, "translation_x", [40.0], output=ImageMap(), slope=False)


def test_volumes_and_series_lose_what_leaves_their_frame():
    series = torch.rand(3, 2, 10, dtype=torch.float64)
    curve = displacement_curve(nn.Identity(), series, time_flows()[0], [2.0], output=GridMap())
    assert (curve.mean().item(), curve.compared.item()) == (0, 0.8)


def test_exact_motions_permute_pixels():
    assert torch.equal(FLOWS["rotation"](X, math.pi / 2), torch.rot90(X, 1, (2, 3)))
    assert torch.equal(FLOWS["translation_x"].with_(boundary="periodic")(X, 5.0), X.roll(5, 3))
    for stencil in ("bspline", "central", "reference", "fourier"):
        mirrored = FLOWS["translation_y"].with_(stencil=stencil)(X, -3.0)
        assert torch.equal(mirrored[:, :, :9], X[:, :, 3:])
    assert not FLOWS["rotation"].exact(math.pi / 2, 12, 11)
    assert FLOWS["rotation"].exact(math.pi, 12, 11)


def test_decisions_and_the_loss_that_breaking_costs():
    weight = torch.tensor([[8.0, -8.0]], dtype=torch.float64)

    def first_column(x):  # class 0 where the first pixel is bright
        return (x[:, 0, 0, :1] - 0.5) * weight

    x = torch.zeros(2, 1, 1, 4, dtype=torch.float64)
    x[0, 0, 0] = torch.tensor([1.0, 0, 1, 0])
    x[1, 0, 0] = torch.tensor([0.0, 1, 0, 1])
    labels = torch.tensor([0, -1])
    options = {"boundary": "periodic", "labels": labels}
    curve = displacement_curve(first_column, x, "translation_x", [1.0, 2.0], **options)
    assert curve.agreement().tolist() == [0, 1]
    p = torch.softmax(0.5 * weight[0], 0)[0]
    torch.testing.assert_close(curve.decisions.probability[0], torch.full((2,), 1 - 2 * p, dtype=torch.float64))
    loss = -(p.log() + (1 - p).log()) / 2
    torch.testing.assert_close(curve.loss_share(), torch.stack([(loss - math.log(2)) / loss, loss * 0]))
    assert curve.decisions.loss_share[:, 1].isnan().all()
    record = json.loads(json.dumps(curve.to_dict()))
    assert record["agreement"][1]["mean"] == 1
    assert record["loss_share"][0] == pytest.approx(float((loss - math.log(2)) / loss))
    with pytest.raises(NotMeasurable, match="labels"):
        displacement_curve(first_column, x, "translation_x", [1.0], boundary="periodic").loss_share()


def test_the_table_and_the_units():
    curve = displacement_curve(classifier(), X, "rotation", output="logits")
    text = str(curve)
    assert "degree" in text
    assert "180" in text
    assert "exact" in text
    assert curve.familiar()[0] == "degree"
    assert curve.familiar()[1][-1] == pytest.approx(180)
    record = curve.to_dict()
    assert record["familiar_unit"] == "degree"
    assert record["slope"]["mean_square"] == pytest.approx(curve.slope.mean()["rotation"])
    low, high = record["errors"]["relative"][0]["interval"]
    assert low <= record["errors"]["relative"][0]["mean"] <= high
    assert (
        displacement_curve(pooled(), X, "scale", [0.1], output=Invariant(), slope=False).to_dict()["agreement"] is None
    )


def test_default_displacements():
    shape = (2, 3, 32, 64)
    assert default_displacements(FLOWS["translation_x"], shape)[:2] == [0.02, 0.05]
    assert default_displacements(FLOWS["translation_x"], shape)[-2:] == [8, 16]
    assert default_displacements(FLOWS["translation_y"], shape)[-2:] == [4, 8]
    scales = default_displacements(FLOWS["scale"], shape)
    assert (math.exp(scales[0]), math.exp(scales[-1])) == pytest.approx((0.5, 2))
    turns = default_displacements(FLOWS["rotation"], shape)
    assert (turns[0], turns[-1]) == pytest.approx((-0.75 * math.pi, math.pi))
    assert max(default_displacements(FLOWS["hyperbolic"], shape)) == 0.4


def test_a_slope_of_the_caller_costs_no_pass():
    calls = []

    def f(x):
        calls.append(len(x))
        return x.flatten(1)[:, :7].sin()

    result = local_equivariance_error(f, X, ["scale", "rotation"], output="logits")
    calls.clear()
    curve = displacement_curve(f, X, "rotation", [0.1, 0.2, 0.3], output="logits", slope=result)
    assert sum(calls) == 4 * 4 + 2  # the value, three motions, and both ends of the batch alone
    assert curve.slope is result
    assert curve.tangent().shape == (3,)
    with pytest.raises(SofteqValueError, match="slope: expected a result along translation_x"):
        displacement_curve(f, X, "translation_x", slope=result)


def test_without_a_derivative_there_is_still_a_curve():
    curve = displacement_curve(
        lambda x: x.flatten(1) * float(x.sum() > 0) + float(x.mean()) * 0, X[:1], "scale", [0.1], output="logits"
    )
    assert "Python numbers" in curve.no_slope
    assert "no slope at 0" in str(curve)
    with pytest.raises(NotMeasurable, match="Python numbers"):
        curve.tangent()


def test_blank_images_are_missing_and_nothing_but_them_is_refused():
    x = torch.cat([X[:2], torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64)])
    curve = displacement_curve(classifier(), x, "rotation", [0.2])
    assert curve.values["mean_square"].isnan().tolist() == [[False, False, True]]
    with pytest.raises(NotMeasurable, match="moves none"):
        displacement_curve(classifier(), x[2:], "rotation", [0.2], slope=False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"displacements": [0.0, 1.0]}, SofteqValueError, "displacements: expected"),
        ({"displacements": []}, SofteqValueError, "displacements: expected"),
        ({"displacements": [math.nan]}, SofteqValueError, "displacements: expected"),
        ({"flow": ["scale", "rotation"]}, SofteqValueError, "flow: expected one"),
        ({"flow": "shift"}, SofteqValueError, "expected names among"),
        ({"slope": "yes"}, SofteqTypeError, "slope: expected"),
        ({"batch_size": 0}, SofteqValueError, "batch_size: expected at least 1"),
        ({"norm": "max"}, SofteqValueError, "norm: expected one of"),
        ({"labels": torch.tensor([1])}, SofteqValueError, "labels: expected one per sample"),
        ({"x": X.long()}, SofteqValueError, "x: expected floating"),
        ({"x": X * math.nan}, SofteqValueError, "x: expected finite"),
        ({"f": lambda x: x.sum()}, NotMeasurable, "class logits|one entry per sample"),
        ({"f": lambda x: x.flatten(1) / 0}, NotMeasurable, "NaN or infinity"),
        ({"f": lambda x: x.flatten(1) - x.flatten(1).mean(0)}, NotMeasurable, "apart"),
    ],
)
def test_bad_input(changes, error, message):
    options = {"f": classifier(), "x": X, "flow": "rotation", "displacements": [0.1], **changes}
    with pytest.raises(error, match=message):
        displacement_curve(options.pop("f"), options.pop("x"), options.pop("flow"), **options)
