"""Records of cnn-vs-vit for the tests of its finding and of its figure."""

import pytest

from softeq.experiments.images.architectures import NETWORKS

from .family_records import checkpoint


@pytest.fixture
def records(make_record):
    return [
        make_record(
            variant,
            seed,
            experiment="cnn-vs-vit",
            checkpoints=[checkpoint(variant, epoch, seed) for epoch in (0, 1 + seed, 3)],
            matched_epoch=1 + seed,
            test_accuracy=0.5,
        )
        for seed in range(2)
        for variant in NETWORKS
    ]


@pytest.fixture
def uneven(records):
    """Seed 0 ends at epoch 3, seed 1 after epochs 8 and 12.5."""
    for r in records:
        if r["seed"] == 1:
            r["metrics"]["checkpoints"] += [checkpoint(r["variant"], epoch, 1) for epoch in (8, 12.5)]
    return records
