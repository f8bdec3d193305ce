"""Images for an audit from files that are damaged, huge, or no images."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from softeq.errors import SofteqError
from softeq.measure.loading import images
from softeq.measure.loading.images import load_images, read_image

from .test_images import flat, model, save


@pytest.mark.parametrize(
    ("value", "dtype"), [(-0.5, np.float32), (300.0, np.float32), (-1, np.int32), (70000, np.int32)]
)
def test_values_of_no_known_range_are_refused(tmp_path, value, dtype):
    flat(value, dtype).save(tmp_path / "a.tif")
    with pytest.raises(SofteqError, match="expected pixels in"):
        read_image(tmp_path / "a.tif")


def test_nan_pixels_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SofteqError, match="NaN"):
        read_image(tmp_path / "a.tif")


def test_one_pixel_wide_and_huge(tmp_path, monkeypatch):
    save(tmp_path / "thin.png", size=(1, 50))
    with pytest.raises(SofteqError, match="at least 2 x 2"):
        read_image(tmp_path / "thin.png")
    monkeypatch.setattr(images, "_MOST_PIXELS", 100)
    with pytest.raises(SofteqError, match="at most 100 pixels"):
        read_image(save(tmp_path / "large.png"))


@pytest.mark.parametrize("side", [10_500, 60_000])
def test_decompression_bombs_are_not_unpacked(tmp_path, side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SofteqError, match="at most 100,000,000 pixels"):
            read_image(tmp_path / "a.png")


def test_broken_files_are_skipped_with_a_reason_and_the_rest_goes_on(tmp_path):
    good = save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "c.jpg").write_text("no image")
    found = load_images(tmp_path, model=model())
    assert found.names == ["a.png"]
    assert [name for name, _ in found.skipped] == ["b.png", "c.jpg"]
    assert all("readable" in reason for _, reason in found.skipped)
    good.unlink()
    with pytest.raises(SofteqError, match="none of the 2 files"):
        load_images(tmp_path, model=model())


def test_damaged_files_raise_nothing_else(tmp_path):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    refused = []
    for name in ("a.png", "a.jpg", "a.gif", "a.bmp", "a.webp"):
        path = tmp_path / name
        image.save(path)
        whole = path.read_bytes()
        for cut in range(1, len(whole), max(1, len(whole) // 25)):
            path.write_bytes(whole[:cut])
            try:
                read_image(path)
            except SofteqError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert "\n" not in "".join(refused)
