"""tools/profile_step.py runs, its blocks add up, and it leaves everything as it was. No test looks at real time."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import write_sst2

from nanospike.arrays import ops
from nanospike.arrays.workers import Workers
from nanospike.training import teaching

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tools():
    """The modules of tools/ by name: (profile_step, clock, bench)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        yield [importlib.import_module(name) for name in ("profile_step", "clock", "bench")]


def test_the_time_of_a_function_is_its_own(tools):
    _, clock, _ = tools
    now = [0.0]

    def spend(seconds, inner=lambda: None):
        now[0] += seconds
        inner()

    timer = clock.Clock(lambda: now[0])
    twice = lambda: [timer.call(("inner", ""), spend, 3) for _ in range(2)]  # noqa: E731
    timer.call(("outer", "forward"), spend, 2, twice)
    assert timer.total("seconds") == {("outer", "forward"): 2, ("inner", ""): 6} and timer.total("calls") == 3
    with pytest.raises(ZeroDivisionError):
        timer.call(("outer", "forward"), spend, 1, lambda: 1 / 0)
    assert timer.total("seconds")["outer", "forward"] == 3


def test_the_same_values_by_the_clock(tools):
    _, clock, _ = tools
    rng, timer, grads, expected = np.random.default_rng(0), clock.Clock(), {}, {}
    x, weight = rng.standard_normal((3, 4, 5)), rng.standard_normal((2, 5))
    y, vjp = ops.linear(x, weight)
    plain, own = ops.linear, vjp(y, expected)
    with clock.timed(timer):
        found, timed_vjp = ops.linear(x, weight=weight)
        assert (
            np.array_equal(found, y) and np.array_equal(timed_vjp(y, grads), own) and np.array_equal(timed_vjp(y), own)
        )
        doubled = Workers(2).map(lambda i: ops.linear(i * x, weight)[0], [1, 2])
    assert np.array_equal(grads["weight"], expected["weight"]) and np.array_equal(doubled[0], y)
    product = 2 * 3 * 4 * 5 * 2
    assert timer.total("flop") == {
        ("linear layers", "forward"): 3 * product,
        ("linear layers", "backward"): 3 * product,
    }
    assert ops.linear is plain


def test_a_step_of_the_smallest_size(tools, tmp_path, capsys):
    profile, clock, bench = tools
    before = [getattr(row[0], row[1]) for row in (*clock.LAYERS, *clock.OTHERS)], teaching.computed, Workers.map
    where = ["--data-dir", str(write_sst2(tmp_path / "data")), "--output", str(tmp_path / "profile.json")]
    profile.main([*where, "--only", "step", "--sizes", "4x128", "--rounds", "1", "--steps", "1"])
    after = [getattr(row[0], row[1]) for row in (*clock.LAYERS, *clock.OTHERS)], teaching.computed, Workers.map
    assert after == before
    assert (tmp_path / "profile.md").read_text() == capsys.readouterr().out.removesuffix("\n")
    (size,) = json.loads((tmp_path / "profile.json").read_text())["step"]
    alone, *_ = size["views"]
    assert alone["workers"] == 1 and set(alone["blocks"]) == set(clock.BLOCKS) and alone["timers"]["calls"] > 100
    for view in size["views"]:
        assert sum(row["percent"] for row in view["blocks"].values()) == pytest.approx(100, abs=0.01)
        assert all({"teacher", "forward", "backward"} <= view["blocks"][b].keys() for b in ("gelu", "linear layers"))

    batches = bench.prepare(tmp_path / "again", "4x128", None, tmp_path / "data")
    configs = [json.loads((tmp_path / "again" / who / "config.json").read_text()) for who in ("teacher", "student")]
    padded = np.ones_like(batches["mask.0"])  # the layers multiply padding, too
    found = sum(alone["blocks"][b]["gflop"] for b in ("linear layers", "attention"))
    assert found == pytest.approx(bench.useful_gflop(*configs, padded), rel=0.01)  # it leaves out the classifiers


def test_imports_by_package(tools):
    said = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   _io
import time:      2000 |       2500 |     numpy.linalg
import time:       500 |       3000 |   numpy
import time:      1500 |       4500 | nanospike
a warning
"""
    found = tools[0].by_package(said)
    assert {p: ms for p, ms in found.items() if ms} == {"Python": 0.1, "numpy": 2.5, "nanospike": 1.5}


def test_what_it_needs_is_said(tools, capsys):
    with pytest.raises(SystemExit, match="2"):
        tools[0].main(["--data-dir", "nowhere", "--only", "step,start", "--sizes", "4x128,3x384"])
    assert "--minilm: needed for 3x384, start" in capsys.readouterr().err


def test_a_size_that_is_none_is_refused_in_one_line():
    program = [sys.executable, TOOLS / "bench.py", "--minilm", "x", "--data-dir", "y", "--only", "step"]
    found = subprocess.run([*program, "--sizes", "4x128,5x5"], capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "--sizes: found '5x5', expected some of 4x128" in found.stderr.splitlines()[-1]
