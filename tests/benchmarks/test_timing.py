"""How numbers are taken and summed up, on steps whose duration is known."""

import time

import pytest
import torch

from benchmarks.timing import Spread, digits, interleaved, ratios, seconds_of, thread_counts, using_threads


def test_spread_is_the_median_with_both_ends():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)


def test_ratios_are_taken_block_by_block():
    # The medians' ratio would be 1.5.
    assert ratios([1.0, 8.0, 3.0], [2.0, 1.0, 3.0]) == Spread(1.0, 0.5, 8.0, 3)


def test_ratios_refuse_blocks_that_do_not_pair_up():
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("value", "text"), [(378.4, "378"), (99.7, "100"), (12.34, "12.3"), (1.0, "1.00"), (0.01234, "0.0123")]
)
def test_three_digits(value, text):
    assert digits(value) == text


def test_text_names_the_ends_where_there_is_more_than_one_number():
    assert Spread.of([0.002]).text(1e3) == "2.00"
    assert Spread.of([0.001, 0.003]).text(1e3) == "2.00 [1.00, 3.00]"


def test_every_step_runs_in_every_block_and_the_first_one_changes():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "abc"}
    taken = interleaved(steps, blocks=3, block_seconds=0.0)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3, "c": 3}
    assert order[-9:] == list("abc" + "bca" + "cab")


def test_a_block_is_divided_by_its_calls():
    taken = interleaved({"sleep": lambda: time.sleep(0.002)}, blocks=2, block_seconds=0.01)
    # Sleeping takes at least its time: a sum over the block's calls that was not divided would be five times that.
    assert all(seconds >= 0.002 for seconds in taken["sleep"])


def test_on_a_gpu_the_clock_is_read_when_all_is_done(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    interleaved({"a": lambda: order.append("a")}, blocks=2, block_seconds=0.0, device="cuda")
    assert order[-6:] == ["wait", "a", "wait"] * 2
    order.clear()
    seconds_of(lambda: order.append("a"), "cuda")
    assert order == ["a", "wait"]


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with using_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    assert thread_counts()[0] == 1
