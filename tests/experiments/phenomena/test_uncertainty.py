import torch

from softeq.experiments.phenomena import uncertainty
from softeq.experiments.phenomena.quarters import equivariance_error


def test_arms_are_what_their_names_say():
    configs = {arm: uncertainty.configure("smoke", arm, 0) for arm in uncertainty.ARMS}
    assert {a: c["network"]["constraint"] for a, c in configs.items()} == {
        "hard": "hard",
        "soft": "soft",
        "none": "none",
        "none-augmented": "none",
    }
    assert [a for a, c in configs.items() if c["augmented"]] == ["none-augmented"]


def test_a_mean_can_be_equivariant_where_its_members_are_not():
    """Two predictors that a half turn exchanges."""

    def sees(row):
        def predict(x):
            lit = (x[:, 0, row, row] > 0).double()
            return torch.stack([lit, 1 - lit], -1)

        return predict

    x = torch.zeros(2, 1, 2, 2)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1
    x[1] = 1
    members = [lambda images, k=k: sees(0)(images.rot90(k, (-2, -1))) for k in range(4)]
    x[0, 0, 1, 1] = 0
    assert min(equivariance_error(one, x) for one in members) > 0.1
    assert equivariance_error(uncertainty.mean_of(members), x) < 1e-12
