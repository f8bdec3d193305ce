"""Pictures for an audit."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from measure import images
from measure.images import accuracy, load_images, prepare, read_picture
from measure.sources import Model
from softeq.errors import MissingExtraError, SofteqError, SofteqValueError


def model(size=(32, 32), classes=10, crop=1.0):
    half = (0.5, 0.5, 0.5)
    return Model("m", nn.Identity(), size, half, half, "bilinear", classes, None, "", crop)


def save(path, mode="RGB", size=(40, 40), value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16", "I", "F", "P") else (value,) * len(Image.new(mode, (1, 1)).getbands())
    Image.new(mode, size, colour).save(path)
    return path


def test_demo_pictures_have_labels_where_they_are_known():
    found = load_images("demo", model=model(classes=1000))
    assert found.x.shape == (26, 3, 32, 32)
    assert found.x.dtype == torch.float32
    assert int((found.labels >= 0).sum()) == 20
    assert found.names[0].startswith("imagenet_00")
    assert len(load_images("demo", model=model(classes=1000), limit=5).names) == 5


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


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "I;16", "1"])
def test_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    save(path, "L" if mode == "1" else mode, value=200)
    if mode == "1":
        Image.open(path).convert("1").save(path)
    assert read_picture(path).mode == "RGB"


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_transparency_is_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation(tmp_path):
    picture = Image.new("RGB", (10, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").size == (20, 10)


def test_nan_pixels_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SofteqError, match="NaN"):
        read_picture(tmp_path / "a.tif")


def test_one_pixel_wide_and_huge(tmp_path, monkeypatch):
    save(tmp_path / "thin.png", size=(1, 50))
    with pytest.raises(SofteqError, match="at least 2 x 2"):
        read_picture(tmp_path / "thin.png")
    monkeypatch.setattr(images, "_MOST_PIXELS", 100)
    with pytest.raises(SofteqError, match="at most 100 pixels"):
        read_picture(save(tmp_path / "large.png"))


def test_broken_files_are_skipped_with_a_reason_and_the_rest_goes_on(tmp_path):
    good = save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "c.jpg").write_text("no picture")
    found = load_images(tmp_path, model=model())
    assert found.names == ["a.png"]
    assert [name for name, _ in found.skipped] == ["b.png", "c.jpg"]
    assert all("readable" in reason for _, reason in found.skipped)
    good.unlink()
    with pytest.raises(SofteqError, match="none of the 2 files"):
        load_images(tmp_path, model=model())


def test_empty_and_absent_folders(tmp_path):
    with pytest.raises(SofteqError, match="holds no picture"):
        load_images(tmp_path, model=model())
    with pytest.raises(SofteqError, match="expected demo, noise or a folder"):
        load_images(tmp_path / "nothing", model=model())
    with pytest.raises(SofteqValueError, match="limit"):
        load_images("demo", model=model(), limit=0)


@pytest.mark.parametrize(
    ("folders", "classes", "expected"),
    [
        (("cat", "dog"), 2, [0, 1]),
        (("cat", "dog"), 5, None),
        (("3", "7"), 10, [3, 7]),
        (("n01440764", "n01484850"), 1000, [0, 2]),
        (("cat", "dog"), None, None),
    ],
    ids=["as many", "other number", "indices", "synsets", "no head"],
)
def test_class_folders(tmp_path, folders, classes, expected):
    for name in folders:
        save(tmp_path / name / "a.png")
    labels = load_images(tmp_path, model=model(classes=classes)).labels
    assert (None if labels is None else labels.tolist()) == expected


def test_a_limit_draws_with_the_seed(tmp_path):
    for i in range(12):
        save(tmp_path / f"{i:02}.png", value=10 * i)
    a, b, c = (load_images(tmp_path, model=model(), limit=4, seed=s).names for s in (0, 0, 1))
    assert a == b
    assert a != c
    assert a == sorted(a)


def test_accuracy_counts_labelled_pictures_alone():
    assert accuracy(torch.tensor([1, 2, 3]), torch.tensor([1, 0, -1])) == 0.5
    with pytest.raises(SofteqValueError, match="labels"):
        accuracy(torch.tensor([1]), torch.tensor([-1]))


def test_without_the_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"softeq\[audit\]"):
        load_images("demo", model=model())
