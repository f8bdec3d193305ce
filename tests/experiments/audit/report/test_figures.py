"""Figures of a report: where dots and bars lie."""

import math
import re

import pytest

from softeq.experiments.audit.report.figures import Dot, bars, dot_rows, scatter


def test_zero_sits_hollow_at_the_edge_and_nan_is_named():
    drawn = dot_rows([("a", [Dot(0.0, 0, "x"), Dot(1.0, 1, "y", 0.5, 2.0), Dot(math.nan, 0, "z")])], label="L", alt="A")
    assert drawn.count('fill="#FFFFFF"') == 1
    assert "x: 0" in drawn
    assert "z: –" in drawn
    assert 'aria-label="A"' in drawn


def test_the_bar_of_a_negative_share_lies_left_of_zero():
    drawn = bars([("up", 1.5, None), ("down", -0.5, (-0.9, 0.2))], label="share", alt="A")
    (up, wide), (down, narrow) = [
        (float(x), float(w)) for x, w in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)
    ]
    assert wide == pytest.approx(3 * narrow, rel=0.01)
    assert down + narrow == pytest.approx(up, abs=0.2)
    assert "−50.0 %" in drawn


def test_scatter_puts_larger_values_higher_and_further_right():
    drawn = scatter(
        [(1.0, 1.0, 0, "a"), (2.0, 10.0, 0, "b")], title="T", x_label="x", y_label="y", alt="A", log_x=False
    )
    (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert x2 > x1
    assert y2 < y1
