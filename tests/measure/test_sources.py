"""Models by name."""

import sys

import pytest
import torch
from torch import nn

from measure import sources
from measure.images import accuracy, load_images
from measure.sources import load_model, model_names
from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A module ``own_nets`` that can be imported."""
    (tmp_path / "own_nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n    image_size = (8, 12)\n    num_classes = 3\n"
        "def small():\n    return Net(4, 3)\n"
        "def nothing():\n    return 7\n"
        "number = 5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_nets"
    sys.modules.pop("own_nets", None)


def test_packaged_weights_recognise_pictures():
    model = load_model("tf_efficientnet_lite0")
    assert (model.image_size, model.classes, model.mean) == ((224, 224), 1000, (0.5, 0.5, 0.5))
    images = load_images("demo", model=model, limit=20)
    with torch.no_grad():
        guesses = model.module(images.x).argmax(1)
    assert accuracy(guesses, images.labels) == 0.9
    assert not model.module.training


def test_random_weights_are_the_seeds():
    before = torch.get_rng_state()
    a, b, c = (load_model("resnet10t", weights="random", seed=s).module.state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)
    assert torch.equal(before, torch.get_rng_state())


def test_the_vit_has_one_prefix_token_and_no_head():
    model = load_model("vit_small_patch14_dinov2", weights="packaged")
    assert (model.image_size, model.classes, model.prefix_tokens) == ((224, 224), None, 1)
    assert "ViT-S/14" in model.source


def test_weights_from_a_file(tmp_path):
    model = load_model("resnet10t", weights="random", seed=3)
    torch.save(model.module.state_dict(), tmp_path / "w.pth")
    again = load_model("resnet10t", weights=tmp_path / "w.pth", dtype=torch.float64)
    assert again.source == "file w.pth"
    assert next(again.module.parameters()).dtype == torch.float64
    with pytest.raises(SofteqError, match="does not fit"):
        load_model("resnet14t", weights=tmp_path / "w.pth")


def test_no_network_is_one_line_with_a_way_out(monkeypatch):
    def unresolved(*_):
        raise OSError("no name service")

    monkeypatch.setattr(sources.socket, "getaddrinfo", unresolved)
    with pytest.raises(SofteqError, match="--weights FILE") as caught:
        load_model("resnet10t", weights="pretrained")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet5O", "did you mean resnet50"), ("zzzzqqq", "timm has no")],
)
def test_unknown_names(name, message):
    with pytest.raises(SofteqValueError, match=message):
        load_model(name)


def test_packaged_weights_that_no_package_has():
    with pytest.raises(SofteqValueError, match="packages ship weights for"):
        load_model("resnet10t", weights="packaged")


def test_a_factory(factory, tmp_path):
    model = load_model(f"{factory}:small")
    assert (model.image_size, model.classes, model.source) == ((8, 12), 3, "as the factory made it")
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / "w.pth")
    assert load_model(f"{factory}:small", weights=tmp_path / "w.pth").source == "file w.pth"


def test_bad_factories(factory):
    with pytest.raises(SofteqValueError, match="cannot import"):
        load_model("no_such_package:net")
    with pytest.raises(SofteqValueError, match="has no 'large'"):
        load_model(f"{factory}:large")
    with pytest.raises(SofteqTypeError, match="callable"):
        load_model(f"{factory}:number")
    with pytest.raises(SofteqTypeError, match=r"return an nn\.Module"):
        load_model(f"{factory}:nothing")
    with pytest.raises(SofteqValueError, match="no pretrained weights"):
        load_model(f"{factory}:small", weights="pretrained")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there():
    with pytest.raises(SofteqError, match="CUDA was asked for"):
        load_model("resnet10t", weights="random", device="cuda")


def test_an_unknown_device():
    with pytest.raises(SofteqValueError, match="device"):
        load_model("resnet10t", weights="random", device="abacus")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"softeq\[timm\]"):
        load_model("resnet10t")


def test_the_list_names_what_packages_ship():
    assert "tf_efficientnet_lite2" in model_names()
    assert "DINO" not in " ".join(model_names().values())
