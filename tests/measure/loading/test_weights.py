"""Packaged weights and checkpoints from files."""

import importlib.util
import io
import pickle

import pytest
import torch
from torch import nn

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.measure.loading import weights


class Trap:
    """Would make a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def same(module, other):
    return all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


WRAPS = {
    "flat": lambda s: s,
    "state_dict": lambda s: {"state_dict": s},
    "model": lambda s: {"model": s, "epoch": 3},
    "model_ema": lambda s: {"model_ema": s},
    "twice": lambda s: {"model": {"state_dict": s}},
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_torch_files_nested_and_prefixed(tmp_path, module, wrap, prefix):
    path = tmp_path / "weights.pth"
    torch.save(wrap({prefix + k: v for k, v in module.state_dict().items()}), path)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert not same(module, other)
    weights.load_state(other, weights.read_state_dict(path), path)
    assert same(module, other)


class Wrapped(nn.Module):
    """Has a child that is called as a prefix is, alone or with another."""

    def __init__(self, alone):
        super().__init__()
        self.module = nn.Linear(3, 4)
        self.head = nn.Identity() if alone else nn.Linear(4, 2)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_child_may_be_called_as_a_prefix_is(tmp_path, alone, prefix):
    path = tmp_path / "weights.pth"
    given, other = Wrapped(alone), Wrapped(alone)
    torch.save({prefix + k: v for k, v in given.state_dict().items()}, path)
    weights.load_state(other, weights.read_state_dict(path), path)
    assert same(given, other)


def test_safetensors_under_another_name(tmp_path, module):
    from safetensors.torch import save_file

    save_file({k: v.clone() for k, v in module.state_dict().items()}, str(tmp_path / "weights.bin"))
    assert set(weights.read_state_dict(tmp_path / "weights.bin")) == set(module.state_dict())


def test_safetensors(tmp_path, module):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({k: v.clone() for k, v in module.state_dict().items()}, str(path))
    assert set(weights.read_state_dict(path)) == set(module.state_dict())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SofteqError, match="no whole safetensors"):
        weights.read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    path, mark = tmp_path / "trap.pth", tmp_path / "ran"
    torch.save({"state_dict": Trap(mark)}, path)
    with pytest.raises(SofteqError, match="can run code"):
        weights.read_state_dict(path)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(SofteqError, match="can run code"):
        weights.read_state_dict(plain)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap is one
    assert mark.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files_raise_nothing_else(tmp_path, kind):
    from safetensors.torch import save

    given = {k: v.clone() for k, v in nn.Linear(3, 4).state_dict().items()}
    buffer = io.BytesIO()
    torch.save(given, buffer, _use_new_zipfile_serialization=kind == "zip")
    whole = save(given) if kind == "safetensors" else buffer.getvalue()
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / f"weights.{kind}"
    refused = []
    for i in range(150):
        cut, *places = torch.randint(len(whole), (4,), generator=generator).tolist()
        damaged = bytearray(whole)
        for place in places if i % 3 else []:
            damaged[place] ^= 1 + place % 255
        path.write_bytes(damaged if i % 3 == 1 else damaged[:cut])
        try:
            weights.read_state_dict(path)
        except SofteqError as error:
            refused.append(str(error))
    assert len(refused) > 75
    assert "\n" not in "".join(refused)


def test_truncated_empty_and_absent_files(tmp_path, module):
    path = tmp_path / "weights.pth"
    torch.save(module.state_dict(), path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SofteqError, match="cut off"):
        weights.read_state_dict(path)
    path.write_bytes(b"")
    with pytest.raises(SofteqError, match="is empty"):
        weights.read_state_dict(path)
    with pytest.raises(SofteqError, match="cannot read"):
        weights.read_state_dict(tmp_path / "nothing.pth")
    torch.save([1, 2], path)
    with pytest.raises(SofteqError, match="expected a state dict"):
        weights.read_state_dict(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(SofteqError, match="no tensor"):
        weights.read_state_dict(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), "1 missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected"),
        (lambda s: s.update({"0.weight": torch.zeros(4, 5)}), r"expected 0.weight of shape \(4, 3\), got \(4, 5\)"),
        (lambda s: s["0.weight"].fill_(torch.nan), "NaN"),
    ],
    ids=["missing", "unexpected", "shape", "nan"],
)
def test_what_does_not_fit_changes_nothing(module, change, message):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = {k: v.clone() + 1 for k, v in module.state_dict().items()}
    change(state)
    with pytest.raises(SofteqError, match=message):
        weights.load_state(module, state, "file.pth")
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_batch_counters_may_be_absent(module):
    state = {k: v for k, v in module.state_dict().items() if "num_batches" not in k}
    weights.load_state(module, state, "old.pth")


def test_in_order_checks_shapes_and_names():
    ours = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    given = {"x.weight": torch.ones(2, 3), "x.bias": torch.ones(2)}
    assert list(weights.in_order(given, ours, "f")) == ["a.weight", "a.bias"]
    with pytest.raises(SofteqError, match="in its place"):
        weights.in_order({"x.weight": torch.ones(2, 3), "x.scale": torch.ones(2)}, ours, "f")
    with pytest.raises(SofteqError, match="expected 2 tensors"):
        weights.in_order({"x.weight": torch.ones(2, 3)}, ours, "f")


def test_packaged_file_errors(monkeypatch):
    with pytest.raises(SofteqValueError, match="packages ship weights for"):
        weights.packaged_file("resnet50")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"softeq\[audit\]"):
        weights.packaged_file("tf_efficientnet_lite0")


@pytest.mark.slow
def test_the_vit_gives_what_its_onnx_graph_gives():
    import onnx
    import onnxruntime

    from softeq.measure.loading.sources import load_model

    path = weights.packaged_file("vit_small_patch14_dinov2")
    graph = onnx.load(str(path))
    (last,) = (
        n
        for n in graph.graph.node
        if n.name.startswith("/backbone/layernorm/") and n.output[0].endswith("Add_1_output_0")
    )
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (theirs,) = session.run([last.output[0]], {"input_image": x.numpy()})
    with torch.no_grad():
        ours = load_model("vit_small_patch14_dinov2").module.forward_features(x)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-3)
