"""The notebooks are their pages, executed to the end without an error, and small."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"tutorial": "docs/tutorial.md", "audit": "docs/notebooks/audit.md", "dial": "docs/notebooks/dial.md"}


def complaints(notebook: dict, page: str) -> list[str]:
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = [f"{cell['id']}: not in the page" for cell in code if "".join(cell["source"]) + "\n```\n" not in page]
    if page.count("```python\n") != len(code):
        found.append(f"{page.count('```python')} blocks in the page, {len(code)} cells")
    if [cell["execution_count"] for cell in code] != list(range(1, len(code) + 1)):
        found.append("not executed from top to bottom")
    if not any(cell["outputs"] for cell in code):
        found.append("nothing is shown")
    outputs = [output for cell in code for output in cell["outputs"]]
    found += [output["output_type"] for output in outputs if output["output_type"] == "error"]
    return found + ["a warning is shown" for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_is_its_page_executed(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert complaints(json.loads(text), (ROOT / PAGES[name]).read_text(encoding="utf-8")) == []
    assert len(text) < 200_000
    assert str(ROOT) not in text


def test_there_are_no_others():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(PAGES)


def test_these_tests_can_fail():
    cell = {"cell_type": "code", "id": "a", "source": ["1 / 0"], "execution_count": 2, "outputs": []}
    wrong = complaints({"cells": [cell]}, "```python\n1 / 1\n```\n```python\n2\n```\n")
    assert wrong == [
        "a: not in the page",
        "2 blocks in the page, 1 cells",
        "not executed from top to bottom",
        "nothing is shown",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_runs_anew(name):
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("make_notebooks", ROOT / "notebooks" / "make.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = (ROOT / PAGES[name]).read_text(encoding="utf-8")
    assert complaints(made.executed(name), page) == []
