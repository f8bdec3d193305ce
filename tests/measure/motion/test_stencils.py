import math

import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from softeq.errors import SofteqValueError
from softeq.measure.errors import NotMeasurable
from softeq.measure.motion.stencils import BOUNDARIES, STENCILS, derivative_matrix, image_gradient, resample

SMOOTH = ("bspline", "fourier", "central")  # `reference` has no derivative at the pixels: that is its flaw


def noise(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def grid(height, width):
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    return torch.stack([columns, rows], dim=-1)


def slopes(x, stencil, boundary, step=1e-6):
    """Central differences of the interpolant at the pixels."""
    found = []
    for offset in torch.eye(2, dtype=torch.float64) * step:
        ahead, behind = (resample(x, grid(*x.shape[-2:]) + o, stencil, boundary) for o in (offset, -offset))
        found.append((ahead - behind) / (2 * step))
    return found


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize("size", [(6, 9), (7, 5), (1, 4), (2, 2), (1, 1)])
def test_the_interpolant_passes_through_the_pixels(stencil, boundary, size):
    x = noise(2, 3, *size)
    torch.testing.assert_close(resample(x, grid(*size), stencil, boundary), x, atol=1e-13, rtol=0)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("stencil", SMOOTH)
@pytest.mark.parametrize("size", [(6, 9), (7, 5), (1, 4), (2, 2)])
def test_the_stencil_is_the_interpolants_derivative(stencil, boundary, size):
    x = noise(2, 3, *size)
    for gradient, slope in zip(image_gradient(x, stencil, boundary), slopes(x, stencil, boundary), strict=True):
        torch.testing.assert_close(gradient, slope, atol=1e-5, rtol=0)


def test_control_a_stencil_is_not_the_derivative_of_another_interpolant():
    x = noise(2, 3, 6, 9)
    for stencil, other in (("bspline", "central"), ("central", "fourier"), ("reference", "reference")):
        gap = image_gradient(x, stencil)[0] - slopes(x, other, "mirror")[0]
        assert gap.abs().max() > 0.1


@pytest.mark.parametrize(("boundary", "mode"), [("mirror", "reflect"), ("periodic", "grid-wrap")])
def test_bspline_equals_scipy(boundary, mode):
    x, points = noise(1, 1, 7, 10), noise(5, 4, 2) * 6 + 3  # within and beyond the image
    there = ndimage.map_coordinates(x[0, 0].numpy(), points.flip(-1).movedim(-1, 0).numpy(), order=3, mode=mode)
    torch.testing.assert_close(
        resample(x, points, "bspline", boundary)[0, 0], torch.from_numpy(there), atol=1e-8, rtol=0
    )


def test_keys_bicubic_equals_torch_in_the_interior():
    # torch's bicubic has a = -0.75; Keys's -0.5 is what has the central difference. They differ: a twin that must fail.
    x, points = noise(1, 1, 9, 9), 3 + 2 * torch.rand(4, 4, 2, dtype=torch.float64)
    normalised = (points / 4 - 1)[None]
    theirs = F.grid_sample(x, normalised, mode="bicubic", align_corners=True)
    assert (resample(x, points, "central") - theirs).abs().max() > 1e-3
    bilinear = F.grid_sample(x, normalised, align_corners=True)
    torch.testing.assert_close(resample(x, points, "reference"), bilinear)


@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_image_goes_on_beyond_its_edge(stencil, boundary):
    x = torch.arange(4, dtype=torch.float64).reshape(1, 1, 1, 4)
    points = torch.tensor([[-2.0, 0], [-1, 0], [4, 0], [5, 0], [8, 0]], dtype=torch.float64)[None]
    expected = {"mirror": [1, 0, 3, 2, 0], "periodic": [2, 3, 0, 1, 0]}[boundary]
    if (stencil, boundary) == ("reference", "mirror"):
        expected = [2, 1, 2, 1, 2]
    torch.testing.assert_close(
        resample(x, points, stencil, boundary)[0, 0, 0], torch.tensor(expected, dtype=torch.float64), atol=1e-13, rtol=0
    )


def sine_error(n, stencil):
    """Largest relative error of the derivative of one period of a sine over n pixels."""
    phase = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    x, exact = (phase + 0.3).sin().reshape(1, 1, 1, n), (phase + 0.3).cos() * 2 * math.pi / n
    found = image_gradient(x, stencil, "periodic")[0][0, 0, 0]
    return float((found - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize(("stencil", "order"), [("bspline", 4), ("central", 2), ("reference", 1)])
def test_order_of_convergence(stencil, order):
    measured = math.log2(sine_error(32, stencil) / sine_error(64, stencil))
    assert measured == pytest.approx(order, abs=0.1)


def test_fourier_is_exact_for_band_limited_images():
    assert sine_error(16, "fourier") < 1e-13
    assert sine_error(15, "fourier") < 1e-13
    cosine = (math.pi * (torch.arange(11, dtype=torch.float64) + 0.5) / 11 * 3).cos()  # even about both edges
    exact = -3 * math.pi / 11 * (math.pi * (torch.arange(11, dtype=torch.float64) + 0.5) / 11 * 3).sin()
    found = image_gradient(cosine.reshape(1, 1, 11, 1), "fourier")[1].flatten()
    torch.testing.assert_close(found, exact, atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(61, 90), (90, 61), (32, 32)])
def test_reference_equals_autograd_through_grid_sample(dtype, size):
    x, tolerance = noise(2, 3, *size, dtype=dtype), 1e-4 if dtype == torch.float32 else 1e-11
    theta = torch.eye(2, 3, dtype=dtype).expand(2, 2, 3)
    place = F.affine_grid(theta, list(x.shape), align_corners=True)
    for axis, n in ((0, size[1]), (1, size[0])):
        step = torch.zeros((), dtype=dtype)
        along = torch.zeros(2, dtype=dtype).index_fill(0, torch.tensor(axis), 2 / (n - 1))  # a pixel

        def moved(t, along=along):
            return F.grid_sample(x, place + t * along, align_corners=True)

        autograd = torch.autograd.functional.jvp(moved, step, torch.ones_like(step))[1]
        found = image_gradient(x, "reference")[axis]
        # In the last row and column F.grid_sample reads zeros from outside, the paper's code the mirror image.
        torch.testing.assert_close(found[..., :-1, :-1], autograd[..., :-1, :-1], atol=tolerance, rtol=tolerance)
        assert (image_gradient(x, "central")[axis] - autograd)[..., :-1, :-1].abs().max() > 0.5
    torch.testing.assert_close(image_gradient(x, "reference")[0][..., -1], x[..., -2] - x[..., -1])


def test_reference_follows_the_dtypes_rounding():
    assert not torch.equal(
        derivative_matrix(224, "reference", "mirror", torch.float32),
        derivative_matrix(224, "reference", "mirror", torch.float64),
    )
    assert torch.equal(
        derivative_matrix(224, "bspline", "mirror", torch.float32),
        derivative_matrix(224, "bspline", "mirror", torch.float64),
    )


@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_constants_and_axes_of_one_pixel_have_no_slope(stencil, boundary):
    for x in (torch.ones(1, 1, 5, 8, dtype=torch.float64), noise(1, 1, 1, 1)):
        assert all(g.abs().max() < 1e-13 for g in image_gradient(x, stencil, boundary))
    along = image_gradient(noise(1, 1, 1, 8), stencil, boundary)
    assert along[1].abs().max() < 1e-13
    assert along[0].abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    x = noise(1, 2, 8, 6)
    for stencil in SMOOTH:
        for exact, found in zip(image_gradient(x, stencil), image_gradient(x.to(dtype), stencil), strict=True):
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), exact, atol=30 * torch.finfo(dtype).eps, rtol=0)


def test_unknown_names_are_errors():
    with pytest.raises(SofteqValueError, match=r"stencil: expected one of bspline.*'spline'"):
        image_gradient(noise(1, 1, 4, 4), "spline")
    with pytest.raises(SofteqValueError, match="boundary: expected one of mirror, periodic"):
        resample(noise(1, 1, 4, 4), grid(4, 4), boundary="zeros")


def test_fourier_refuses_what_its_dense_sum_cannot_take():
    with pytest.raises(NotMeasurable, match="use 'bspline'"):
        resample(torch.zeros(1, 1, 512, 512), grid(512, 512).flip(-1) + 0.5, "fourier")


@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_where_the_axes_part_they_are_taken_apart(stencil, boundary):
    x, points = noise(2, 3, 6, 9), 1.3 * grid(5, 7) - 2.7
    found = resample(x, points, stencil, boundary)
    one_by_one = resample(x, points.reshape(1, -1, 2), stencil, boundary)  # a row of points of no rows and columns
    torch.testing.assert_close(found, one_by_one.reshape(2, 3, 5, 7), atol=1e-13, rtol=0)
    narrow = resample(x.float(), points, stencil, boundary)
    torch.testing.assert_close(narrow, found.float(), atol=1e-5, rtol=0)
    assert found.is_contiguous()
    assert one_by_one.is_contiguous()
