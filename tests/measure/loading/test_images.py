"""Images for an audit."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from softeq.errors import MissingExtraError, SofteqError, SofteqValueError
from softeq.measure.loading.images import accuracy, load_images, prepare, read_image
from softeq.measure.loading.sources import Model

HALF = (0.5, 0.5, 0.5)


def model(size=(32, 32), classes=10, crop=1.0, half=HALF, interpolation="bilinear", crop_mode="center"):
    return Model("m", nn.Identity(), size, half, half, interpolation, classes, None, "", crop, crop_mode)


def save(path, mode="RGB", size=(40, 40), value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16", "I", "F", "P") else (value,) * len(Image.new(mode, (1, 1)).getbands())
    Image.new(mode, size, colour).save(path)
    return path


def test_demo_images_have_labels_where_they_are_known():
    found = load_images("demo", model=model(classes=1000))
    assert found.x.shape == (26, 3, 32, 32)
    assert found.x.dtype == torch.float32
    assert int((found.labels >= 0).sum()) == 20
    assert found.names[0].startswith("imagenet_00")
    assert len(load_images("demo", model=model(classes=1000), limit=5).names) == 5


def test_demo_labels_are_imagenets_alone():
    assert load_images("demo", model=model(classes=300), limit=20).labels is None


def test_noise_is_as_much_as_was_asked_for():
    assert len(load_images("noise", model=model(), limit=40).x) == 40


def test_noise_is_the_seeds():
    a, b, c = (load_images("noise", model=model(), limit=3, seed=s).x for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.shape == (3, 3, 32, 32)


def test_normalisation_and_values(tmp_path):
    save(tmp_path / "a.png", value=255)
    x = load_images(tmp_path, model=model()).x
    torch.testing.assert_close(x, torch.ones(1, 3, 32, 32))


def test_the_crop_is_central_and_other_proportions_keep_theirs():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    x = prepare(Image.fromarray(pixels), model(size=(20, 20)))
    torch.testing.assert_close(x, torch.ones(3, 20, 20))
    assert prepare(Image.fromarray(pixels), model(size=(10, 30))).shape == (3, 10, 30)


@pytest.mark.parametrize(
    ("size", "crop", "crop_mode"),
    [((64, 64), 0.875, "center"), ((60, 60), 0.882, "center"), ((48, 72), 0.9, "center"), ((64, 64), 0.9, "squash")],
)
@pytest.mark.parametrize("shape", [(150, 226), (229, 120)])
def test_images_are_prepared_as_timm_does(size, crop, crop_mode, shape):
    from timm.data import create_transform

    # Of little contrast: Pillow clips between its two passes, whose order depends on the sizes.
    image = Image.fromarray(np.random.default_rng(0).integers(100, 156, (*shape, 3), dtype=np.uint8))
    options = {"interpolation": "bicubic", "mean": HALF, "std": HALF, "crop_pct": crop}
    theirs = create_transform((3, *size), crop_mode=crop_mode, **options)(image)
    level = 2 / 255  # of normalised pixels
    ours = prepare(image, model(size, crop=crop, interpolation="bicubic", crop_mode=crop_mode))
    assert float((ours - theirs).abs().max()) < 1.01 * level
    assert float((ours - theirs).abs().mean()) < 0.3 * level
    other = prepare(image, model(size, crop=crop - 0.02, interpolation="bicubic", crop_mode=crop_mode))
    assert float((other - theirs).abs().mean()) > 2 * level


def test_what_is_not_shown_is_not_resized():
    # The whole of it, 224 pixels wide, would be 22 million pixels high.
    assert prepare(Image.new("RGB", (2, 200_000)), model(size=(224, 224))).shape == (3, 224, 224)


def test_unknown_preparation():
    image = Image.new("RGB", (9, 9))
    with pytest.raises(SofteqValueError, match="interpolation"):
        prepare(image, model(interpolation="magic"))
    with pytest.raises(SofteqValueError, match="crop_mode"):
        prepare(image, model(crop_mode="border"))


def test_a_model_of_grey_images():
    x = prepare(Image.new("RGB", (9, 9), (255, 0, 0)), model(half=(0.5,)))
    assert x.shape == (1, 32, 32)
    torch.testing.assert_close(x, torch.full_like(x, 2 * 76 / 255 - 1))  # .299 of 255, Rec. 601
    assert load_images("noise", model=model(half=(0.5,)), limit=2).x.shape == (2, 1, 32, 32)


def flat(values, dtype):
    return Image.fromarray(np.full((4, 4), values, dtype))


@pytest.mark.parametrize(
    ("image", "name", "colour"),
    [
        (Image.new("L", (4, 4), 200), "a.png", (200, 200, 200)),
        (Image.new("1", (4, 4), 1), "a.png", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 100, 0, 0)), "a.png", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (0, 100, 200, 255)), "a.png", (0, 100, 200)),
        (Image.new("LA", (4, 4), (0, 51)), "a.png", (204, 204, 204)),
        (Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE), "a.gif", (10, 200, 30)),
        (Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "a.tif", (0, 255, 255)),
        (flat(65535, np.uint16), "a.png", (255, 255, 255)),
        (flat(257 * 100, np.uint16), "a.png", (100, 100, 100)),
        (flat(257 * 100, np.int32), "a.tif", (100, 100, 100)),
        (flat(0.4, np.float32), "a.tif", (102, 102, 102)),
        (flat(102.0, np.float32), "a.tif", (102, 102, 102)),
    ],
    ids=["grey", "one bit", "clear", "opaque", "grey and alpha", "palette", "CMYK", "16 bits white", "16 bits"]
    + ["32 bits", "floating in [0, 1]", "floating in [0, 255]"],
)
def test_modes_become_rgb(tmp_path, image, name, colour):
    image.save(tmp_path / name)
    found = read_image(tmp_path / name)
    assert (found.mode, found.size, found.getpixel((1, 1))) == ("RGB", (4, 4), colour)


def test_palettes_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "a.png", transparency=1)
    found = read_image(tmp_path / "a.png")
    assert (found.getpixel((0, 0)), found.getpixel((1, 1))) == ((200, 0, 0), (255, 255, 255))


def test_exif_rotation(tmp_path):
    image = Image.new("RGB", (10, 20))
    image.paste((255, 255, 255), (0, 0, 10, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: the upper half comes to the right
    image.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.size == (20, 10)
    assert (upright.getpixel((2, 5)), upright.getpixel((17, 5))) == ((0, 0, 0), (255, 255, 255))


def test_empty_and_absent_folders(tmp_path):
    with pytest.raises(SofteqError, match="holds no image"):
        load_images(tmp_path, model=model())
    with pytest.raises(SofteqError, match="expected demo, noise, a folder, an image or a list"):
        load_images(tmp_path / "nothing", model=model())
    with pytest.raises(SofteqValueError, match="limit"):
        load_images("demo", model=model(), limit=0)


def test_loose_images_stand_beside_class_folders(tmp_path):
    for name in ("cat/a.png", "dog/b.png", "c.png", ".hidden/d.png"):
        save(tmp_path / name)
    found = load_images(tmp_path, model=model(classes=2))
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == {"cat/a.png": 0, "dog/b.png": 1, "c.png": -1}


def test_an_empty_class_keeps_its_number(tmp_path):
    (tmp_path / "ant").mkdir()
    for name in ("bee", "cat"):
        save(tmp_path / name / "a.png")
    assert load_images(tmp_path, model=model(classes=3)).labels.tolist() == [1, 2]
    assert load_images(tmp_path, model=model(classes=2)).labels is None


@pytest.mark.parametrize(
    ("folders", "classes", "expected"),
    [
        (("cat", "dog"), 2, [0, 1]),
        (("cat", "dog"), 5, None),
        (("3", "7"), 10, [3, 7]),
        (("3", "70"), 10, [3, -1]),
        (("n01440764", "n01484850"), 1000, [0, 2]),
        (("n00000001", "n01440764"), 1000, [-1, 0]),
        (("n01440764", "n01484850"), 11821, [216, 255]),
        (("n01440764", "n01484850"), 77, None),
        (("cat", "dog"), None, None),
    ],
    ids=["as many", "other number", "indices", "index too large", "synsets", "unknown synset"]
    + ["synsets of 12k", "no list of synsets", "no head"],
)
def test_class_folders(tmp_path, folders, classes, expected):
    for name in folders:
        save(tmp_path / name / "a.png")
    found = load_images(tmp_path, model=model(classes=classes))
    assert (None if found.labels is None else found.labels.tolist()) == expected
    told = {5: "none, as the folders (cat, dog)", 77: "none, as the folders (n01440764, n01484850) do not say which of"}
    told[2] = "the folders are the classes in alphabetical order"
    assert [text[8:].startswith(told[classes]) for text in found.choices] == [True] * (classes in told)


def test_channels_that_no_image_has(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png")
    with pytest.raises(
        SofteqValueError, match="images: m takes 5 channels, and images have 1 or 3: measure it on noise"
    ):
        load_images(tmp_path, model=model(half=(0.5,) * 5))
    assert load_images("noise", model=model(half=(0.5,) * 5), limit=1).x.shape[1] == 5


def test_a_limit_draws_with_the_seed(tmp_path):
    for i in range(12):
        save(tmp_path / f"{i:02}.png", value=10 * i)
    a, b, c = (load_images(tmp_path, model=model(), limit=4, seed=s).names for s in (0, 0, 1))
    assert a == b
    assert a != c
    assert a == sorted(a)


def test_accuracy_counts_labelled_images_alone():
    assert accuracy(torch.tensor([1, 2, 3]), torch.tensor([1, 0, -1])) == 0.5
    with pytest.raises(SofteqValueError, match="labels"):
        accuracy(torch.tensor([1]), torch.tensor([-1]))


def test_without_the_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"softeq\[audit\]"):
        load_images("demo", model=model())
