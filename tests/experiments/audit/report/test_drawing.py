"""Numbers, axes and images as a report writes them."""

import io
import math

import numpy
import pytest

from softeq.experiments.audit.report.drawing import axis, number, png


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (-1.5, "−1.5"),
        (1234.0, "1234"),
        (1.234e-5, "1.23×10⁻⁵"),
        (-2e12, "−2.00×10¹²"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("values", [(1e-9, 1.0), (0.3, 0.4), (5.0,), (), (2e5, 3e7), (1.0, 1.0), (800.0, 1050.0)])
def test_an_axis_holds_its_values_and_has_ticks(values, log):
    scale = axis(values, 10.0, 110.0, log=log)
    assert all(10 < scale(v) < 110 for v in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(9.9 <= scale(t) <= 110.1 for t in ticks)
    assert ticks == sorted(ticks)
    assert scale(-1e30) == 10


def test_png_is_read_back_the_same():
    image = pytest.importorskip("PIL.Image")
    pixels = numpy.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=numpy.uint8)
    assert (numpy.asarray(image.open(io.BytesIO(png(pixels)))) == pixels).all()
