"""Where the time of a training step, of a simulated step and of start-up goes: tables, JSON and Markdown with --output.

    python tools/profile_step.py --minilm DIR --data-dir GLUE/SST-2 [--only step,simulation,start] [--output FILE.json]

The steps are those of tools/bench.py, on its sizes and batches, which are collated from lists of word pieces as in
training. The functions of nanospike are replaced by such that look at the clock, and so are the vjps that they return;
a function's time is its own, without that of the timed functions that it calls, and so all blocks add up to the step:

attention     the products of attention with their scaling and the copies that split and merge heads; its softmax apart
embedding     rows taken out of the tables, gradients summed by row, rows of moments and weights taken and put back
residuals     what an encoder itself does: the sums around its blocks
AdamW         the norm of the gradients and the update
sums          the gradients of all workers added up
rest          Python, and what has no line of its own
idle          workers that wait while another works, or while there is no work to share

Two views: one worker with one BLAS thread, and as many workers as there are cores, where the times of all threads are
added. `at sgemm` is what the floating-point operations of a block would take at the rate of a large matrix product,
measured between the steps in as many threads. Rounds with timers and without alternate; the table is that of the
median round; the ratio is that with timers to without, over all rounds, and "by themselves" what so many timed calls
of a function that does nothing take. The kernel's time, mostly that of page faults, is within the blocks.
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import bench
import numpy as np
from clock import BLOCKS, REST, WAIT, Clock, timed, timed_layer

from nanospike.arrays.workers import blas_threads
from nanospike.data import text
from nanospike.files.model_files import write_json

COLUMNS = ("teacher", "forward", "backward")  # of a step; "" is what belongs to none of them
NOTABLE = 5  # percent of the step
SIMULATED = 8  # time steps
PACKAGES = ("numpy", "scipy", "tokenizers", "safetensors", "nanospike")

# ---- what is measured ---------------------------------------------------------------------------------------


class Steps(bench.Ours):
    """The steps of bench.Ours on batches that are collated each time."""

    def __init__(self, directory, workers):
        super().__init__(directory, workers)
        ids = [row[real > 0] for batch in self.batches for row, real in zip(*batch, strict=True)]
        self.data = text.Encoded(ids, [row * 0 for row in ids])
        edges = np.cumsum([0, *(len(ids) for ids, _ in self.batches)])
        self.indices = [np.arange(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]

    def batch(self):
        self.at += 1
        batch = text.collate(self.data, self.indices[(self.at - 1) % len(self.indices)])
        return batch.input_ids, batch.attention_mask

    def simulation(self):
        ids, mask = self.batch()
        self.student.simulate(ids, mask, time_steps=SIMULATED, record=())


def seconds_of(function, repeats):
    """Seconds of a call, on average."""
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - began) / repeats


@contextmanager
def one_blas_thread():
    get, put = blas_threads() or (lambda: 1, lambda threads: None)
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


def sgemm(workers):
    """GFLOP/s of each thread, while all multiply large matrices."""
    with one_blas_thread():
        return statistics.mean(workers.map(lambda _: bench.gemm(2048, 2048, 2048, 3), range(workers.size)))


def call_cost(calls=1000):
    """Seconds that a timed call takes more than a plain one."""
    plain = lambda: ((), None)  # noqa: E731
    with_clock = timed_layer(Clock(), "block", plain, None)
    return min(seconds_of(with_clock, calls) for _ in range(50)) - min(seconds_of(plain, calls) for _ in range(50))


def view(function, workers, rounds, repeats):
    """The record of a function of no arguments, `repeats` calls in each of the rounds, all workers at its service."""
    function()
    found = []
    for _ in range(rounds):
        plain, clock = seconds_of(function, repeats), Clock()
        with timed(clock):
            before = resource.getrusage(resource.RUSAGE_SELF)
            wall = seconds_of(lambda: clock.call(REST, function), repeats)  # noqa: B023
            after = resource.getrusage(resource.RUSAGE_SELF)
        system = {
            "kernel_ms": 1000 * (after.ru_stime - before.ru_stime) / repeats,
            "page_faults": (after.ru_minflt - before.ru_minflt) / repeats,
        }
        found.append((wall, plain, clock, sgemm(workers), system))
    wall, _, clock, rate, system = sorted(found, key=lambda f: f[0])[len(found) // 2]
    calls = clock.total("calls") / repeats
    return {
        "workers": workers.size,
        "ms": 1000 * wall,
        **system,
        "timers": {
            "ms_without": 1000 * statistics.median(f[1] for f in found),
            "ratio": bench.quartiles([f[0] / f[1] for f in found]),
            "calls": round(calls),
            "percent_by_calls": 100 * calls * call_cost() / (workers.size * wall),
        },
        "sgemm_gflops_per_thread": rate,
        "blocks": blocks(clock, workers.size * wall, repeats, rate),
    }


def blocks(clock, available, repeats, rate):
    """{block: {a column: ms, ..., "ms": of all columns, "percent" of the `available` seconds, gflop, at_sgemm_ms}}"""
    seconds, flop = clock.total("seconds"), clock.total("flop")
    seconds.pop(WAIT, None)
    seconds["idle", ""] = repeats * available - sum(seconds.values())
    rows = {}
    for block in (b for b in BLOCKS if any(key[0] == b for key in seconds)):
        parts = {column: s / repeats for (name, column), s in seconds.items() if name == block}
        row = {c: 1000 * parts[c] for c in COLUMNS if c in parts}
        rows[block] = row | {"ms": 1000 * sum(parts.values()), "percent": 100 * sum(parts.values()) / available}
        if gflop := 1e-9 * sum(n for (name, _), n in flop.items() if name == block) / repeats:
            rows[block] |= {"gflop": gflop, "at_sgemm_ms": 1000 * gflop / rate}
    return rows


def step_views(name, options, directory):
    """One size, by one worker and by all."""
    bench.prepare(directory, name, options.minilm, options.data_dir)
    with one_blas_thread():
        alone = Steps(directory, 1)
        views = [view(alone.step, alone.workers, options.rounds, options.steps)]
    steps = Steps(directory, 0)
    if steps.workers.size > 1:
        views.append(view(steps.step, steps.workers, options.rounds, options.steps))
    return {"size": name, "views": views}


def simulation_view(options, directory):
    bench.prepare(directory, "3x384", options.minilm, options.data_dir)
    with one_blas_thread():
        steps = Steps(directory, 1)
        found = view(steps.simulation, steps.workers, options.rounds, options.steps)
    return {"time_steps": SIMULATED} | found


def start_views(options, directory):
    """Milliseconds of imports by package, medians over fresh processes; what a first prediction imports besides."""
    bench.prepare(directory, "3x384", options.minilm, options.data_dir)
    predict = f"import nanospike; nanospike.predict({str(directory / 'student')!r}, ['a warm , funny film .'])"
    views = {}
    for name, code in (("import nanospike", "import nanospike"), ("a first prediction", predict)):
        argv = [sys.executable, "-X", "importtime", "-c", code]
        runs = [subprocess.run(argv, capture_output=True, text=True, check=True).stderr for _ in range(options.rounds)]
        rows = [by_package(run) for run in runs]
        views[name] = {p: statistics.median(row[p] for row in rows) for p in rows[0]}
    return views


def by_package(said):
    """{package: milliseconds} of what `python -X importtime` said; "Python" is its own library."""
    found = dict.fromkeys((*PACKAGES, "Python"), 0.0)
    for line in said.splitlines():
        if row := re.fullmatch(r"import time: +(\d+) \| +\d+ \| +(\w+).*", line):
            found[row[2] if row[2] in PACKAGES else "Python"] += int(row[1]) / 1000
    return found


# ---- what is told -------------------------------------------------------------------------------------------


def table(rows):
    """Lines of a Markdown table whose columns also line up as text; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:])]


def number(value):
    return "" if value is None else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def view_lines(title, found):
    """One view as text: a sentence, the table of its blocks, and which of them are large."""
    timers, rows = found["timers"], found["blocks"]
    low, high = timers["ratio"]["quartiles"]
    workers = "one worker" if found["workers"] == 1 else f"{found['workers']} workers"
    yield f"### {title}, {workers}"
    yield ""
    yield (
        f"{found['ms']:.1f} ms; {found['kernel_ms']:.1f} in the kernel, with {found['page_faults']:.0f} page faults. "
        f"Without timers {timers['ms_without']:.1f}: ratio {timers['ratio']['median']:.3f}, quartiles {low:.3f} to "
        f"{high:.3f}; {timers['calls']} calls, {timers['percent_by_calls']:.2f} % by themselves. "
        f"sgemm: {found['sgemm_gflops_per_thread']:.0f} GFLOP/s a thread."
    )
    yield ""
    used = [c for c in COLUMNS if any(c in row for row in rows.values())]
    keys = [*used, "ms", "percent", "gflop", "at_sgemm_ms"]
    head = ["block", *used, "all, ms", "%", "GFLOP", "at sgemm, ms"]
    yield from table([head, *([name, *(number(row.get(k)) for k in keys)] for name, row in rows.items())])
    yield ""
    large = [f"{name} {row['percent']:.0f} %" for name, row in rows.items() if row["percent"] >= NOTABLE]
    above = sum(r["ms"] - r["at_sgemm_ms"] for r in rows.values() if "gflop" in r)
    share = 100 * above / (found["workers"] * found["ms"])
    yield f"Of {NOTABLE} % and more: {', '.join(large)}. Products above their time at sgemm: {share:.0f} % of the step."
    yield ""


def head_lines(machine):
    yield "# Where the time goes"
    yield ""
    yield (
        f"`python tools/profile_step.py` on {machine['cores']} cores of {machine['cpu']}, "
        f"AVX-512 {'yes' if machine['avx512'] else 'no'}, NumPy {machine['numpy']}. "
        "Milliseconds of all threads; what the blocks are stands in that program."
    )
    yield ""


def start_lines(found):
    yield "### Imports, ms"
    yield ""
    columns = list(next(iter(found.values())))
    rows = [[name, *map(number, row.values()), number(sum(row.values()))] for name, row in found.items()]
    yield from table([["", *columns, "all"], *rows])
    yield ""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, help="directory of all-MiniLM-L6-v2")
    parser.add_argument("--data-dir", type=Path, required=True, help="directory of SST-2 (train.tsv)")
    parser.add_argument("--only", default="step,simulation,start", help="which parts, a comma list")
    parser.add_argument("--sizes", default=",".join(bench.SIZES), help="which sizes of `step`, a comma list")
    parser.add_argument("--rounds", type=int, default=7, help="alternations")
    parser.add_argument(
        "--steps",
        type=int,
        default=bench.BATCHES,
        help="with timers, and without, in a round; multiples of 24: the same batches",
    )
    parser.add_argument("--output", type=Path, help="JSON file; the tables go beside it with the suffix .md")
    options = parser.parse_args(arguments)
    parts, sizes = options.only.split(","), options.sizes.split(",")
    needy = [s for s in sizes if "x128" not in s] if "step" in parts else []
    if not options.minilm and (needy or {"simulation", "start"} & set(parts)):
        parser.error(f"--minilm: needed for {', '.join([*needy, *(p for p in parts if p != 'step')])}")
    results, told = {"machine": bench.machine()}, []

    def tell(lines):
        told.extend(lines)
        print("\n".join(lines), flush=True)

    tell([*head_lines(results["machine"])])
    with tempfile.TemporaryDirectory() as temporary:
        places = Path(temporary)
        if "step" in parts:
            results["step"] = []
            for name in sizes:
                found = step_views(name, options, places / name.replace(" ", "-"))
                results["step"].append(found)
                for each in found["views"]:
                    tell([*view_lines(f"A step of {name}", each)])
        if "simulation" in parts:
            results["simulation"] = found = simulation_view(options, places / "simulation")
            tell([*view_lines(f"Simulation of {SIMULATED} time steps, 3x384, 32 sentences", found)])
        if "start" in parts:
            results["start"] = start_views(options, places / "start")
            tell([*start_lines(results["start"])])
    if options.output:
        write_json(options.output, json.loads(json.dumps(results), parse_float=lambda x: round(float(x), 4)))
        options.output.with_suffix(".md").write_text("\n".join(told), encoding="utf-8")


if __name__ == "__main__":
    main()
