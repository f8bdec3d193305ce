from softeq.experiments.phenomena import evidence_digits
from softeq.experiments.phenomena.uncertainty import PRIORS


def test_the_conditional_evidence_is_what_the_second_half_adds():
    config = evidence_digits.configure("smoke", "hard", 0)
    found = evidence_digits.run(config, lambda done, total: None)
    assert found["evidence@rotated"] < found["conditional@rotated"] < 0
    assert 0 < found["test_error@rotated"] <= 1


def test_arms_train_under_the_prior_that_the_approximation_has():
    for arm in evidence_digits.ARMS:
        config = evidence_digits.configure("default", arm, 0)
        assert config["prior"] == PRIORS[arm]
        assert config["network"]["constraint"] == arm
