"""Training a classifier: it learns, repeats itself, stops where it diverges, and the learning rate is chosen fairly."""

import itertools
import math

import pytest
import torch
from torch import nn

from softeq.errors import SofteqValueError
from softeq.experiments.data.images import LabelledImages
from softeq.experiments.images.classification import TrainSettings, accuracy, choose_learning_rate, learning_rate, train


def bars(n, seed, dtype=torch.float32):
    """Class 0: a bright left half; class 1: a bright right half."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=generator)
    x = 0.3 * torch.randn(n, 1, 4, 4, generator=generator, dtype=dtype)
    x[y == 0, :, :, :2] += 1
    x[y == 1, :, :, 2:] += 1
    return x, y


@pytest.fixture
def data():
    return make_data()


def make_data(dtype=torch.float32):
    splits = [bars(n, seed, dtype) for n, seed in ((50, 0), (40, 1), (40, 2))]
    return LabelledImages("bars", *(value for split in splits for value in split), mean=0.0, std=1.0, classes=2)


def network(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 2)).to(dtype)


def generator_for(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_learns_and_tells_of_every_epoch_and_step(dtype):
    model, epochs, steps = network(dtype), [], []
    settings = TrainSettings(8, 20, 3e-2)
    found = make_data(dtype)
    result = train(
        model,
        found,
        settings,
        generator_for(),
        after_epoch=lambda e, a: epochs.append((e, a)),
        on_step=lambda: steps.append(1),
    )
    assert accuracy(model, found.x_test, found.y_test) > 0.95
    assert epochs == list(zip(range(1, 9), result.validation_accuracy, strict=True))
    assert len(steps) == 8 * math.ceil(50 / 20)
    assert result.train_loss[-1] < 0.5 * result.train_loss[0]
    assert result.diverged_at_step is None
    assert result.seconds > 0


def test_a_training_repeats_itself_and_its_generator_orders_the_images(data):
    weights = []
    for seed in (0, 0, 1):
        model = network()
        train(model, data, TrainSettings(2, 16, 1e-2), generator_for(seed))
        weights.append(model[1].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_looks_at_the_model_after_an_epoch_does_not_change_the_training(data):
    def look(epoch, validation_accuracy):
        model.eval()

    weights = []
    for after in (None, look):
        model = network()
        train(model, data, TrainSettings(2, 16, 1e-2), generator_for(), after_epoch=after)
        weights.append(model[1].weight.detach().clone())
    assert torch.equal(*weights)


def test_a_loss_that_is_not_finite_ends_the_training(data):
    model = network()
    with torch.no_grad():
        model[4].bias[0] = math.nan
    before, epochs = model[1].weight.detach().clone(), []
    result = train(model, data, TrainSettings(3), generator_for(), after_epoch=lambda e, a: epochs.append(e))
    assert (result.diverged_at_step, result.validation_accuracy, epochs) == (1, [], [])
    assert torch.equal(model[1].weight, before)


def test_the_gradient_is_clipped_and_the_weights_decay(data):
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 16))

        def forward(self, x):
            return 1e3 * x.flatten(1) @ self.weight.T

    norms = []
    model = Recorder()
    settings = TrainSettings(1, 50, 1e-3, clip=0.5)
    train(model, data, settings, generator_for(), on_step=lambda: norms.append(float(model.weight.grad.norm())))
    assert norms == [pytest.approx(0.5, rel=1e-4)]

    ends = []
    for decay in (0.0, 1.0):
        model = network()
        train(model, data, TrainSettings(2, 16, 1e-2, weight_decay=decay), generator_for())
        ends.append(float(model[1].weight.detach().norm()))
    assert ends[1] < ends[0]


def test_a_penalty_is_part_of_the_loss_and_of_the_gradient(data):
    ends, losses = [], []
    for factor in (0.0, 10.0):
        model = network()
        penalty = lambda m=model, f=factor: f * sum(p.square().sum() for p in m.parameters())
        result = train(model, data, TrainSettings(3, 16, 1e-2, weight_decay=0.0), generator_for(), penalty=penalty)
        ends.append(float(model[1].weight.detach().norm()))
        losses.append(result.train_loss[0])
    assert ends[1] < 0.7 * ends[0]
    assert losses[1] > losses[0] + 1


def test_inputs_may_come_from_elsewhere_by_their_rows(data):
    seen, ends = [], []
    for images in (None, lambda rows: seen.append(rows) or data.x_train[rows], lambda rows: -data.x_train[rows]):
        model = network()
        train(model, data, TrainSettings(1, 16, 1e-2), generator_for(), images=images)
        ends.append(model[1].weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert sorted(torch.cat(seen).tolist()) == list(range(50))


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine_to_almost_nothing():
    settings = TrainSettings(1, lr=2.0, warmup=0.2)
    rates = [learning_rate(settings, step, 100) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == rates[19] == pytest.approx(2.0)
    assert rates[59] == pytest.approx(2.0 * (1 + math.cos(math.pi * 40 / 81)) / 2)
    assert 0 < rates[-1] < 0.002
    assert all(a > b for a, b in itertools.pairwise(rates[19:]))
    assert learning_rate(TrainSettings(1, lr=2.0, warmup=0.0), 1, 100) < 2.0


def test_accuracy_counts_what_is_right_and_leaves_the_mode_alone():
    x = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [math.nan, 0.0], [math.inf, 0.0]])
    y = torch.tensor([0, 1, 0, 0, 0])
    model = nn.Identity()
    model.train()
    assert accuracy(model, x, y) == pytest.approx(2 / 5)
    assert model.training
    many = x[:3].repeat(400, 1)
    assert accuracy(model, many, y[:3].repeat(400)) == pytest.approx(2 / 3)


def test_batch_statistics_do_not_enter_an_accuracy(data):
    model = network()
    train(model, data, TrainSettings(2, 16, 1e-2), generator_for())
    whole = accuracy(model, data.x_test, data.y_test)
    single = sum(accuracy(model, data.x_test[i : i + 1], data.y_test[i : i + 1]) for i in range(40)) / 40
    assert whole == pytest.approx(single)


def test_the_best_rate_on_validation_data_is_chosen_and_every_trial_told(data):
    steps = []
    rate, trials = choose_learning_rate(
        network, data, TrainSettings(3, 16), (1e-6, 3e-2, 1e-5), generator_for, on_step=lambda: steps.append(1)
    )
    assert rate == 3e-2
    assert [trial["lr"] for trial in trials] == [1e-6, 3e-2, 1e-5]
    assert [len(trial["validation_accuracy"]) for trial in trials] == [3, 3, 3]
    assert trials[1]["validation_accuracy"][-1] > max(trials[i]["validation_accuracy"][-1] for i in (0, 2))
    assert len(steps) == 3 * 3 * 4


def test_trials_start_alike_so_that_equal_rates_tie_and_the_first_wins(data):
    rate, trials = choose_learning_rate(network, data, TrainSettings(2, 16), (1e-2, 1e-2), generator_for)
    assert rate == 1e-2
    assert trials[0] == trials[1]


def test_a_trial_that_diverges_is_never_chosen_unless_all_did(data):
    def plain():  # batch statistics would bring any weights back to size
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 2))

    rate, trials = choose_learning_rate(plain, data, TrainSettings(2, 16), (1e20, 1e-6), generator_for)
    assert trials[0]["diverged_at_step"] >= 1
    assert rate == 1e-6
    rate, _ = choose_learning_rate(plain, data, TrainSettings(2, 16), (1e20, 1e21), generator_for)
    assert rate == 1e20


def test_no_candidates(data):
    with pytest.raises(SofteqValueError, match="candidates: expected at least one learning rate, got none"):
        choose_learning_rate(network, data, TrainSettings(1), (), generator_for)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"lr": 0.0}, "lr: expected a finite number above 0"),
        ({"lr": math.inf}, "lr: expected a finite number above 0, got inf"),
        ({"clip": -1.0}, "clip: expected a finite number above 0"),
        ({"weight_decay": -0.1}, "weight_decay: expected a finite number of at least 0"),
        ({"weight_decay": math.nan}, "weight_decay: expected a finite number of at least 0, got nan"),
        ({"warmup": 1.0}, "warmup: expected a share of the steps"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(SofteqValueError, match=message):
        TrainSettings(**{"epochs": 1} | change)
