import itertools

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.experiments.engine.bookkeeping import counter, generator_for, rounded, seeded


def test_every_seed_and_purpose_has_a_stream_of_its_own_that_repeats():
    drawn = {key: torch.rand(8, generator=generator_for(*key)) for key in itertools.product(range(3), range(4))}
    for (a, x), (b, y) in itertools.combinations(drawn.items(), 2):
        assert not torch.equal(x, y), f"{a} and {b} draw the same numbers"
    for key, values in drawn.items():
        assert torch.equal(values, torch.rand(8, generator=generator_for(*key)))


def test_a_stream_leaves_torchs_generator_alone():
    state = torch.random.get_rng_state()
    generator_for(0, 1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_counting_and_rounding():
    told = []
    step = counter(lambda done, total: told.append((done, total)), 2)
    step()
    step()
    assert told == [(1, 2), (2, 2)]
    assert rounded(0.123456789) == 0.12346


def test_a_seed_is_a_start_of_its_own_that_repeats_and_touches_nothing():
    def weight(seed, **changes):
        config = {"seed": seed, "device": "cpu", "dtype": "float32"} | changes
        return seeded(config, lambda: torch.nn.Linear(4, 4)).weight

    state = torch.random.get_rng_state()
    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert weight(0, dtype="float64").dtype == torch.float64
    with pytest.raises(SofteqValueError, match="dtype: expected the name of one of torch's types, got 'float31'"):
        weight(0, dtype="float31")
