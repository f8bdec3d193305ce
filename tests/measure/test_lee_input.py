"""What local_equivariance_error makes of models and images that cannot be measured, and of bad options."""

import pytest
import torch
from torch import nn

from softeq.errors import SofteqTypeError, SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.lee import local_equivariance_error
from softeq.measure.results.result import NORMS


def images(b=4, c=2, h=9, w=11, dtype=torch.float64, seed=0):
    return torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positional(classes=3, h=9, w=11, dtype=torch.float64):
    """A linear map of the pixels: nothing about it is invariant."""
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * h * w, classes)).to(dtype)


def smooth_cnn(dtype=torch.float64):
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 6, 3, stride=2), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).to(dtype)  # fmt: skip


def test_a_constant_model_is_refused_with_and_without_a_control():
    for control in (True, False):
        for constant in (lambda z: torch.ones(len(z), 3, dtype=z.dtype), lambda z: 0 * z.mean((2, 3)) + 1):
            with pytest.raises(NotMeasurable, match="constant"):
                local_equivariance_error(constant, images(), control=control)


def test_a_sample_at_which_the_model_answers_to_nothing_is_nan():
    model = lambda z: torch.relu(z.flatten(1)[:, :30] @ weight)
    weight = torch.rand(30, 2, dtype=torch.float64)
    x = images().abs()
    x[1] = -x[1]
    for control in (True, False):
        result = local_equivariance_error(model, x, output="logits", control=control)
        assert result.per_sample()[1].isnan().all()
        assert result.gram[1].isnan().all()
        assert not result.per_sample()[[0, 2, 3]].isnan().any()
        assert result.summary()["scale"].missing == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_blank_image_is_nan_and_nothing_but_blank_ones_is_refused(dtype):
    model, x = smooth_cnn(dtype), images(dtype=dtype)
    x[2] = 0.7
    result = local_equivariance_error(model, x)
    for norm in NORMS:
        assert result.per_sample(norm)[2].isnan().all()
        assert result.control[norm][2].isnan().all()
    assert result.ratio_to_control()[2].isnan().all()
    assert not result.per_sample()[[0, 1, 3]].isnan().any()
    assert result.mean()["scale"] == pytest.approx(float(result.per_sample()[[0, 1, 3], 3].mean()))
    with pytest.raises(NotMeasurable, match="blank"):
        local_equivariance_error(model, x[2:3])


def test_a_striped_image_is_nan_along_its_stripes_alone():
    x = images()
    x[0] = x[0, :, :, :1]  # the same in every column
    result = local_equivariance_error(smooth_cnn(), x)
    missing = {name for k, name in enumerate(result.flows) if result.per_sample()[0, k].isnan()}
    assert missing == {"translation_x", "shear_x", "stretch_x"}
    assert not result.per_sample()[1:].isnan().any()


def test_nan_logits_are_refused():
    with pytest.raises(NotMeasurable, match="NaN"):
        local_equivariance_error(lambda z: z.mean((2, 3)) / 0 - z.mean((2, 3)) / 0, images())


@pytest.mark.parametrize("shape", [(9, 1), (1, 11)])
def test_one_pixel_wide_is_measured_along_its_length_only(shape):
    x = images(h=shape[0], w=shape[1])
    result = local_equivariance_error(positional(h=shape[0], w=shape[1]), x, output="logits")
    axis = "x" if shape[0] == 1 else "y"
    for k, name in enumerate(result.flows):
        moves = name in ("scale", f"translation_{axis}", f"stretch_{axis}")
        assert bool(result.per_sample()[:, k].isnan().all()) != moves
    assert len(result.directions().eigenvalues) == 2  # no direction that moves nothing is called a symmetry


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda z: z, "ImageMap"),
        (lambda z: (z.mean((2, 3)),), "Pick"),
        (lambda z: z.mean((1, 2, 3))[:, None], "one logit"),
    ],
)
def test_outputs_that_are_no_classes_are_refused(f, message):
    with pytest.raises(NotMeasurable, match=message):
        local_equivariance_error(f, images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "rms"}, "mean_square, mean_abs, relative"),
        ({"output": "softmax"}, "'probabilities', 'logits' or an Action"),
        ({"flows": "rotate"}, "did you mean 'rotation'"),
        ({"flows": ["scale", "scale"]}, "once"),
        ({"stencil": "cubic"}, "bspline"),
        ({"boundary": "zero"}, "mirror"),
        ({"margin": -1}, "margin"),
        ({"batch_size": 0}, "batch_size"),
        ({"chunk": 0}, "chunk"),
        ({"level": 95}, "level"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(SofteqValueError, match=message):
        local_equivariance_error(smooth_cnn(), images(), **options)


def test_bad_input_is_named():
    with pytest.raises(SofteqTypeError, match="Action"):
        local_equivariance_error(smooth_cnn(), images(), output=3)
    for x in (images()[:0], images() / 0, images()[0], images().int()):
        with pytest.raises((SofteqValueError, SofteqTypeError)):
            local_equivariance_error(smooth_cnn(), x)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(smooth_cnn(), nn.BatchNorm1d(3, dtype=torch.float64), nn.ReLU(inplace=True)).train()
    local_equivariance_error(model, images())
    assert model.training
    assert model[2].inplace
    assert all(p.requires_grad for p in model.parameters())
    assert not model[1].running_mean.any()
