import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from softeq.experiments.phenomena import connectivity_figure
from softeq.experiments.phenomena.connectivity_figure import PLACES, plot
from softeq.experiments.training.arms import BLUE, VERMILION


def metrics(height, simplexes=True):
    paths = {f"{key}_{path}": [height] * PLACES for key in ("losses", "defects") for path in ("line", "curve")}
    found = paths | ({"simplex2_log_volume": height, "simplex2_loss": 2 * height} if simplexes else {})
    return {f"{key}@rotated": value for key, value in found.items()}


@pytest.fixture
def records(make_record):
    hard = [make_record("hard", seed, **metrics(0.1 * (1 + seed), simplexes=False)) for seed in range(2)]
    return [*hard, make_record("soft", 0, **metrics(0.3))]


@pytest.fixture
def drawn(monkeypatch):
    """The figure of whatever is drawn, instead of a file."""
    kept = []

    def draw(path, size, fill):
        kept.append(Figure(figsize=size))
        fill(kept[0].add_subplot())

    monkeypatch.setattr(connectivity_figure, "draw_figure", draw)
    return kept


def test_paths_are_means_over_seeds_in_their_colours_and_simplexes_a_dot_each(records, drawn):
    plot(records, "a.png")
    losses, defects, simplexes = drawn[0].axes
    assert losses.get_yscale() == "log"
    for panel in (losses, defects):
        lines = [line for line in panel.lines if line.get_linestyle() == "-"]
        solid = {to_hex(line.get_color()).upper(): line.get_ydata() for line in lines}
        assert set(solid) == {BLUE, VERMILION}
        assert list(solid[BLUE]) == pytest.approx([0.15] * PLACES)
    dots = [dot for group in simplexes.collections for dot in group.get_offsets().tolist()]
    assert dots == [[0.3, 0.6]]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["hard", "soft"]


def test_runs_of_before_there_were_simplexes_are_drawn(records, tmp_path):
    plot(records, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
