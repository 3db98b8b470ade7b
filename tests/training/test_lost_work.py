"""What is not lost: SIGTERM saves, a run stopped early begins again, the clock decides nothing, one writer."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import contents, log_lines, run, write_sst2, write_teacher

from nanospike import InputError, finetune
from nanospike.files.lock import NAME, Lock
from nanospike.training import resume
from nanospike.training.optim import AdamW

HOLD = """
import sys, time
from nanospike.files.lock import Lock
Lock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("lost")
    write_teacher(root / "bert")
    write_sst2(root / "data")
    assert run(finetune.main, *argv(root, root / "whole")) == 0
    return root


def argv(places, out, *more):
    where = ("--model", places / "bert", "--task", "sst-2", "--data-dir", places / "data", "--output-dir", out)
    return *where, "--batch-size", 8, "--epochs", 2, "--log-every", 2, "--save-every", 3, "--workers", 1, *more


def at_update(monkeypatch, number, act):
    """act() in the update of this number."""
    whole, calls = AdamW.update, []

    def acting(self, *args):
        calls.append(1)
        if len(calls) == number:
            act()
        return whole(self, *args)

    monkeypatch.setattr(AdamW, "update", acting)


def crash():
    raise RuntimeError("as if the power had failed")


def same_as_whole(places, out):
    assert (out / "model.safetensors").read_bytes() == (places / "whole" / "model.safetensors").read_bytes()
    assert log_lines(out) == log_lines(places / "whole")


def test_sigterm_saves_as_ctrl_c_does(places, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_update(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        assert run(finetune.main, *argv(places, tmp_path / "out")) == 130
    assert "saved as of finetune step 5; --resume goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert run(finetune.main, *argv(places, tmp_path / "out", "--resume")) == 0
    same_as_whole(places, tmp_path / "out")


def test_sigterm_of_a_process_of_its_own(places, tmp_path):
    """Whenever it comes: what is there then can be gone on with."""
    command = [sys.executable, "-m", "nanospike.finetune", *map(str, argv(places, tmp_path / "out", "--epochs", 400))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not list((tmp_path / "out").glob("checkpoints/finetune-*")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "saved as of finetune step" in said and "Traceback" not in said
    assert not (tmp_path / "out" / NAME).exists()


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(places, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        at_update(patch, 3, crash)
        with pytest.raises(RuntimeError):
            run(finetune.main, *argv(places, out))
    assert (out / resume.ARGS).exists() and (out / resume.LOG).exists() and not (out / "checkpoints").exists()
    before = contents(out)
    assert run(finetune.main, *argv(places, out)) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert run(finetune.main, *argv(places, out, "--resume", "--seed", 5)) == 2
    assert "--resume: other values of --seed than in the run" in capsys.readouterr().err and contents(out) == before
    assert run(finetune.main, *argv(places, out, "--resume")) == 0
    assert "stopped before its first checkpoint: from the beginning" in capsys.readouterr().err
    same_as_whole(places, out)


def test_a_checkpoint_that_is_damaged_is_no_reason_to_begin_again(places, tmp_path, monkeypatch, capsys):
    shutil.copytree(places / "whole", tmp_path / "out")
    for state in (tmp_path / "out" / "checkpoints").glob("*/state.json"):
        state.write_text("{}")
    assert run(finetune.main, *argv(places, tmp_path / "out", "--resume")) == 2
    assert "no checkpoint that is whole: " in capsys.readouterr().err


@pytest.mark.parametrize("clock", [lambda n: 2e9 - 3600 * n, lambda n: 1.0])
def test_the_last_checkpoint_is_that_of_the_last_step_whatever_the_clock_said(clock, places, tmp_path, monkeypatch):
    times = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(resume.time, "time", lambda: clock(next(times)))
        at_update(patch, 8, crash)
        with pytest.raises(RuntimeError):
            run(finetune.main, *argv(places, tmp_path / "out"))
    found = sorted(p.name for p in (tmp_path / "out" / "checkpoints").iterdir())
    assert found == ["finetune-0000003", "finetune-0000006"]
    with monkeypatch.context() as patch:
        patch.setattr(resume.time, "time", lambda: clock(next(times)))
        assert run(finetune.main, *argv(places, tmp_path / "out", "--resume")) == 0
    same_as_whole(places, tmp_path / "out")
    assert (tmp_path / "out" / "checkpoints" / "finetune-0000008").exists()


def test_stages_are_ordered_as_they_are_trained(tmp_path):
    stages = ["general", "internal", "prediction", "few-steps"]
    states = [{"stage": s, "step": n, "options": {"stages": stages}} for s in stages for n in (9, 10, 200)]
    assert sorted(states[::-1], key=resume._progress) == states


def test_more_epochs_are_another_run(places, tmp_path, capsys):
    shutil.copytree(places / "whole", tmp_path / "out")
    assert run(finetune.main, *argv(places, tmp_path / "out", "--resume", "--epochs", 5)) == 2
    said = "--resume: other values of --epochs than in the run in {}; to train what it left further, name it as --model"
    assert said.format(tmp_path / "out") in capsys.readouterr().err


# ---- one writer ---------------------------------------------------------------------------------------------


def test_two_runs_do_not_write_into_one_directory(places, tmp_path, capsys):
    shutil.copytree(places / "whole", tmp_path / "out")
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "out"], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        before = contents(tmp_path / "out")
        assert run(finetune.main, *argv(places, tmp_path / "out", "--resume")) == 2
        printed = capsys.readouterr().err
        assert f"error: {tmp_path / 'out'}: process {other.pid} on " in printed and "writes there" in printed
        assert contents(tmp_path / "out") == before
    finally:
        other.kill()  # it leaves its file, and no lock
        other.communicate()
    assert (tmp_path / "out" / NAME).exists()
    assert run(finetune.main, *argv(places, tmp_path / "out", "--resume")) == 0
    assert not (tmp_path / "out" / NAME).exists()


def test_a_lock_is_given_back_and_names_its_owner(tmp_path):
    lock = Lock(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    with pytest.raises(InputError, match=f"process {os.getpid()} on .*, since .*, writes there"):
        Lock(tmp_path)
    lock.release()
    assert not list(tmp_path.iterdir())
    again = Lock(tmp_path)
    (tmp_path / NAME).unlink()  # as one does who gives it back while another waits for it
    third = Lock(tmp_path)
    again.handle, _ = None, os.close(again.handle)
    third.release()
    lock.release()


def test_a_lock_where_there_are_none_leaves_nothing_open_and_one_that_is_gone_is_let_go(tmp_path, monkeypatch):
    """As on some network file systems: the run goes on without."""
    fcntl = pytest.importorskip("fcntl")
    held = Lock(tmp_path)
    (tmp_path / NAME).unlink()
    held.release()

    def refuse(handle, how):
        raise OSError("no locks here")

    before = os.listdir("/dev/fd")
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert Lock(tmp_path).handle is None and len(os.listdir("/dev/fd")) == len(before)


@pytest.mark.parametrize(
    "change, said",
    [({"step": "8"}, "step: found '8'"), ({"summary": []}, "summary"), ({"options": None}, "options"),
     ({"saved": {}}, "saved"), ({"stage": 5}, "stage"), ({"options": {"stages": 5}}, "stages"),
     ({"score": "x"}, "score"), ({"step": True}, "step")],
)  # fmt: skip
def test_a_state_of_other_types_is_damage(change, said, places, tmp_path, capsys):
    shutil.copytree(places / "whole", tmp_path / "out")
    for path in (tmp_path / "out" / "checkpoints").glob("*/state.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert run(finetune.main, *argv(places, tmp_path / "out", "--resume")) == 2
    assert said in capsys.readouterr().err


def test_the_best_checkpoint_is_the_first_of_the_highest_score():
    checkpoints = [
        (Path("d"), {"score": 0.5}),
        (Path("c"), {}),
        (Path("b"), {"score": 0.9}),
        (Path("a"), {"score": 0.9}),
    ]
    assert resume._best(checkpoints)[0] == Path("b") and resume._best(checkpoints[1:2]) is None
