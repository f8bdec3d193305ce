"""The pages' code runs, prints what they show, and their links lead somewhere.

A block of python that a block of text follows must print that text (``...`` stands for anything). The blocks of a page
share one namespace. A page with ``<!-- not run: reason -->`` in front of a block has that block left out.
"""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest

import softeq

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"])
BLOCK = re.compile(r"^(<!-- not run: .+ -->\n)?```python\n(.*?)^```\n(?:\n*```text\n(.*?)^```\n)?", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[tuple[str, str | None]]:
    return [(code, shown) for skipped, code, shown in BLOCK.findall(text) if not skipped]


def run(text: str) -> None:
    space: dict = {"__name__": "page"}
    for code, shown in blocks(text):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "page", "exec"), space)
        if shown:
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(shown, out.getvalue(), flags), out.getvalue()


def dead_links(page: Path, text: str) -> list[str]:
    """Links to files that are not there; `#anchor`s are the site's strict build's."""
    code_out = re.sub(r"```.*?```", "", text, flags=re.S)
    targets = [t for t in LINK.findall(code_out) if "://" not in t and not t.startswith(("#", "mailto:"))]
    return [t for t in targets if not (page.parent / t.split("#")[0]).exists()]


NOTEBOOKS = ROOT / "docs" / "notebooks"  # minutes; see test_notebooks.py


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p.read_text()) and p.parent != NOTEBOOKS], ids=name)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere(page):
    assert dead_links(page, page.read_text()) == []


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    whole = ("groups", "reps", "testing", "errors", "fields", "strength")  # modules that are shown as they are
    shown = {name for home, names in softeq._HOMES.items() if home in whole for name in names}
    missing = [f"softeq.{name}" for name in softeq.__all__ if name not in shown]
    missing += [f"softeq.measure.{name}" for name in softeq.measure.__all__]
    assert [name for name in missing if f"::: {name}\n" not in text] == []


def test_these_tests_can_fail(tmp_path):
    with pytest.raises(AssertionError):
        run("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(ZeroDivisionError):
        run("```python\n1 / 0\n```\n")
    run("```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n")
    run("<!-- not run: a reason -->\n```python\n1 / 0\n```\n")
    page = tmp_path / "a.md"
    assert dead_links(page, "[x](nowhere.md) [y](a.md#b) [z](https://example.org)") == ["nowhere.md", "a.md#b"]
