"""Models by name."""

import sys

import pytest
import torch
from torch import nn

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.measure.loading.images import accuracy, load_images
from softeq.measure.loading.sources import Model, Preparation, load_model, model_names


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A module ``own_nets`` that can be imported."""
    (tmp_path / "own_nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n    image_size = (8, 12)\n    num_classes = 3\n"
        "def small():\n    return Net(4, 3)\n"
        "def nothing():\n    return 7\n"
        "def needs(size):\n    return Net(4, 3)\n"
        "class Group:\n"
        "    @staticmethod\n"
        "    def grey():\n"
        "        net = Net(4, 3)\n"
        "        net.register_buffer('mean', torch.full((1, 1, 1, 1), 0.25))\n"
        "        net.std = 0.75\n"
        "        return net\n"
        "    @staticmethod\n"
        "    def odd():\n"
        "        net = Net(4, 3)\n"
        "        net.mean, net.std = (0.2, 0.3, 0.4), (0.2, 0.3)\n"
        "        return net\n"
        "number = 5\n"
        "Plain = lambda: torch.nn.Conv2d(3, 4, 3)\n"
        "net = Plain()\n"
        "compiled = torch.compile(net, backend='eager')\n"
        "def leaves():\n    raise SystemExit(3)\n"
    )
    (tmp_path / "own_exit.py").write_text("import sys\nsys.exit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_nets"
    sys.modules.pop("own_nets", None)


def test_packaged_weights_recognise_images():
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


def test_another_image_size():
    assert load_model("resnet10t", weights="random", image_size=96).image_size == (96, 96)
    model = load_model("vit_tiny_patch16_224", weights="random", image_size=(32, 64))  # 2 x 4 patches
    assert model.image_size == (32, 64)
    assert model.module(torch.zeros(1, 3, 32, 64)).shape == (1, 1000)
    with pytest.raises(SofteqTypeError, match="image_size"):
        load_model("resnet10t", weights="random", image_size="large")


def test_the_data_configuration_is_timms(monkeypatch):
    model = load_model("test_vit", weights="random")
    assert (model.image_size, model.crop, model.crop_mode, model.prefix_tokens) == ((160, 160), 0.95, "center", 1)
    import timm

    changed = timm.data.resolve_model_data_config(model.module) | {"crop_mode": "squash", "crop_pct": 1.0}
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda module: changed)
    model = load_model("test_vit", weights="random")
    assert (model.crop, model.crop_mode) == (1.0, "squash")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", "did you mean resnet50"),
        ("zzzzqqq", "timm has no"),
        ("resnet10t.a9_in1k", r"Invalid pretrained tag \(a9_in1k\)"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(SofteqValueError, match=message):
        load_model(name)


def test_weights_that_are_neither_a_word_nor_a_file():
    with pytest.raises(SofteqValueError, match="expected pretrained, random, packaged or a file, got 'pretrain'"):
        load_model("resnet10t", weights="pretrain")


def test_packaged_weights_that_no_package_has():
    with pytest.raises(SofteqValueError, match="packages ship weights for"):
        load_model("resnet10t", weights="packaged")


def test_a_factory(factory, tmp_path):
    model = load_model(f"{factory}:small")
    assert (model.image_size, model.classes, model.source) == ((8, 12), 3, "as the factory made it")
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / "w.pth")
    assert load_model(f"{factory}:small", weights=tmp_path / "w.pth").source == "file w.pth"


def test_what_a_factorys_module_says_of_its_images(factory):
    model = load_model(f"{factory}:Group.grey", image_size=20)
    assert (model.image_size, model.mean, model.std) == ((20, 20), (0.25,), (0.75,))
    with pytest.raises(SofteqValueError, match="mean, std"):
        load_model(f"{factory}:Group.odd")


@pytest.mark.parametrize(
    "wrong", [{"image_size": (0, 4)}, {"std": (0.5, 0.0, 0.5)}, {"mean": (0.5, 0.5)}, {"crop": 0.0}], ids=str
)
def test_images_cannot_be_prepared_so(wrong):
    right = {"image_size": (4, 4), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop": 1.0}
    rest = {"interpolation": "bicubic", "classes": None, "prefix_tokens": None, "source": ""}
    Model("m", nn.Identity(), **right, **rest)
    with pytest.raises(SofteqValueError, match=next(iter(wrong))):
        Model("m", nn.Identity(), **(right | wrong), **rest)


def test_bad_factories(factory):
    with pytest.raises(SofteqError, match=r"needs\(\) without arguments failed: TypeError"):
        load_model(f"{factory}:needs")
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


def test_classes_and_channels_are_read_from_the_weights(tmp_path):
    import timm

    own = timm.create_model("resnet10t", num_classes=7, in_chans=1)
    torch.save({"state_dict": {f"model.{k}": v for k, v in own.state_dict().items()}}, tmp_path / "w.ckpt")
    model = load_model("resnet10t", weights=tmp_path / "w.ckpt")
    x = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(model.module(x), own.eval()(x))
    assert (model.classes, len(model.mean)) == (7, 1)
    assert model.choices == ("classes: 7, read from the weights", "channels: 1, read from the weights")
    assert model.source == "file w.ckpt: state_dict.model"
    with pytest.raises(SofteqError, match=r"expected fc\.weight of shape"):
        load_model("resnet10t", weights=tmp_path / "w.ckpt", num_classes=8)
    with pytest.raises(SofteqValueError, match="nothing under 'ema'"):
        load_model("resnet10t", weights=tmp_path / "w.ckpt", weights_key="ema")


def test_a_number_of_classes():
    assert load_model("resnet10t", weights="random", num_classes=5).classes == 5
    assert load_model("resnet10t", weights="random", num_classes=0).classes is None
    with pytest.raises(SofteqValueError, match="a head of 5 would be random"):
        load_model("tf_efficientnet_lite0", num_classes=5)
    with pytest.raises(SofteqValueError, match="expected --weights FILE beside it"):
        load_model("resnet10t", weights="random", weights_key="model")


def test_what_was_assumed_is_told_and_can_be_said(factory):
    model = load_model(f"{factory}:Plain")
    assert (model.mean, model.image_size) == ((0.5, 0.5, 0.5), (224, 224))
    assert model.choices == (
        "mean and std of the images: 0.5, as the network says nothing of it (--mean and --std)",
        "image size: 224, as the network says nothing of it (--size)",
    )
    said = load_model(f"{factory}:Plain", preparation=Preparation((0.1, 0.2, 0.3), (0.4,), (8, 12), 0.9))
    assert (said.mean, said.std, said.image_size, said.crop) == ((0.1, 0.2, 0.3), (0.4,) * 3, (8, 12), 0.9)
    assert said.choices == ()
    for wrong, message in (
        (Preparation(mean=(0.1, 0.2)), "mean: expected 1 value or 3, one per channel of the network, got 2"),
        (Preparation(std=(0.0,)), "std: expected numbers above 0"),
        (Preparation(std=(float("nan"),)), "finite"),
        (Preparation(crop=1.5), r"crop: expected a share in \(0, 1\]"),
        (Preparation(size=0), "image_size"),
    ):
        with pytest.raises(SofteqValueError, match=message):
            load_model(f"{factory}:Plain", preparation=wrong)


def test_an_instance_and_a_compiled_network(factory):
    assert isinstance(load_model(f"{factory}:net").module, nn.Conv2d)
    model = load_model(f"{factory}:compiled")
    assert isinstance(model.module, nn.Conv2d)
    assert model.choices[0] == "measured inside its OptimizedModule"


def test_a_factory_cannot_end_the_program(factory):
    with pytest.raises(SofteqError, match=r"leaves\(\) ends the program \(sys.exit\(3\)\)"):
        load_model(f"{factory}:leaves")
    with pytest.raises(SofteqError, match="ends the program when it is imported"):
        load_model("own_exit:net")
