"""The tree keeps its own limits: no file over 300 lines, no function over 60, signature and docstring counted."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("softeq", "models", "measure", "experiments", "benchmarks", "examples", "notebooks", "tests")
FILE, FUNCTION = 300, 60


def too_long(source, name):
    """What of a file of this source and name is over the limits, a line each."""
    lines = source.count("\n") + (not source.endswith("\n"))
    found = [f"{name}: {lines} lines, {FILE} at most"] if lines > FILE else []
    if lines <= FUNCTION:
        return found
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION:
                found.append(f"{name}:{node.lineno}: {node.name} has {length} lines, {FUNCTION} at most")
    return found


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if (ROOT / folder).exists()])
def test_files_and_functions_are_short(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    assert [line for path in paths for line in too_long(path.read_text("utf-8"), path.relative_to(ROOT))] == []


def body(lines, indent="    "):
    return f"{indent}pass\n" * lines


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 300, []),
        ("x = 1\n" * 301, ["a.py: 301 lines, 300 at most"]),
        ("x = 1\n" * 300 + "x = 1", ["a.py: 301 lines, 300 at most"]),
        ("@g\n@g\ndef f():\n" + body(59), []),
        ("\ndef f(\n    a,\n):\n" + body(58), ["a.py:2: f has 61 lines, 60 at most"]),
        ('async def f():\n    """Does."""\n' + body(59), ["a.py:1: f has 61 lines, 60 at most"]),
        ("class A:\n    def f(self):\n" + body(60, 8 * " "), ["a.py:2: f has 61 lines, 60 at most"]),
        ("def f():\n    def g():\n" + body(59, 8 * " "), ["a.py:1: f has 61 lines, 60 at most"]),
        (
            "def f():\n" + body(60) + "x = 1\n" * 300,
            ["a.py: 361 lines, 300 at most", "a.py:1: f has 61 lines, 60 at most"],
        ),
    ],
    ids=["file", "long file", "no last newline", "function", "signature", "docstring", "method", "inner", "both"],
)
def test_what_is_too_long_is_found(source, found):
    assert too_long(source, "a.py") == found
