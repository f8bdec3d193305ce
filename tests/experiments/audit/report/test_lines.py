import re

from softeq.experiments.audit.report.lines import Series, lines

POINTS = [(0.1, 0.01, 0.005, 0.02), (1.0, 0.1, 0.05, 0.2), (10.0, 0.2, None, None)]


def drawn(*series, **options):
    return lines(list(series), title="<shift>", x_label="pixels", y_label="change", alt="it rises", **options)


def test_points_band_and_slope_are_drawn_and_names_escaped():
    text = drawn(Series("<b>", 0, POINTS, 0.1), log_x=True, log_y=True)
    assert text.count("<circle") == 3
    assert "&lt;b&gt;: 0.1 at 1" in text
    assert "&lt;shift&gt;" in text
    assert "fill-opacity" in text
    assert 'stroke-dasharray="2 4"' in text
    assert ">pixels</text>" in text


def test_higher_values_stand_higher():
    text = drawn(Series("a", 0, POINTS), log_x=True)
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', text)]
    assert heights == sorted(heights, reverse=True)
    assert 'stroke-dasharray="2 4"' not in text


def test_what_cannot_stand_on_an_axis_is_left_out():
    text = drawn(
        Series("a", 0, [(0.0, 0.1, None, None), (1.0, float("nan"), None, None), (2.0, 0.1, None, None)]), log_x=True
    )
    assert text.count("<circle") == 1
