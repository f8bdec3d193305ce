import dataclasses
import threading

import pytest

from softeq.errors import SofteqError, SofteqValueError
from softeq.experiments.engine import record, runner, work


def _append(folder, toy, job, **metrics):
    line = record.make(toy.name, "smoke", *job.key, config=job.config, metrics=metrics, provenance={})
    record.append(record.record_path(folder, toy.name), line)


def _job(toy, variant="hard", seed=0):
    return work.Job(variant, seed, toy.configure("smoke", variant, seed))


def test_a_claim_excludes_others_until_it_ends_and_leaves_no_file(tmp_path):
    path = tmp_path / ".claims" / "a.lock"
    with work.claim(path) as mine, work.claim(path) as again:
        assert mine
        assert not again
    assert not path.exists()
    with work.claim(path) as mine:
        assert mine


def test_a_file_left_behind_by_a_killed_process_is_claimed(tmp_path):
    (tmp_path / "a.lock").write_text("")
    with work.claim(tmp_path / "a.lock") as mine:
        assert mine


def test_a_claim_is_released_when_its_block_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), work.claim(tmp_path / "a.lock"):
        raise ZeroDivisionError
    with work.claim(tmp_path / "a.lock") as mine:
        assert mine


def test_never_two_holders_although_files_come_and_go(tmp_path):
    inside, most, entered = 0, 0, 0
    lock = threading.Lock()

    def contend():
        nonlocal inside, most, entered
        for _ in range(100):
            with work.claim(tmp_path / ".claims" / "a.lock") as mine:
                if mine:
                    with lock:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    with lock:
                        inside -= 1

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered >= 100


def test_a_claim_that_cannot_be_made_says_where(tmp_path):
    (tmp_path / ".claims").write_text("")
    with pytest.raises(SofteqError, match=r"lock file .*\.claims/a\.lock"), work.claim(tmp_path / ".claims" / "a.lock"):
        pass


def test_a_pair_recorded_meanwhile_is_not_run_again(tmp_path, toy, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    jobs = [_job(toy), _job(toy, "soft")]
    _append(tmp_path, toy, jobs[0])
    events = []
    work.work_through(toy, "smoke", jobs, tmp_path, events.append)
    kinds = [(e.kind, e.variant) for e in events if e.kind != "step"]
    assert kinds == [("skip", "hard"), ("start", "soft"), ("done", "soft")]
    assert (tmp_path / "log").read_text() == "soft 0\n"


def test_a_pair_that_another_holds_is_waited_for(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(work, "POLL_INTERVAL", 0.01)
    jobs = [_job(toy), _job(toy, "soft")]
    events = []

    def watch(event):
        events.append((event.kind, event.variant))
        if event.kind == "wait":
            _append(tmp_path, toy, jobs[0], test_mse=7.0)
            holder.__exit__(None, None, None)

    holder = work.claim(work.claims(tmp_path) / "toy-smoke-hard-0.lock")
    assert holder.__enter__()
    work.work_through(toy, "smoke", jobs, tmp_path, watch)
    assert [e for e in events if e[0] != "step"] == [
        ("start", "soft"),
        ("done", "soft"),
        ("wait", "hard"),
        ("skip", "hard"),
    ]


def test_a_pair_whose_holder_died_without_a_record_is_run_here(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(work, "POLL_INTERVAL", 0.01)
    events = []

    def watch(event):
        events.append(event.kind)
        if event.kind == "wait":
            holder.__exit__(None, None, None)

    holder = work.claim(work.claims(tmp_path) / "toy-smoke-hard-0.lock")
    assert holder.__enter__()
    work.work_through(toy, "smoke", [_job(toy)], tmp_path, watch)
    assert (events[0], events[1], events[-1]) == ("wait", "start", "done")


def test_a_run_cannot_change_the_configuration_that_is_recorded(tmp_path, toy):
    def spoil(config, progress):
        config["steps"] = None
        return {"test_mse": 1.0}

    job, before = _job(toy), record.decode(record.encode(_job(toy).config))
    work.work_through(dataclasses.replace(toy, run=spoil), "smoke", [job], tmp_path, lambda event: None)
    assert work.recorded(toy, "smoke", tmp_path) == {job.key: before}
    assert job.config["steps"] is not None


def test_another_configuration_is_refused_naming_the_key(tmp_path, toy, monkeypatch):
    _append(tmp_path, toy, _job(toy))
    held = work.recorded(toy, "smoke", tmp_path)
    work.check_configs(toy, "smoke", {"hard"}, held)
    monkeypatch.setenv("TOY_STEPS", "9")
    work.check_configs(toy, "smoke", {"soft"}, held)
    message = r"toy, preset smoke, variant hard, seed 0 .* \(steps: 3 there, 9 now\): choose another --out"
    with pytest.raises(SofteqValueError, match=message):
        work.check_configs(toy, "smoke", {"hard"}, held)


def test_a_key_that_came_later_has_a_default_for_old_runs(tmp_path, toy):
    old = toy.configure("smoke", "hard", 0) | {"training": {"steps": 3}}

    def configure(preset, variant, seed):
        return old | {"training": {"steps": 3, "clip": 10.0}, "rule": "fixed"}

    grown = dataclasses.replace(toy, configure=configure, grown={"training.clip": 10.0, "rule": "fixed", "no.place": 1})
    work.check_configs(grown, "smoke", {"hard"}, {("hard", 0): old})
    other = dataclasses.replace(grown, grown={"training.clip": 5.0, "rule": "fixed"})
    with pytest.raises(SofteqValueError, match="training"):
        work.check_configs(other, "smoke", {"hard"}, {("hard", 0): old})
    assert old["training"] == {"steps": 3}, "the record itself stays as it is"


def test_claims_that_nobody_holds_are_swept_and_held_ones_stay(tmp_path):
    work.claims(tmp_path).mkdir()
    (work.claims(tmp_path) / "left.lock").touch()
    with work.claim(work.claims(tmp_path) / "held.lock"):
        work.sweep(tmp_path)
        assert [path.name for path in work.claims(tmp_path).iterdir()] == ["held.lock"]
    work.sweep(tmp_path)
    assert not work.claims(tmp_path).exists()
    work.sweep(tmp_path)


def test_a_claim_left_by_a_kill_after_its_record_is_gone_after_the_next_run(tmp_path, toy):
    for job in runner.plan(toy, "smoke"):
        _append(tmp_path, toy, job)
    work.claims(tmp_path).mkdir()
    (work.claims(tmp_path) / "toy-smoke-hard-0.lock").touch()
    runner.run_experiment(toy, "smoke", out=tmp_path)
    assert not work.claims(tmp_path).exists()
