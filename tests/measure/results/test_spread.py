import math

import pytest
import torch

from softeq.measure import concatenate, local_equivariance_error
from softeq.measure.results.spread import Spread, joined


def test_pieces_give_the_variance_of_the_whole():
    vectors = 1e6 + torch.randn(11, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = Spread.of(vectors)
    assert whole.variance() == pytest.approx(float(vectors.var(0, unbiased=False).mean()), rel=1e-9)
    assert joined(map(Spread.of, vectors.split(4))).variance() == pytest.approx(whole.variance(), rel=1e-9)
    assert math.isnan(Spread.of(vectors[:1]).variance())
    assert math.isnan(Spread.of(torch.ones(4, 2)).variance())
    assert joined([Spread.of(vectors), Spread.of(vectors[:, :2])]) is None
    assert joined([]) is None


def test_centred_errors_do_not_see_an_offset_and_join():
    x = torch.rand(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(192, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"flows": ["scale"], "output": "logits", "norm": "centred"}
    near, far = (local_equivariance_error(lambda z, c=c: z.flatten(1) @ weight + c, x, **options) for c in (0, 1000.0))
    torch.testing.assert_close(near.per_sample(), far.per_sample())
    assert far.mean("relative")["scale"] < 1e-3 * near.mean("relative")["scale"]
    pieces = [local_equivariance_error(lambda z: z.flatten(1) @ weight, part, **options) for part in x.split(2)]
    torch.testing.assert_close(concatenate(pieces).per_sample(), near.per_sample())
    alone = local_equivariance_error(lambda z: z.flatten(1) @ weight, x[:1], **options)
    assert alone.per_sample().isnan().all()
