"""How time and memory grow with batch, length, time steps, width, depth and workers: a table with fitted exponents.

    python tools/growth.py [--only batch,length,...] [--rounds N] [--fast] [--output FILE.json]

Each point is a random student in a process of its own, so that its peak memory is its own; rounds go through all points
in turn, the time is the best of them, for others only ever add to it; it is that of the processor (of the clock where
workers share). The exponent is the slope of the logarithms over
the larger sizes, where the parts that do not grow matter least: 1 is proportional. Memory is what the measured work
adds to the process as it was before.

batch, length, width, depth   one gradient of a distillation loss (teacher's part left out: it is given)
training steps                the same with the loss at rates simulated so long (--forward spikes), gradient implicit
few-steps                     the loss at every recorded step: 1, 2, 4, ... (--few-steps)
simulation                    T time steps spike by spike
examples, workers             equilibria of so many examples in batches of 32, by one worker or shared among several
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import nanospike
from nanospike.arrays.workers import Workers
from nanospike.files.model_files import write_json
from nanospike.model import twins
from nanospike.model.loss import Targets
from nanospike.model.simulate import SpikingRun

POINTS = {
    "batch": [{"batch": b} for b in (8, 16, 32, 64, 128)],
    "length": [{"length": n} for n in (16, 32, 64, 128, 256)],
    "training steps": [{"time_steps": t, "what": "spikes"} for t in (8, 16, 32, 64)],
    "few-steps": [{"time_steps": t, "what": "few"} for t in (2, 4, 8, 16)],
    "width": [{"width": w} for w in (64, 128, 256, 512)],
    "depth": [{"depth": n} for n in (2, 4, 8, 16)],
    "simulation": [{"time_steps": t, "what": "simulate"} for t in (8, 16, 32, 64, 128)],
    "examples": [{"examples": n, "what": "settle"} for n in (64, 128, 256, 512)],
    "workers": [{"workers": n, "examples": 256, "what": "settle"} for n in (1, 2)],
}
SIZE = {"training steps": "time_steps", "few-steps": "time_steps", "simulation": "time_steps"}
FITTED = 3  # largest sizes, at least


def peak_mb():
    """Peak resident memory of this process; getrusage would also count what the program was that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(what, batch, length, time_steps, examples, workers):
    """The function of a student whose time and memory count."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 8000, (batch, length))
    mask = np.ones_like(ids)
    if what == "simulate":
        return lambda student: student.simulate(ids, mask, time_steps=time_steps, record=())
    if what == "settle":
        pool, parts = Workers(workers), [ids] * (examples // batch)
        return lambda student: pool.map(lambda part: student.equilibrium(part, mask), parts)
    doubling = tuple(2**i for i in range(time_steps.bit_length()))
    how = {"spikes": SpikingRun(time_steps=time_steps), "few": SpikingRun(time_steps=time_steps, record=doubling)}
    target = {}

    def learn(student):
        if not target:
            target["found"] = Targets(student.equilibrium(ids, mask))
        return student.gradients((ids, mask, ids * 0), target["found"], simulation=how.get(what))

    return learn


def point(batch=32, length=32, width=256, depth=4, time_steps=1, examples=32, workers=1, what="gradient"):
    """Milliseconds and megabytes of one point, in this process."""
    config = {
        "vocab_size": 8000, "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 32,
        "intermediate_size": 4 * width, "max_position_embeddings": 256,
    }  # fmt: skip
    student = nanospike.init_student(config)
    student.equilibrium(np.ones((1, 8), np.int64))
    function, seconds, before = work(what, batch, length, time_steps, examples, workers), [], peak_mb()
    clock = time.process_time if workers == 1 else time.perf_counter
    with Workers(workers).one_blas_thread():
        for _ in range(3):
            began = clock()
            function(student)
            seconds.append(clock() - began)
    return {"ms": round(1000 * min(seconds), 2), "mb": round(peak_mb() - before, 1)}


def measured(rounds=3, only=tuple(POINTS), fast=False):
    """[{"grows", "sizes", "ms", "mb", "exponent", "memory_exponent"}] of the chosen parts."""
    jobs = [(name, p) for name in only for p in POINTS[name]]
    found = {i: [] for i in range(len(jobs))}
    for _ in range(rounds):
        for i, (_, p) in enumerate(jobs):
            argv = [sys.executable, __file__, "--point", json.dumps(p), *(["--fast"] if fast else [])]
            found[i].append(json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout))
    rows = []
    for name in only:
        at = [i for i, job in enumerate(jobs) if job[0] == name]
        sizes = [jobs[i][1][SIZE.get(name, name)] for i in at]
        ms, mb = ([min(f[key] for f in found[i]) for i in at] for key in ("ms", "mb"))
        rows.append({"grows": name, "sizes": sizes, "ms": ms, "mb": mb})
        rows[-1] |= {"exponent": exponent(sizes, ms), "memory_exponent": exponent(sizes, mb)}
    return rows


def exponent(sizes, values):
    """The slope of log value over log size, of the largest sizes; None where a value is too small to have one."""
    some = max(min(FITTED, len(sizes)), len(sizes) // 2 + 1)
    sizes, values = np.asarray(sizes[-some:], float), np.asarray(values[-some:], float)
    if (values < 1).any():
        return None
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2)


def lines(rows):
    """The rows as a Markdown table."""
    yield "| grows | sizes | ms | exponent | MB | exponent |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        told = [", ".join(f"{v:.3g}" for v in row[key]) for key in ("sizes", "ms", "mb")]
        powers = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("exponent", "memory_exponent")]
        yield f"| {row['grows']} | {told[0]} | {told[1]} | {powers[0]} | {told[2]} | {powers[1]} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(POINTS), help="which parts, a comma list")
    parser.add_argument("--rounds", type=int, default=3, help="how often each point is measured")
    parser.add_argument("--fast", action="store_true", help="with blocks that numba compiles")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fast and "compiled" not in (said := twins.use_fast(True)):
        parser.error(said or "--fast: numba is not installed")
    if options.point:
        return print(json.dumps(point(**json.loads(options.point))))
    only = options.only.split(",")
    if unknown := [name for name in only if name not in POINTS]:
        parser.error(f"--only: found {', '.join(unknown)}, expected some of {', '.join(POINTS)}")
    rows = measured(options.rounds, only, options.fast)
    print("\n".join(lines(rows)))
    if options.output:
        write_json(options.output, {"cores": os.cpu_count(), "growth": rows})


if __name__ == "__main__":
    main()
