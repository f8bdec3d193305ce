"""The wheel, unpacked by itself with no extra importable, trains a layer: the core needs torch and numpy alone."""

import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXTRAS = (
    "typer",
    "rich",
    "matplotlib",
    "torchdiffeq",
    "e3nn",
    "escnn",
    "timm",
    "scipy",
    "safetensors",
    "ase",
    "tblite",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".uv-bootstrap" / "bin")
    if uv is None:
        pytest.skip("uv is not installed; the Makefile brings a copy of its own")
    out = tmp_path_factory.mktemp("dist")
    result = subprocess.run(
        [uv, "build", "--wheel", "--out-dir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


PROGRAM = """
    import sys

    blocked, site = sys.argv[1].split(","), sys.argv[2]

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in blocked:
                raise ImportError(f"{name} is an extra and not installed here")

    # The checkout may be installed in editable form: leave no way to it.
    sys.meta_path[:] = [Block()] + [f for f in sys.meta_path if "editable" not in repr(f).lower()]
    sys.path.insert(0, site)

    import torch
    import softeq

    assert softeq.__file__.startswith(site), softeq.__file__
    torch.set_num_threads(1)
    torch.manual_seed(0)
    group = softeq.groups.SO(3)
    rep_in, rep_out = (softeq.Scalar + 2 * softeq.Vector)(group), softeq.T(2)(group)
    layer = softeq.SoftLinear(rep_in, rep_out)
    x = torch.randn(64, rep_in.size)
    y = torch.einsum("n,ij->nij", x[:, 0], torch.eye(3)).flatten(1)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (layer(x) - y).square().mean()
        (loss + softeq.prior_penalty(layer, softeq.Prior()) / len(x)).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0], losses
    softeq.assert_equivariant(softeq.harden(layer), rep_in, rep_out)
    folded = softeq.fold(layer)
    assert torch.allclose(folded(x), layer(x), atol=1e-6)
    print("trained", *sorted(name for name in sys.modules if name in blocked))
"""


def test_the_wheel_alone_trains_a_layer(unpacked, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), ",".join(EXTRAS), str(unpacked)],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SOFTEQ_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.stdout.strip() == "trained", result.stderr


def test_the_wheel_holds_one_package_and_says_that_it_is_typed(unpacked):
    top = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"softeq"}
    assert (unpacked / "softeq" / "py.typed").exists()


def test_the_wheel_requires_torch_and_numpy_alone(unpacked):
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    required = Parser().parsestr(metadata.read_text()).get_all("Requires-Dist")
    core = {line.split(">")[0].split(";")[0].strip() for line in required if "extra ==" not in line}
    assert core == {"torch", "numpy"}


def test_the_wheel_brings_the_licence_and_the_command(unpacked):
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))
    (scripts,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "softeq = softeq.experiments.cli:main" in scripts.read_text()
