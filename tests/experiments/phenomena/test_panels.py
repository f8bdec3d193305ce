import pytest

from softeq.errors import SofteqError
from softeq.experiments.phenomena.panels import Panel, _panel, panels


@pytest.fixture
def records(make_record):
    return [
        make_record(variant=v, seed=s, preset="default", **{"a@1": 1.0 + s, "a@2": value, "b@1": 3.0})
        for v, value in (("hard", 2.0), ("soft", float("nan")))
        for s in range(2)
    ]


def test_a_panel_draws_the_means_and_leaves_out_what_is_not_finite(records):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    handles = _panel(axes, Panel("a", ("a@1", "a@2"), (1.0, 2.0), logy=True), records)
    assert list(handles) == ["hard", "soft"]
    assert handles["hard"].get_ydata().tolist() == [1.5, 2.0]
    assert handles["soft"].get_xdata().tolist() == [1.0]
    assert (axes.get_yscale(), axes.get_xscale()) == ("log", "linear")
    texts = _panel(Figure().add_subplot(), Panel("b", ("b@1", "a@1"), ("one", "two")), records)
    assert texts["hard"].get_xdata().tolist() == [0.0, 1.0]


def test_rows_of_panels_are_a_figure_and_nothing_to_draw_is_an_error(records, tmp_path):
    row = [Panel("a", ("a@1",), (1.0,)), Panel("b", ("b@1",), ("one",))]
    panels(row, row[:1])(records, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    with pytest.raises(SofteqError, match="nothing to draw"):
        panels([Panel("c", ("c@1",), (1.0,))])(records, tmp_path / "figure.png")
