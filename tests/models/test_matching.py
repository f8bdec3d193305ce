"""Widths at a number of parameters: the closest one, found without building large networks."""

import pytest
import torch

from softeq.errors import SofteqValueError
from softeq.models import build, matched
from softeq.models.matching import count_parameters

CONFIGS = {
    "resnet-soft": ("soft-resnet", {"size": (9, 10), "constraint": "soft"}),
    "resnet-lowrank": ("soft-resnet", {"size": (8, 8), "constraint": "none", "residual": "lowrank"}),
    "d-conv": ("d-conv", {"size": (16, 16), "constraint": "hard"}),
    "steerable": ("steerable", {"size": (9, 9), "kernel_size": 3, "constraint": "soft"}),
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("wanted", [1, 3_000, 40_000])
def test_no_other_width_comes_closer(case, wanted):
    name, config = CONFIGS[case]
    width = matched(name, wanted, **config)

    def distance(w):
        return abs(count_parameters(build(name, width=w, **config)) - wanted)

    assert width >= 1
    assert all(distance(width) <= distance(w) for w in (max(1, width - 1), width + 1))


@pytest.mark.parametrize("case", CONFIGS)
def test_a_width_finds_itself(case):
    name, config = CONFIGS[case]
    assert matched(name, count_parameters(build(name, width=5, **config)), **config) == 5


def test_variants_meet_at_the_same_number_of_parameters():
    counts = []
    for constraint in ("soft", "hard", "none"):
        config = {"size": (12, 12), "constraint": constraint}
        counts.append(count_parameters(build("soft-resnet", width=matched("soft-resnet", 400_000, **config), **config)))
    assert all(abs(count / 400_000 - 1) < 0.2 for count in counts)


def test_what_does_not_fit_is_refused():
    with pytest.raises(SofteqValueError, match="parameters: expected a whole number of at least 1, got 0"):
        matched("d-conv", 0)
    with pytest.raises(SofteqValueError, match="width: expected the other arguments alone"):
        matched("d-conv", 100, width=2)
    with pytest.raises(SofteqValueError, match=r"config: convnet cannot be built .*width"):
        matched("convnet", 100)


def test_torchs_generator_is_left_alone():
    before = torch.get_rng_state()
    matched("soft-resnet", 1_000, size=(6, 6))
    assert torch.equal(torch.get_rng_state(), before)
