import pytest
import torch
from torch import nn

from softeq.errors import SofteqError
from softeq.experiments.audit.batches import Batches, Meter, out_of_memory


def _refuse(limit):
    """Work that fits for at most ``limit`` (images, tangents at once, 7 for all); it notes what it was asked for."""
    asked = []

    def work(size, chunk):
        asked.append((size, chunk))
        if size > limit[0] or (chunk or 7) > limit[1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return asked

    return work, asked


def test_the_size_is_halved_and_stays_so():
    batches = Batches(None, 20)
    work, _ = _refuse((6, 7))
    assert batches.run(work) == [(20, None), (10, None), (5, None)]
    assert batches.run(lambda size, chunk: (size, chunk)) == (5, None)


def test_below_one_image_there_are_fewer_tangents_and_at_last_an_error():
    work, _ = _refuse((1, 1))
    assert Batches(None, 2).run(work) == [(2, None), (1, None), (1, 2), (1, 1)]
    work, asked = _refuse((0, 0))
    with pytest.raises(SofteqError, match="one image and one tangent at a time"):
        Batches(None, 2).run(work)
    assert asked[-1] == (1, 1)


def test_a_size_that_was_asked_for_is_not_changed():
    work, asked = _refuse((1, 7))
    with pytest.raises(SofteqError, match="--batch-size 8: choose a smaller one, or auto"):
        Batches(8, 4).run(work)
    assert asked == [(8, None)]


def test_other_errors_pass():
    def work(size, chunk):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Batches(None, 4).run(work)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_out_of_memory(error, full):
    assert out_of_memory(error) is full


def test_a_meter_counts_forward_passes_and_never_beyond_the_whole():
    told = []
    meter, module = Meter(10, lambda done, total: told.append((done, total))), nn.Identity()
    with meter.watching(module, 2.0):
        module(torch.zeros(3, 1))
        module(torch.zeros(1, 1))
        module(torch.zeros(9, 1))
    module(torch.zeros(1, 1))
    assert told == [(6, 10), (8, 10), (10, 10)]
    assert not module._forward_hooks
