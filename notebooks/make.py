"""``make notebooks``: pages of the docs as notebooks, executed, with what they printed and drew.

A notebook is its page: code blocks become cells, what a page shows of their output is left to the cells themselves.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"tutorial": "docs/tutorial.md", "audit": "docs/notebooks/audit.md", "dial": "docs/notebooks/dial.md"}
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n*```text\n.*?^```\n)?", re.M | re.S)
_LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")


def cells(name: str) -> list[tuple[str, str]]:
    """The page's cells, ``("markdown" | "code", text)``, with links that lead from the folder of notebooks."""
    page = ROOT / PAGES[name]
    folder = Path("..") / page.parent.relative_to(ROOT)
    found, end, text = [], 0, page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        found += [("markdown", text[end : block.start()]), ("code", block[1])]
        end = block.end()
    found.append(("markdown", text[end:]))
    linked = [(kind, _LINK.sub(rf"]({folder}/\1)", part) if kind == "markdown" else part) for kind, part in found]
    return [(kind, part.strip()) for kind, part in linked if part.strip()]


def executed(name: str) -> nbformat.NotebookNode:
    """The notebook with its outputs, and nothing of the machine that it ran on."""
    makers = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    made = [makers[kind](text, id=f"{name}-{k}") for k, (kind, text) in enumerate(cells(name))]
    notebook = nbformat.v4.new_notebook(cells=made)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(ROOT)}})
    # A progress bar's warning, which has a path of this machine.
    client.execute(env=os.environ | {"PYTHONWARNINGS": "ignore:IProgress"})
    notebook.metadata.pop("language_info", None)
    return notebook


def main(names: list[str]) -> int:
    """Make these, all by default."""
    for name in names or list(PAGES):
        nbformat.write(executed(name), Path(__file__).with_name(f"{name}.ipynb"))
        print(f"notebooks/{name}.ipynb", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
