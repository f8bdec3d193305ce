"""Which of a checkpoint's tensors are the network's, and whether they can be."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from softeq.errors import SofteqError, SofteqValueError
from softeq.measure.loading.checkpoints import load_state
from softeq.measure.loading.tensors import read_state_dict


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def same(module, other):
    return all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


WRAPS = {
    "flat": lambda s: s,
    "state_dict": lambda s: {"state_dict": s},
    "model": lambda s: {"model": s, "epoch": 3},
    "model_ema": lambda s: {"model_ema": s},
    "twice": lambda s: {"model": {"state_dict": s}},
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_torch_files_nested_and_prefixed(tmp_path, module, wrap, prefix):
    path = tmp_path / "weights.pth"
    torch.save(wrap({prefix + k: v for k, v in module.state_dict().items()}), path)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert not same(module, other)
    load_state(other, read_state_dict(path), path)
    assert same(module, other)


class Wrapped(nn.Module):
    """Has a child that is called as a prefix is, alone or with another."""

    def __init__(self, alone):
        super().__init__()
        self.module = nn.Linear(3, 4)
        self.head = nn.Identity() if alone else nn.Linear(4, 2)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_child_may_be_called_as_a_prefix_is(tmp_path, alone, prefix):
    path = tmp_path / "weights.pth"
    given, other = Wrapped(alone), Wrapped(alone)
    torch.save({prefix + k: v for k, v in given.state_dict().items()}, path)
    load_state(other, read_state_dict(path), path)
    assert same(given, other)


def test_safetensors_under_another_name(tmp_path, module):
    from safetensors.torch import save_file

    save_file({k: v.clone() for k, v in module.state_dict().items()}, str(tmp_path / "weights.bin"))
    assert set(read_state_dict(tmp_path / "weights.bin")) == set(module.state_dict())


def test_safetensors(tmp_path, module):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({k: v.clone() for k, v in module.state_dict().items()}, str(path))
    assert set(read_state_dict(path)) == set(module.state_dict())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SofteqError, match="no whole safetensors"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), "1 missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected"),
        (lambda s: s.update({"0.weight": torch.zeros(4, 5)}), r"expected 0.weight of shape \(4, 3\), got \(4, 5\)"),
        (lambda s: s["0.weight"].fill_(torch.nan), "NaN"),
    ],
    ids=["missing", "unexpected", "shape", "nan"],
)
def test_what_does_not_fit_changes_nothing(module, change, message):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = {k: v.clone() + 1 for k, v in module.state_dict().items()}
    change(state)
    with pytest.raises(SofteqError, match=message):
        load_state(module, state, "file.pth")
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_batch_counters_may_be_absent(module):
    state = {k: v for k, v in module.state_dict().items() if "num_batches" not in k}
    load_state(module, state, "old.pth")


def test_a_file_without_a_state_dict(tmp_path):
    path = tmp_path / "w.pth"
    torch.save([1, 2], path)
    with pytest.raises(SofteqError, match="expected a state dict"):
        read_state_dict(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(SofteqError, match="no tensor"):
        read_state_dict(path)


def twin(module):
    """The same network with other weights; batch counters alike."""
    other = type(module)(*[nn.Linear(3, 4), nn.BatchNorm1d(4)])
    return other


def loaded(tmp_path, content, key=None):
    """A network filled from a saved file, and what was said of the choice."""
    torch.save(content, tmp_path / "w.pt")
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return other, load_state(other, read_state_dict(tmp_path / "w.pt"), "w.pt", key)


def prefixed(start, module):
    return {start + k: v for k, v in module.state_dict().items()}


@pytest.mark.parametrize(
    "start", ["model.", "net.", "backbone.", "module.module.", "model._orig_mod.module.", "trainer.my_network."]
)
def test_any_wrapper_and_any_number_of_them(tmp_path, module, start):
    other, said = loaded(tmp_path, {"state_dict": prefixed(start, module), "optimizer": {"state": {0: torch.ones(3)}}})
    assert same(module, other)
    assert said == f"state_dict.{start.replace('_orig_mod.', '')}".rstrip(".")


def test_a_compiled_part_inside(tmp_path, module):
    state = {k.replace("0.", "0._orig_mod."): v for k, v in module.state_dict().items()}
    assert same(module, loaded(tmp_path, state)[0])
    wrapped = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wrapped[0] = torch.compile(wrapped[0], backend="eager")
    load_state(wrapped, module.state_dict(), "w.pt")
    assert torch.equal(wrapped[0]._orig_mod.weight, module[0].weight)


def test_the_network_may_be_the_one_that_is_wrapped(module):
    wrapped = nn.DataParallel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    load_state(wrapped, module.state_dict(), "w.pt")
    assert same(module, wrapped.module)


def test_the_average_of_a_training_run(tmp_path, module):
    other, said = loaded(tmp_path, AveragedModel(module).state_dict())
    assert same(module, other)
    assert said == "module; 1 other tensors left (n_averaged)"


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("state_dict.", "state_dict_ema."),
        ("model.", "ema.module."),
        ("model.", "model_ema."),
        ("state_dict.model.", "state_dict.ema_model."),
        ("state_dict.net.", "callbacks.EMACallback.weights."),
        ("model.", "swa_model.module."),
        ("model.", "averagedWeights."),
    ],
)
def test_averaged_weights_come_first_and_both_are_told(tmp_path, module, raw, average):
    other = twin(module)
    content = {}
    for start, source in ((raw, other), (average, module)):
        for name, value in source.state_dict().items():
            *parents, last = [*start.rstrip(".").split(".")]
            place = content
            for parent in parents:
                place = place.setdefault(parent, {})
            place.setdefault(last, {})[name] = value
    filled, said = loaded(tmp_path, content)
    assert same(module, filled)
    assert said == f"{average[:-1]} (averaged weights come first); not taken: {raw[:-1]}"
    filled, said = loaded(tmp_path, content, raw[:-1])
    assert same(other, filled)
    assert said == f"under {raw[:-1]}"


def test_averages_that_do_not_fit_are_told(tmp_path, module):
    shadow = [p.detach() for p in module.parameters()]
    filled, said = loaded(tmp_path, {"model": module.state_dict(), "ema": {"shadow_params": shadow}})
    assert same(module, filled)
    assert said == "model; averaged weights under ema do not fit and were not taken"
    parameters = dict(module.named_parameters())  # without the running statistics
    _, said = loaded(tmp_path, {"model": module.state_dict(), "model_ema": parameters})
    assert "averaged weights under model_ema do not fit" in said


def test_what_nothing_decides_is_refused(tmp_path, module):
    both = {"student": module.state_dict(), "teacher": twin(module).state_dict()}
    with pytest.raises(SofteqError, match=r"several parts .*\(student, teacher\).*--weights-key student"):
        loaded(tmp_path, both)
    assert same(module, loaded(tmp_path, both, "student")[0])
    alike = {"student": module.state_dict(), "teacher": {k: v.clone() for k, v in module.state_dict().items()}}
    assert same(module, loaded(tmp_path, alike)[0])
    with pytest.raises(SofteqValueError, match=r"nothing under 'teachr'; expected one of its keys: student, teacher"):
        loaded(tmp_path, both, "teachr")


def test_a_part_of_another_network_is_not_taken_for_the_whole(tmp_path):
    other = nn.Linear(3, 4)
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(SofteqError, match="does not fit Linear"):
        load_state(other, read_state_dict(tmp_path / "w.pt"), "w.pt")


def test_a_checkpoint_that_holds_itself(tmp_path, module):
    content = {"state_dict": module.state_dict(), "epoch": 1}
    content["trainer"] = {"checkpoint": content, "again": [content]}
    assert same(module, loaded(tmp_path, content)[0])
    circle = {}
    circle["model"] = circle
    torch.save(circle, tmp_path / "w.pt")
    with pytest.raises(SofteqError, match="holds no tensor"):
        read_state_dict(tmp_path / "w.pt")
    deep = {"w": torch.ones(1)}
    for _ in range(20):
        deep = {str(i): deep for i in range(10)}
    torch.save(deep, tmp_path / "w.pt")
    with pytest.raises(SofteqError, match="dictionaries are nested"):
        read_state_dict(tmp_path / "w.pt")


def test_one_of_several_shards(module):
    half = dict(list(module.state_dict().items())[:2])
    with pytest.raises(SofteqError, match=r"one of 3 shards: name the index file"):
        load_state(module, half, "model-00001-of-00003.safetensors")


WRONG = {
    "int8": (lambda v: (10 * v).to(torch.int8), r"0\.weight has the dtype int8"),
    "int64": (lambda v: (10 * v).long(), r"0\.weight has the dtype int64"),
    "bool": (lambda v: v > 0, "dtype bool"),
    "complex": (lambda v: v + 1j, "dtype complex64"),
    "float8": (lambda v: v.to(torch.float8_e4m3fn), r"0\.weight is quantised \(float8_e4m3fn\)"),
    "quantised": (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), r"is quantised \(qint8\)"),
    "meta": (lambda v: v.to("meta"), "has no values"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_what_cannot_be_a_weight_is_named_with_its_type(module, change, message):
    state = module.state_dict()
    state["0.weight"] = change(state["0.weight"].clone())
    with pytest.raises(SofteqError, match=message):
        load_state(module, state, "w.pt")


@pytest.mark.parametrize("change", [lambda v: v.half().double(), lambda v: v.to_sparse()], ids=["double", "sparse"])
def test_other_forms_of_the_same_numbers_load(module, change):
    other = twin(module)
    state = {k: change(v) if k == "0.weight" else v for k, v in module.state_dict().items()}
    load_state(other, state, "w.pt")
    torch.testing.assert_close(other[0].weight, module[0].weight, rtol=1e-3, atol=1e-3)
