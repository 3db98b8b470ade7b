"""Several processes: the same sums as one, one voice, and an end for all when one fails."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import CORPUS, contents, log_lines, run, write_sst2, write_teacher

from nanospike import finetune
from nanospike.training import parallel
from nanospike.training.parallel import LAUNCHERS, Sums, World, launched

HERE = Path(__file__).resolve().parents[1]
BESIDE = str(Path(sys.executable).parent)  # where pip puts mpich's mpiexec, which is the one that belongs to mpi4py
MPIEXEC = shutil.which("mpiexec", path=BESIDE + os.pathsep + os.environ.get("PATH", ""))
EXCHANGE = {"communicated_mb", "communication_ms", "waiting_ms"}

MISSING = "mpiexec" if MPIEXEC is None else "" if importlib.util.find_spec("mpi4py") else "mpi4py"
mpi = pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING}: pip install mpi4py mpich")


# ---- without MPI --------------------------------------------------------------------------------------------


def test_a_launcher_is_known_by_its_variables():
    assert launched({}) == launched({"PMI_RANK": "0"}) == launched({"PMI_RANK": "a", "PMI_SIZE": "b"}) == (0, 1)
    for rank, size in LAUNCHERS:
        assert launched({rank: "3", size: "8"}) == (3, 8)


@pytest.fixture
def two_processes(monkeypatch):
    """The environment of rank 0 of two, and no mpi4py."""
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    parallel.world.cache_clear()
    yield
    parallel.world.cache_clear()


def test_several_processes_without_mpi4py_are_told_what_to_install(two_processes, capsys):
    assert run(finetune.main, "--help") == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("error: 2 processes, and mpi4py cannot be used") and "nanospike[mpi]" in said.err


def test_one_process_is_a_world():
    here = World()
    assert (here.rank, here.size, here.gathered(3), here.any(True), here.any(False)) == (0, 1, [3], True, False)
    assert here.mine(np.array([3, 4])) == slice(0, 2) and here.once(max, 1, 2) == 2
    here.require_same({})
    here.wait()
    value = object()
    sums = Sums(here)
    assert sums.step(lambda: value, False) is value and sums.figures(1) == {}
    with pytest.raises(SystemExit, match="2"):
        here.stop("no", 2)


# ---- with MPI -----------------------------------------------------------------------------------------------


def start(ranks, *argv, seconds=120):
    """Run tests/ranks.py under mpiexec."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "MPI", "OMPI"))}
    paths = [str(HERE.parent), str(HERE), environment.get("PYTHONPATH", "")]
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": BESIDE + os.pathsep + os.environ["PATH"],
    }
    command = [MPIEXEC, "-n", ranks, sys.executable, "-W", "error", HERE / "ranks.py", *argv]
    return subprocess.run(
        [str(a) for a in command], env=environment, capture_output=True, text=True, timeout=seconds,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("places")
    (root / "corpus.txt").write_text(CORPUS)
    return {"model": write_teacher(root / "bert"), "data": write_sst2(root / "data"), "corpus": root / "corpus.txt"}


def argv(command, places, out, *more):
    where = ("--task", "sst-2", "--data-dir", places["data"], "--output-dir", out, "--batch-size", 8, "--log-every", 2)
    if command == "finetune":
        return "--model", places["model"], *where, "--epochs", 2, "--learning-rate", 1e-3, "--save-every", 3, *more
    options = ("--epochs", 1, "--time-steps", "2,4", "--save-every", 3, "--v-th", 2, "--corpus", places["corpus"])
    if command == "distill":
        options += ("--classifier", "learnt")  # a fit to so few texts amplifies the rounding of sums
    return "--teacher", places["model"], *where, *options, *more


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    """The directory of a run of two ranks that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = start(2, "finetune", "-", 0, *argv("finetune", places, out, "--workers", 1))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("options: ") == 1 and done.stdout.count("\n") == 2 and done.stderr == ""
    return out


@mpi
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("feedback", ["feedback", "-"])
def test_ranks_sum_to_the_whole_batch(ranks, feedback):
    """In float32, with embeddings, and a batch of which some ranks have nothing."""
    done = start(ranks, "sums", feedback, 0)
    assert done.returncode == 0, done.stderr
    worst, sent = done.stdout.split()
    assert float(worst) < (1e-4 if feedback == "feedback" else 2e-5) and int(sent) > 0


def without_exchange(directory):
    """The lines of a log of several ranks as one process writes them; rates are those of rank 0's part."""
    lines = log_lines(directory)
    assert all(line.keys() >= EXCHANGE and line["communicated_mb"] > 0 for line in lines)
    return [{k: v for k, v in line.items() if k not in EXCHANGE} for line in lines]


@mpi
@pytest.mark.parametrize("command", ["finetune", "distill", "feedback"])
def test_two_ranks_equal_one_process(command, places, whole, tmp_path):
    """Of two workers, so that both cut the batch alike and draw the same dropout."""
    more = ("--feedback", "--classifier", "fitted") if command == "feedback" else ()
    name, one, two = "finetune" if command == "finetune" else "distill", tmp_path / "one", whole
    if name == "distill":
        two = tmp_path / "two"
        done = start(2, name, "-", 0, *argv(name, places, two, "--workers", 1, *more))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("options: ") == 1
    done = start(1, name, "-", 0, *argv(name, places, one, "--workers", 2, *more))
    assert done.returncode == 0, done.stderr
    assert sorted(contents(one)) == sorted(contents(two))
    weights, expected = (load_file(d / "model.safetensors") for d in (two, one))
    for weight, value in expected.items():
        np.testing.assert_allclose(weights[weight], value, rtol=1e-5, atol=2e-6, err_msg=weight)
    own = ("mean_rate", "_sweeps", "_residual")
    for line, other in zip(without_exchange(two), log_lines(one), strict=True):
        assert line.keys() == other.keys()
        for key in (k for k in line if not k.endswith(own)):
            same = line[key] if isinstance(line[key], str | None) else pytest.approx(line[key], rel=1e-4)
            assert other[key] == same, key


@mpi
def test_a_killed_rank_stops_the_others_and_the_run_goes_on(places, whole, tmp_path):
    out = tmp_path / "out"
    done = start(2, "finetune", "kill", 6, *argv("finetune", places, out, "--workers", 1))
    assert done.returncode != 0 and "signal 9" in done.stdout + done.stderr
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["finetune-0000003"]
    done = start(2, "finetune", "-", 0, *argv("finetune", places, out, "--workers", 1, "--resume"))
    assert (done.returncode, done.stderr) == (0, "resuming finetune after step 3\n")
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    timed = EXCHANGE - {"communicated_mb"}
    steady = [[{k: v for k, v in line.items() if k not in timed} for line in log_lines(d)] for d in (out, whole)]
    assert [line["loss"] for line in steady[0]] == [line["loss"] for line in steady[1]]


@mpi
@pytest.mark.parametrize("update", [4, 8])  # between two checkpoints; the last of all
def test_ctrl_c_on_any_rank_saves_once(update, places, whole, tmp_path):
    out = tmp_path / "out"
    done = start(2, "finetune", "interrupt", update, *argv("finetune", places, out, "--workers", 1))
    told = re.search(r"saved as of finetune step (\d+);", done.stderr)
    assert done.returncode == 130 and told and int(told[1]) in (update, update + 1), done.stderr
    assert done.stderr.count("saved as of") == 1 and "Abort" not in done.stderr
    done = start(2, "finetune", "-", 0, *argv("finetune", places, out, "--workers", 1, "--resume"))
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@mpi
@pytest.mark.parametrize(
    "accident, status, said",
    [
        ("error", 2, r"rank 1 of 2 on \S+: error: the disk is gone\n"),
        ("bug", 1, r"rank 1 of 2 on \S+: Traceback(.|\n)*ZeroDivisionError"),
        ("drift", 2, r"^error: the weights of rank 1 are not those of rank 0;"),
    ],
)
def test_what_fails_on_one_rank_stops_all(accident, status, said, places, tmp_path):
    done = start(2, "finetune", accident, 2, *argv("finetune", places, tmp_path / "out"))
    assert done.returncode == status and re.search(said, done.stderr), done.stderr
    assert done.stderr.count("rror: ") == 1 or accident == "bug"


@mpi
def test_what_is_wrong_for_all_is_said_once(places, whole, tmp_path):
    done = start(2, "finetune", "-", 0, *argv("finetune", places, whole))  # not empty: rank 0 finds out
    assert done.returncode == 2 and done.stderr.count("error:") == 1
    done = start(2, "finetune", "-", 0, *argv("finetune", {**places, "model": tmp_path}, tmp_path / "out"))
    assert done.returncode == 2 and done.stderr.count("error:") == 1
    done = start(2, "alone", "-", 0)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[0] == "error: this command runs in one process, found 2; start it without mpiexec"


@mpi
def test_divergence_on_one_rank_is_known_to_all():
    done = start(2, "diverge", "-", 0)
    assert all(f"rank {r}: no convergence" in done.stdout for r in (0, 1)), done.stdout  # the ranks' lines may mix
