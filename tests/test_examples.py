"""Every script under examples/ runs: a few steps of each here, the whole of each where slow tests are asked for."""

import importlib.util
import math
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
NEEDS = {"flow": "escnn", "volumes": "escnn", "irreps": "e3nn", "molecules": "e3nn"}


def load(path: Path):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path):
    found = load(path).main(steps=2)
    assert {"hard", "soft", "none"} <= set(found)
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_soft_is_better_than_hard_where_the_symmetry_nearly_holds(path):
    found = load(path).main()
    accuracy = path.stem in ("convolution", "attention", "jets")
    assert found["soft"] > found["hard"] if accuracy else found["soft"] < found["hard"]


def test_the_gallery_shows_every_example():
    page = (Path(__file__).parents[1] / "docs" / "gallery.md").read_text()
    assert [path.stem for path in EXAMPLES if f'"examples/{path.stem}.py"' not in page] == []
