"""CIFAR-10's published files: what comes back, damaged and malicious ones, splits."""

import pickle

import numpy as np
import pytest
import torch

from softeq.errors import MissingExtraError, SofteqError, SofteqTypeError, SofteqValueError
from softeq.experiments.data.cifar10 import (
    FOLDER_VARIABLE,
    cifar10_folder,
    class_names,
    load_cifar10,
    read_batch,
    read_cifar10,
    split_images,
)

from ..cifar10_files import NAMES, array, batch, labels_list, meta, text, write_folder


def generator_for(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(n=3):
    return torch.randint(256, (n, 3072), generator=generator_for(4))


def refused(tmp_path, content, message):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(SofteqError, match=message) as caught:
        read_batch(path)
    assert "data_batch_1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_writer_of_these_tests_writes_what_python_unpickles():
    values = pickle.loads(batch(pixels(), [0, 9, 4]), encoding="bytes")
    assert values[b"labels"] == [0, 9, 4]
    assert np.array_equal(values[b"data"], pixels().numpy())
    assert values[b"data"].dtype == np.uint8
    assert pickle.loads(meta())["label_names"] == list(NAMES)


def test_a_batch_comes_back(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(batch(pixels(), [0, 9, 4]))
    x, y = read_batch(path)
    assert x.dtype == torch.uint8
    assert y.dtype == torch.int64
    assert torch.equal(x.long(), pixels().view(3, 3, 32, 32))
    assert y.tolist() == [0, 9, 4]


@pytest.mark.parametrize("protocol", [0, 1, 3])
def test_a_batch_that_python_3_wrote_again_comes_back_where_no_other_name_is_needed(tmp_path, protocol):
    path = tmp_path / "data_batch_1"
    values = {b"labels": [1, 2, 3], b"data": pixels().to(torch.uint8).numpy()}
    path.write_bytes(pickle.dumps(values, protocol))
    if protocol == 3:
        assert torch.equal(read_batch(path)[0].long(), pixels().view(3, 3, 32, 32))
    else:  # bytes by way of a call of _codecs.encode
        with pytest.raises(SofteqError, match=r"asks for _codecs\.encode"):
            read_batch(path)


def test_columns_first_and_numpys_new_module(tmp_path):
    path = tmp_path / "data_batch_1"
    raw = bytes(pixels().T.flatten().tolist())
    data = array(raw, (3, 3072), by_columns=True, module="numpy._core.multiarray")
    path.write_bytes(batch(pixels(), [1, 2, 3], data=data))
    assert torch.equal(read_batch(path)[0].long(), pixels().view(3, 3, 32, 32))


ROW = bytes(3072)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "list of whole numbers under 'labels', got nothing"),
        ({"labels": text("0123")}, "under 'labels', got str"),
        ({"labels": b"](" + text("0") + b"e"}, "list of whole numbers"),
        ({"labels": labels_list([1, 2])}, "3 images, 2 labels"),
        ({"labels": labels_list([1, 2, 10])}, "labels 0 to 9, got 1 to 10"),
        ({"labels": labels_list([-1, 2, 3])}, "labels 0 to 9, got -1 to 3"),
        ({"data": None}, "under 'data', N at least 1, got nothing"),
        ({"data": text("pixels")}, "got str 'pixels'"),
        ({"data": array(ROW, (1, 3071))}, r"got a call of _reconstruct, shape \(1, 3071\)"),
        ({"data": array(ROW, (2, 3072))}, r"shape \(2, 3072\)"),
        ({"data": array(b"", (0, 3072))}, r"shape \(0, 3072\)"),
        ({"data": array(ROW, (-1, 3072))}, r"shape \(-1, 3072\)"),
        ({"data": array(ROW, (3072,) * 2)}, r"shape \(3072, 3072\)"),
        ({"data": array(ROW, (1, 3072), code="O8")}, "array of unsigned bytes"),
        ({"data": array(ROW, (1, 3072), code="f8")}, "array of unsigned bytes"),
        ({"data": b"cnumpy\ndtype\n" + text("u1") + b"\x85R"}, "got a call of dtype"),
        ({"data": array("Ā".encode() * 3072, (1, 3072), letters=b"X")}, "array of unsigned bytes"),
    ],
)
def test_a_batch_that_is_none_is_refused(tmp_path, changes, message):
    refused(tmp_path, batch(pixels(), [1, 2, 3], **changes), message)


def test_damaged_batches_are_refused(tmp_path):
    good = batch(pixels(), [1, 2, 3])
    refused(tmp_path, b"", "cut off, corrupt or no pickle")
    refused(tmp_path, good[:-1], "cut off, corrupt or no pickle")
    refused(tmp_path, good[:5000], "cut off, corrupt or no pickle")
    refused(tmp_path, b"<html>not found</html>", "no pickle")
    refused(tmp_path, pickle.dumps([1, 2], 2), r"expected a dictionary as in CIFAR-10's files, got list \[1, 2\]")
    shared = b"\x80\x02)" + b"q\x00h\x00\x86" * 60
    refused(tmp_path, shared + b".", "expected a dictionary")  # its whole repr would never end


def test_a_malicious_batch_is_refused_and_nothing_runs(tmp_path):
    target = tmp_path / "harm"
    harm = b"cos\nmkdir\n" + text(str(target)) + b"\x85R"
    content = batch(pixels(), [1, 2, 3], harm=harm)
    refused(tmp_path, content, r"not read, as it asks for os\.mkdir")
    assert not target.exists()
    pickle.loads(content, encoding="bytes")
    assert target.exists()


@pytest.mark.parametrize("names", [NAMES[:9], ()])
def test_names_of_classes(tmp_path, names):
    path = tmp_path / "batches.meta"
    path.write_bytes(meta())
    assert class_names(path) == NAMES
    path.write_bytes(meta(names))
    with pytest.raises(SofteqError, match="10 names under 'label_names'"):
        class_names(path)


def test_a_folder(tmp_path):
    pool = write_folder(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(read_cifar10(tmp_path), pool, strict=True))
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(SofteqError, match=f"data_batch_3 not found; unpack .* and set {FOLDER_VARIABLE}"):
        read_cifar10(tmp_path)


def test_where_the_files_are_not(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(MissingExtraError, match=f"CIFAR-10 is not here, .* set {FOLDER_VARIABLE} to its folder"):
        cifar10_folder()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(MissingExtraError, match=f"{FOLDER_VARIABLE}: expected a folder, got .*none"):
        load_cifar10((1, 1, 1), generator_for())
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert cifar10_folder() == tmp_path


def test_splits_are_drawn_apart_and_standardised_by_the_training_rows(tmp_path, monkeypatch):
    pool = write_folder(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    draws = [load_cifar10((12, 8, 5), generator_for(seed), torch.float64) for seed in (0, 0, 1)]
    first, again, other = draws
    assert first.size == (32, 32)
    assert first.x_train.shape == (12, 3, 32, 32)
    assert torch.equal(first.x_train, again.x_train)
    assert not torch.equal(first.x_train, other.x_train)
    assert abs(float(first.x_train.mean())) < 1e-12
    assert float(first.x_train.std()) == pytest.approx(1)
    back = [((d * first.std + first.mean) * 255).round().to(torch.uint8) for d in (first.x_train, first.x_validation)]
    found = {tuple(image.flatten().tolist()) for image in torch.cat(back)}
    assert found == {tuple(image.flatten().tolist()) for image in pool[0]}
    assert torch.equal(((first.x_test * first.std + first.mean) * 255).round().to(torch.uint8), pool[2][:5])
    assert torch.equal(first.y_test, pool[3][:5])


@pytest.mark.parametrize("sizes", [(0, 1, 1), (16, 5, 1), (1, 1, 7), (1, 1, 0)])
def test_sizes_that_do_not_fit(sizes):
    pool = torch.randint(256, (20, 3, 4, 4)).to(torch.uint8), torch.zeros(20).long()
    with pytest.raises(SofteqValueError, match="together at most 20, test at most 6"):
        split_images("toy", (*pool, pool[0][:6], pool[1][:6]), sizes, generator_for(), torch.float32)


def test_other_refusals_of_splits():
    x, y = torch.full((20, 3, 4, 4), 7, dtype=torch.uint8), torch.zeros(20).long()
    with pytest.raises(SofteqError, match="all pixels of the training images are equal"):
        split_images("toy", (x, y, x, y), (5, 5, 5), generator_for(), torch.float32)
    with pytest.raises(SofteqTypeError, match="floating-point"):
        split_images("toy", (x, y, x, y), (5, 5, 5), generator_for(), torch.int64)
