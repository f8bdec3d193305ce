from pathlib import Path

import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record
from softeq.experiments.show import readme

ROOT = Path(__file__).resolve().parents[3]
EMPTY = """# Title

<!-- table:toy:smoke -->
<!-- /table -->

Between.
<!-- table:toy:default -->
old
<!-- /table -->
End."""


@pytest.fixture
def results(tmp_path, toy, make_record):
    folder = tmp_path / "results"
    for preset in ("smoke", "default"):
        for seed in range(2):
            record.append(folder / "toy.jsonl", make_record(preset=preset, seed=seed, test_mse=1.0 + seed))
    return folder


def test_the_readme_is_what_results_give():
    """Regenerate with ``python -m experiments.show.readme``."""
    pages = readme.pages(ROOT)
    assert len(pages) > 3
    assert {page.name: readme.stale_tables(page, ROOT / "results") for page in pages} == {p.name: [] for p in pages}


def test_tables_are_written_between_their_markers_and_nothing_else_moves(tmp_path, results):
    path = tmp_path / "README.md"
    path.write_text(EMPTY)
    assert readme.stale_tables(path, results) == ["toy:smoke", "toy:default"]
    assert readme.update_readme(path, results)
    text = path.read_text()
    assert "**toy; preset smoke; 2 seeds; records from results; commit 1234567**" in text
    assert "1.5 ± 0.707 (2)" in text
    assert text.startswith("# Title\n\n<!-- table:toy:smoke -->\n\n**toy")
    assert "\n<!-- /table -->\n\nBetween.\n<!-- table:toy:default -->\n" in text
    assert text.endswith("\n<!-- /table -->\nEnd.")
    assert "old" not in text
    assert not readme.update_readme(path, results)
    assert readme.stale_tables(path, results) == []


def test_the_checker_sees_one_changed_digit_and_one_new_record(tmp_path, results, make_record):
    path = tmp_path / "README.md"
    path.write_text(EMPTY)
    readme.update_readme(path, results)
    good = path.read_text()
    path.write_text(good.replace("0.707", "0.708", 1))
    assert readme.stale_tables(path, results) == ["toy:smoke"]
    path.write_text(good)
    record.append(results / "toy.jsonl", make_record(preset="default", seed=2, test_mse=1.0))
    assert readme.stale_tables(path, results) == ["toy:default"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("<!-- table:toy:smoke -->\n", SofteqError, "table:toy:smoke --> has no <!-- /table --> after it"),
        ("<!-- table:toy:smoke -->\n" + EMPTY, SofteqError, "has no <!-- /table -->"),
        ("<!-- table:tog:smoke -->\n<!-- /table -->", SofteqValueError, "unknown experiment 'tog'"),
        (
            "<!-- table:toy:paper -->\n<!-- /table -->",
            SofteqError,
            "toy:paper --> cannot be .* no records of preset 'paper'",
        ),
    ],
    ids=["no end", "next before end", "unknown", "no records"],
)
def test_a_marker_that_cannot_be_filled_is_an_error(tmp_path, results, text, error, message):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(error, match=message):
        readme.update_readme(path, results)
    assert path.read_text() == text


def test_a_readme_without_markers_stays(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    assert readme.stale_tables(path, tmp_path) == []
    assert not readme.update_readme(path, tmp_path)
