"""CIFAR-10's files as published: pickles of protocol 2 that Python 2 wrote, batches.meta in protocol 0."""

import struct

import torch

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def text(value):
    """A string of Python 2."""
    raw = value.encode("latin-1")
    return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw


def number(value):
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def array(raw, shape, *, code="u1", module="numpy.core.multiarray", by_columns=False, letters=b"T"):
    """numpy's array of bytes, as its __reduce__ has it."""
    start = b"c" + module.encode() + b"\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
    minus = number(-1)
    dtype = b"cnumpy\ndtype\nq\x08" + text(code) + b"K\x00K\x01\x87Rq\x09(K\x03U\x01|NNN" + 2 * minus + b"K\x00tb"
    flag = b"\x88" if by_columns else b"\x89"
    content = letters + struct.pack("<i", len(raw)) + raw
    return start + b"(K\x01" + b"".join(map(number, shape)) + b"\x86" + dtype + flag + content + b"tb"


def labels_list(labels):
    return b"]q\x0a(" + b"".join(map(number, labels)) + b"e"


def batch(pixels, labels, /, **changes):
    """A batch of images ``(N, 3072)``; ``changes`` replace the pickled value of a key, None leaves it out."""
    parts = {
        "batch_label": text("training batch 1 of 5"),
        "labels": labels_list(labels),
        "data": array(bytes(pixels.flatten().tolist()), pixels.shape),
        "filenames": b"](" + b"".join(text(f"image_{k}.png") for k in range(len(labels))) + b"e",
    } | changes
    items = b"".join(text(key) + value for key, value in parts.items() if value is not None)
    return b"\x80\x02}q\x01(" + items + b"u."


def meta(names=NAMES):
    listed = "".join(f"S'{name}'\np{k + 4}\na" for k, name in enumerate(names))
    cases = "S'num_cases_per_batch'\np2\nI10000\ns"
    return f"(dp1\n{cases}S'label_names'\np3\n(lp20\n{listed}sS'num_vis'\nI3072\ns.".encode()


def write_folder(folder, per_batch=4, n_test=6):
    """All seven files with random images; gives training images and labels, test images and labels."""
    generator = torch.Generator().manual_seed(3)
    (folder / "batches.meta").write_bytes(meta())
    pool = []
    for name, n in [*((f"data_batch_{k}", per_batch) for k in range(1, 6)), ("test_batch", n_test)]:
        pixels = torch.randint(256, (n, 3072), generator=generator)
        labels = torch.randint(10, (n,), generator=generator)
        (folder / name).write_bytes(batch(pixels, labels.tolist()))
        pool.append((pixels.to(torch.uint8).view(n, 3, 32, 32), labels))
    train = [torch.cat(part) for part in zip(*pool[:5], strict=True)]
    return (*train, *pool[5])
