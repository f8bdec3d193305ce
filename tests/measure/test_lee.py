"""Local equivariance error on models whose symmetry is known, beside its control; and on what cannot be measured."""

import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError, SofteqWarning
from softeq.measure.errors import NotMeasurable
from softeq.measure.lee import assert_lee, local_equivariance_error
from softeq.measure.lie_derivative import affine_derivatives, lie_derivative
from softeq.measure.motion.actions import ImageMap, Pick, Points
from softeq.measure.motion.flows import COEFFICIENTS, FLOWS, GENERATORS
from softeq.measure.motion.spaces import point_flows
from softeq.measure.results.result import NORMS

SHIFTS = ["translation_x", "translation_y"]
PERIODIC = {"boundary": "periodic", "stencil": "fourier"}


def images(b=4, c=2, h=9, w=11, dtype=torch.float64, seed=0):
    return torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Power(nn.Module):
    """Circular convolution and the mean of its square, which by Parseval does not change with a shift: on odd sizes,
    where the trigonometric interpolant has no highest frequency, it is exactly invariant."""

    def __init__(self, classes=3, h=9, w=11):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", dtype=torch.float64)
        self.head = nn.Linear(4, classes, dtype=torch.float64)

    def forward(self, x):
        return self.head(self.conv(x).square().mean((-1, -2)))


def positional(classes=3, h=9, w=11, dtype=torch.float64):
    """A linear map of the pixels: nothing about it is invariant."""
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * h * w, classes)).to(dtype)


def smooth_cnn(dtype=torch.float64):
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 6, 3, stride=2), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).to(dtype)  # fmt: skip


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_an_invariant_model_is_at_rounding_and_its_control_is_not(output):
    result = local_equivariance_error(Power(), images(), SHIFTS, output=output, **PERIODIC)
    assert result.per_sample("relative").max() < 1e-24
    assert result.control["relative"].min() > 1e-6
    assert result.ratio_to_control("mean_square").max() < 1e-20


def test_a_model_without_the_symmetry_is_far_from_zero_and_like_its_control():
    result = local_equivariance_error(positional(classes=50), images(), SHIFTS, output="logits", **PERIODIC)
    assert result.per_sample("relative").min() > 0.01
    assert 0.5 < result.ratio_to_control().median() < 2  # to a random map one direction is like another


def test_a_merely_flat_model_does_not_pass_for_an_equivariant_one():
    steep, flat = positional(), positional()
    flat.load_state_dict({name: 1e-6 * value for name, value in steep.state_dict().items()})
    found = local_equivariance_error(flat, images(), SHIFTS, output="logits")
    assert found.per_sample("mean_square").max() < 1e-9  # small, and yet:
    expected = local_equivariance_error(steep, images(), SHIFTS, output="logits")
    torch.testing.assert_close(found.per_sample("relative"), expected.per_sample("relative"))
    torch.testing.assert_close(found.ratio_to_control(), expected.ratio_to_control())
    # Probabilities of a flat model are far from 0, so that even the relative norm is small: the control tells.
    found = local_equivariance_error(flat, images(), SHIFTS)
    assert found.per_sample("relative").max() < 1e-9
    assert found.ratio_to_control().mean() > 0.05


def test_the_norms_are_those_of_the_lie_derivative():
    model, x = smooth_cnn(), images()
    result = local_equivariance_error(model, x, "rotation", output="logits")
    derivative, value = lie_derivative(model, x, "rotation"), model(x).detach()
    expected = {
        "mean_square": derivative.square().mean(1),
        "mean_abs": derivative.abs().mean(1),
        "relative": derivative.square().sum(1) / value.square().sum(1),
        "centred": derivative.square().sum(1) / (value - value.mean(0)).square().sum(1).mean(),
    }
    for norm in NORMS:
        torch.testing.assert_close(result.per_sample(norm)[:, 0], expected[norm])


def test_nine_flows_are_the_combinations_of_six_generators_and_the_gram_matrix_holds_their_norms():
    model, x = smooth_cnn(), images()
    result = local_equivariance_error(model, x, output="logits")
    assert result.flows == tuple(FLOWS)
    six = affine_derivatives(model, x).derivatives
    expected = torch.einsum("kg,gbd->bkd", COEFFICIENTS, six).square().mean(-1)
    torch.testing.assert_close(result.per_sample("mean_square"), expected)
    diagonal = result.gram.diagonal(dim1=1, dim2=2)
    columns = [result.flows.index(name) for name in GENERATORS]
    torch.testing.assert_close(diagonal, result.per_sample("mean_square")[:, columns])
    torch.testing.assert_close(result.gram, result.gram.mT)
    quadratic = torch.einsum("kg,bgh,kh->bk", COEFFICIENTS, result.gram, COEFFICIENTS)
    torch.testing.assert_close(result.per_sample("mean_square"), quadratic)


def test_flows_measured_one_at_a_time_give_the_same():
    model, x = smooth_cnn(), images()
    together = local_equivariance_error(model, x, output="logits")
    alone = local_equivariance_error(model, x, "hyperbolic", output="logits")
    torch.testing.assert_close(alone.per_sample()[:, 0], together.per_sample()[:, list(FLOWS).index("hyperbolic")])


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": 3}, {"batch_size": 1, "chunk": 2}, {"chunk": 1}])
def test_batches_and_chunks_change_nothing(options):
    model, x = smooth_cnn(), images(5)
    whole = local_equivariance_error(model, x, margin=1)
    pieces = local_equivariance_error(model, x, margin=1, **options)
    for norm in NORMS:
        torch.testing.assert_close(pieces.per_sample(norm), whole.per_sample(norm), rtol=1e-9, atol=0)
        torch.testing.assert_close(pieces.control[norm], whole.control[norm], rtol=1e-9, atol=0)
    torch.testing.assert_close(pieces.gram, whole.gram)


def test_the_seed_changes_the_control_alone():
    model, x = smooth_cnn(), images()
    first, again, other = (local_equivariance_error(model, x, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first.control["relative"], again.control["relative"], rtol=0, atol=0)
    torch.testing.assert_close(first.per_sample(), other.per_sample(), rtol=0, atol=0)
    assert (first.control["relative"] != other.control["relative"]).all()


def test_without_a_control_there_is_none():
    result = local_equivariance_error(smooth_cnn(), images(), "scale", control=False)
    with_it = local_equivariance_error(smooth_cnn(), images(), "scale")
    assert result.control is None
    assert with_it.control is not None
    assert "control" not in str(result)


def test_single_precision_is_close_to_double():
    model, x = smooth_cnn(), images()
    double = local_equivariance_error(model, x)
    single = local_equivariance_error(model.float(), x.float())
    assert single.per_sample().dtype == torch.float64
    torch.testing.assert_close(single.per_sample(), double.per_sample(), rtol=1e-3, atol=0)
    torch.testing.assert_close(single.control["relative"], double.control["relative"], rtol=1e-3, atol=0)


def test_bfloat16_runs_and_is_within_its_rounding():
    model, x = smooth_cnn(), images()
    double = local_equivariance_error(model, x, output="logits").median()
    with pytest.warns(SofteqWarning, match="whose rounding is in the numbers"):
        coarse = local_equivariance_error(model.bfloat16(), x.bfloat16(), output="logits").median()
    assert coarse == pytest.approx(double, rel=0.25)


def test_options_and_conditions_are_recorded():
    result = local_equivariance_error(
        smooth_cnn(), images(), "rotation", norm="relative", stencil="central", boundary="periodic", margin=2, level=0.9
    )
    assert (result.norm, result.output, result.stencil, result.boundary) == (
        "relative",
        "probabilities",
        "central",
        "periodic",
    )
    assert (result.margin, result.level, result.image_size, result.units) == (2, 0.9, (9, 11), ("radians",))


def test_stencil_none_keeps_what_the_flows_say():
    model, x = smooth_cnn(), images()
    own = FLOWS["rotation"].with_(stencil="central", margin=1)
    kept = local_equivariance_error(model, x, own, stencil=None)
    asked = local_equivariance_error(model, x, "rotation", stencil="central", margin=1)
    assert (kept.stencil, kept.margin) == ("central", 1)
    torch.testing.assert_close(kept.per_sample(), asked.per_sample())
    torch.testing.assert_close(kept.control["relative"], asked.control["relative"])
    several = local_equivariance_error(model, x, [own, FLOWS["scale"]], stencil=None)
    assert (several.stencil, several.gram) == ("own", None)
    torch.testing.assert_close(several.per_sample()[:, 0], asked.per_sample()[:, 0])


def test_the_margin_takes_the_edge_out_of_the_flow_and_of_the_control():
    weight = torch.zeros(2, 9, 11, dtype=torch.float64)
    weight[:, :2], weight[:, -2:] = 1.0, -1.0  # it sees nothing but the edge
    edge = lambda z: torch.stack([(z * weight).sum((1, 2, 3)), z[:, 0, 4, 5]], 1)  # and one pixel
    result = local_equivariance_error(edge, images(), "translation_y", output="logits", margin=2)
    expected = FLOWS["translation_y"].tangent(images())[:, 0, 4, 5].square() / 2
    torch.testing.assert_close(result.per_sample()[:, 0], expected)
    assert (result.control["mean_square"] < local_equivariance_error(
        edge, images(), "translation_y", output="logits").control["mean_square"]).all()  # fmt: skip


def test_channels_last_input_gives_the_same():
    model, x = smooth_cnn(), images()
    asked = local_equivariance_error(model, x, ["scale", "shear_y"], margin=1)
    flows = [FLOWS[name].with_(channels_last=True) for name in asked.flows]
    last = local_equivariance_error(lambda z: model(z.movedim(-1, 1)), x.movedim(1, -1), flows, margin=1)
    torch.testing.assert_close(last.per_sample(), asked.per_sample())
    assert last.image_size == (9, 11)


def test_maps_move_with_the_image_and_a_mask_breaks_that():
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", dtype=torch.float64)
    mask = torch.linspace(0.5, 1.5, 11, dtype=torch.float64)
    good = local_equivariance_error(conv, images(), SHIFTS, output=ImageMap(), **PERIODIC)
    assert good.per_sample("relative").max() < 1e-24
    assert "map" in good.output
    bad = local_equivariance_error(lambda z: conv(z) * mask, images(), SHIFTS, output=ImageMap(), **PERIODIC)
    assert bad.per_sample("relative")[:, 0].min() > 1e-4
    assert bad.per_sample("relative")[:, 1].max() < 1e-24


def test_an_entry_of_a_dict_is_picked():
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", dtype=torch.float64)
    f = lambda z: {"map": conv(z), "other": None}
    picked = local_equivariance_error(f, images(), SHIFTS, output=Pick("map", ImageMap()), **PERIODIC)
    assert picked.per_sample("relative").max() < 1e-24
    with pytest.raises(NotMeasurable):
        local_equivariance_error(f, images(), SHIFTS, output=ImageMap())
    with pytest.raises(NotMeasurable, match="Pick"):
        local_equivariance_error(f, images(), SHIFTS)


def test_points_in_space():
    x = torch.randn(5, 7, 3, dtype=torch.float64)
    flows = point_flows(3)
    distances = lambda p: (p[:, :, None] - p[:, None]).square().sum(-1).flatten(1)
    good = local_equivariance_error(distances, x, flows, output="logits")
    assert good.per_sample("relative").max() < 1e-24
    assert good.control["relative"].min() > 1e-3
    assert (good.gram, good.image_size, good.stencil) == (None, None, "own")
    bad = local_equivariance_error(lambda p: p.flatten(1), x, flows, output="logits")
    assert bad.per_sample("relative").min() > 1e-2
    assert local_equivariance_error(lambda p: 2 * p, x, flows[3:], output=Points()).per_sample().max() < 1e-24


def test_assert_lee_passes_what_is_invariant_and_names_what_is_not():
    assert_lee(Power(), images(), SHIFTS, 1e-20, **PERIODIC)
    assert_lee(Power(), images(), SHIFTS, 1e-18, norm="ratio_to_control", **PERIODIC)
    with pytest.raises(AssertionError, match=r"relative, logits.*tolerance 1e-06: translation_x \d.*, translation_y"):
        assert_lee(positional(), images(), SHIFTS, 1e-6, output="logits")


def test_assert_lee_names_the_failing_flows_alone():
    rows_alone = lambda z: z.mean(3).flatten(1)
    with pytest.raises(AssertionError) as error:
        assert_lee(rows_alone, images(), SHIFTS, 1e-9, output="logits", **PERIODIC)
    assert "translation_y" in str(error.value)
    assert "translation_x" not in str(error.value)


def test_assert_lee_by_the_ratio_does_not_pass_a_flat_model():
    flat = positional()
    for p in flat.parameters():
        p.data *= 1e-6
    assert_lee(flat, images(), SHIFTS, 1e-6)  # the relative norm of probabilities is fooled
    with pytest.raises(AssertionError, match="ratio_to_control"):
        assert_lee(flat, images(), SHIFTS, 1e-2, norm="ratio_to_control")


def test_assert_lee_asserts_nothing_of_what_was_not_measured():
    x = images()
    x[0] = 0.0
    with pytest.raises(NotMeasurable, match="translation_x: 1"):
        assert_lee(Power(), x, SHIFTS, 1e-9, **PERIODIC)
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(SofteqValueError, match="positive"):
            assert_lee(Power(), images(), SHIFTS, tolerance)


def test_the_direction_of_least_error_is_told_in_words():
    neighbours = lambda z: (z * z.roll(1, 2)).sum(3).mean(1)  # of each row: blind to moving all rows along together
    result = local_equivariance_error(neighbours, images(8), output="logits", **PERIODIC)
    directions = result.directions()
    assert directions.most.value < 1e-20 * directions.least.value
    assert directions.most.text == "translation_x (100% of the direction)"
    assert f"most equivariant to {directions.most}" in str(result)


@pytest.mark.parametrize("f", [lambda x: (x.flatten(1)[:, :5] * 8).round(), lambda x: (x.flatten(1) > 0.5).double()])
def test_steps_are_told_from_constants(f):
    with pytest.raises(NotMeasurable, match="its values are steps"):
        local_equivariance_error(f, torch.rand(2, 3, 8, 8, dtype=torch.float64), ["rotation"], output="logits")
