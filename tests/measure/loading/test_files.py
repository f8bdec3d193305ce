"""Checkpoint files as Python objects."""

import argparse
import collections
import datetime
import io
import json
import pathlib
import pickle
import sys
import types

import numpy
import pytest
import torch
from torch import nn

from softeq.errors import SofteqError
from softeq.measure.loading.files import read_file


class Trap:
    """Would make a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def module():
    return nn.Linear(3, 4)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    path, mark = tmp_path / "trap.pth", tmp_path / "ran"
    torch.save({"state_dict": Trap(mark)}, path)
    with pytest.raises(SofteqError, match="can run code"):
        read_file(path)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(SofteqError, match="can run code"):
        read_file(plain)
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
            read_file(path)
        except SofteqError as error:
            refused.append(str(error))
    assert len(refused) > 75
    assert "\n" not in "".join(refused)


def test_truncated_empty_and_absent_files(tmp_path, module):
    path = tmp_path / "weights.pth"
    torch.save(module.state_dict(), path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SofteqError, match="cut off"):
        read_file(path)
    path.write_bytes(b"")
    with pytest.raises(SofteqError, match="is empty"):
        read_file(path)
    with pytest.raises(SofteqError, match="cannot read"):
        read_file(tmp_path / "nothing.pth")


BESIDE = {
    "namespace": argparse.Namespace(model="resnet50", lr=0.1, out=pathlib.Path("runs")),
    "numpy scalar": numpy.float64(0.5),
    "numpy integer": numpy.int64(5),
    "numpy bool": numpy.bool_(True),
    "numpy array": numpy.zeros((2, 2), numpy.float32),
    "numpy random state": numpy.random.RandomState(0).get_state(),
    "date": datetime.datetime.now(datetime.UTC),
    "path": pathlib.Path("runs"),
    "windows path": pathlib.PureWindowsPath("c:/runs"),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("abc"),
    "deque": collections.deque([1.0]),
    "set": {1, 2},
    "slice": slice(1, 2),
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "complex": 1j,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("value", BESIDE.values(), ids=BESIDE)
def test_what_training_scripts_keep_beside_the_weights(tmp_path, value, zipped):
    torch.save({"state": torch.ones(2), "beside": value}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_file(tmp_path / "w.pt")["state"], torch.ones(2))


@pytest.fixture
def framework(monkeypatch):
    """Classes as a framework has them that is not installed where the file is read."""

    def make(path):
        place, _, name = path.rpartition(".")
        kind = type(name, (dict,), {"__module__": place, "__qualname__": name})
        for i in range(len(place.split("."))):
            part = ".".join(place.split(".")[: i + 1])
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        setattr(sys.modules[place], name, kind)
        return kind

    return make


@pytest.mark.parametrize("path", ["lightning.fabric.utilities.data.AttributeDict", "easydict.EasyDict"])
def test_a_frameworks_settings_are_read_without_it(tmp_path, framework, path, monkeypatch):
    kind = framework(path)
    settings = kind(lr=0.1, inner=kind(depth=3))
    settings.__dict__["more"] = 1
    torch.save({"state": torch.ones(2), "hyper_parameters": settings}, tmp_path / "w.ckpt")
    monkeypatch.undo()
    read = read_file(tmp_path / "w.ckpt")["hyper_parameters"]
    assert read["inner"]["depth"] == 3


def test_other_types_are_refused_by_name(tmp_path, framework):
    torch.save({"state": torch.ones(2), "config": framework("somebodys.project.Config")()}, tmp_path / "w.pt")
    with pytest.raises(SofteqError, match=r"holds a somebodys.project.Config.*can run code"):
        read_file(tmp_path / "w.pt")
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(SofteqError, match="a whole pickled module"):
        read_file(tmp_path / "w.pt")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 102469840\n"
NONE = {
    "lfs": (LFS, "Git-LFS pointer.*git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<html><body>Sign in", "a web page"),
    "html with space": (b"\n\n  <html><head>", "a web page"),
    "json": (b'{"architectures": ["ResNet"]}', "JSON text without weights"),
    "broken json": (b'{"weight_map": {', "begins like JSON"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "gzip": (b"\x1f\x8b" + bytes(100), "gzip.*unpack"),
    "numpy": (b"\x93NUMPY" + bytes(100), "numpy array"),
    "gguf": (b"GGUF" + bytes(100), "quantised"),
}


@pytest.mark.parametrize(("content", "message"), NONE.values(), ids=NONE)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
def test_what_is_no_checkpoint_is_refused_as_what_it_is(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    if name == "w.safetensors" and "json" in message.lower():
        message = "no whole safetensors"
    with pytest.raises(SofteqError, match=message) as caught:
        read_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_archives_and_folders(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    numpy.savez(tmp_path / "w.npz", a=numpy.zeros(2))
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(b"x")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").write_bytes(b"x")
    for name, message in (("w.pt", "TorchScript"), ("w.npz", "npz"), ("dcp", "distributed"), ("hub", "model.safetens")):
        with pytest.raises(SofteqError, match=message):
            read_file(tmp_path / name)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_by_their_index(tmp_path, module, kind):
    from safetensors.torch import save_file

    given = {k: v.detach().clone() for k, v in module.state_dict().items()}
    names = [f"model-0000{i}-of-00002.{kind}" for i in (1, 2)]
    for name, (key, value) in zip(names, given.items(), strict=True):
        save_file({key: value}, str(tmp_path / name)) if kind == "safetensors" else torch.save(
            {key: value}, tmp_path / name
        )
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict(zip(given, names, strict=True))}))
    read = read_file(index)
    assert list(read) == list(given)
    assert all(torch.equal(read[k], v) for k, v in given.items())
    (tmp_path / names[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(SofteqError, match=f"names the shard {names[1]}, which is not beside it"):
        read_file(index)
    index.write_text(json.dumps({"weight_map": {"weight": "../secret.bin"}}))
    with pytest.raises(SofteqError, match="expected a file beside it"):
        read_file(index)
    index.write_text(json.dumps({"weight_map": {"other": names[0]}}))
    with pytest.raises(SofteqError, match="in no shard, the first is other"):
        read_file(index)
