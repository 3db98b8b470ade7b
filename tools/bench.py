"""How fast nanospike is on this machine's CPU, as ratios from alternating runs: a table, and JSON with --output.

    python tools/bench.py --minilm DIR --data-dir GLUE/SST-2 [--peer PYTHON_WITH_TORCH] [--only step,simulation,...]

DIR is all-MiniLM-L6-v2 (or any BERT of 6 x 384), the teacher of the 3 x 384 student. The peer is tools/bench_torch.py,
the same graph, loss and update in eager PyTorch; it runs under another interpreter, for nanospike never needs PyTorch:

    python -m venv torch_env && torch_env/bin/pip install torch safetensors numpy

step        one distillation step (teacher, equilibrium, adjoint, update) on real SST-2 batches of 32 and 64, against
            the peer with the same row-sparse update of the embedding tables (`sparse`), with torch.optim.AdamW over
            whole tables (`dense`), with --bfloat16 also under autocast (`autocast`), and against the published
            procedure in the peer (T = 100, padded to 64 tokens);
            GFLOP/s of useful work (no padding) over the sgemm peak of the same run; peak memory of each
simulation  one simulated step over one equilibrium forward, and T = 32 over the SST-2 dev set with --dev, in whole
            numbers, too, if the student can
sentence    one sentence by one worker, the model loaded: milliseconds at T = 4, and T = 16 over its equilibrium, of an
            untrained hybrid; the logits of a student without multiplications (4 x 128: untrained; 3 x 384: the bundled
            one) in floats and in whole numbers, and its equilibrium
start       `import nanospike`, and a first prediction with the 3 x 384 student: seconds and resident memory
growth      time and memory with batch, length, T, width, depth, examples and workers: see growth.py

Every program of a comparison is a process of its own that waits while another runs; a ratio is the median over the
rounds of (ours / theirs) with the quartiles beside it. Absolute times are of this machine in this hour.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import growth
import numpy as np

import nanospike
from nanospike.arrays.backend import set_host_product
from nanospike.arrays.tree import nest
from nanospike.arrays.workers import Workers, shares
from nanospike.config.models import BertConfig
from nanospike.config.operators import OPERATORS
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import batch_order, collate, encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.distill import Distill
from nanospike.files.bundled import bundled
from nanospike.files.model_files import read_json, read_tensors, write_json, write_tensors
from nanospike.model import twins
from nanospike.model.bert import parameter_shapes
from nanospike.model.loss import Totals
from nanospike.model.simulate import SpikingRun
from nanospike.model.teacher import Teacher, load_teacher, with_classifier
from nanospike.results.inference import run_student
from nanospike.training import teaching
from nanospike.training.optim import AdamW
from nanospike.training.options import require_precision

QUICK = "--only step,simulation,sentence --sizes 3x384 --rounds 3 --steps 6"
FAST, HALF = "NANOSPIKE_BENCH_FAST", "NANOSPIKE_BENCH_BFLOAT16"
SENTENCE = 24  # word pieces
BATCHES = 24  # real batches that the programs go through, again and again
SIZES = {"4x128": (4, 32), "4x128 b64": (4, 64), "3x384": (3, 32), "3x384 b64": (3, 64), "4x768": (4, 32)}


# ---- what is compared ---------------------------------------------------------------------------------------


def bert_base(vocabulary):
    """A teacher of BERT-base's shape with random weights: speed does not depend on what it knows."""
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    )
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config, 2, pooler=True)
    tensors = {n: (0.02 * rng.standard_normal(s)).astype("f") for n, s in shapes.items()}
    for name in tensors:
        if name.endswith("LayerNorm.weight"):
            tensors[name][...] = 1
    return Teacher(config, nest(tensors))


def prepare(directory, name, minilm, data_dir):
    """Teacher, student and batches of one size, in files that all programs read."""
    encoders, batch_size = SIZES[name]
    teacher = load_teacher(bundled("teacher")) if "x128" in name else load_teacher(minilm)
    tokenizer = load_tokenizer(teacher.directory)
    if "x768" in name:
        teacher = bert_base(teacher.config.vocab_size)
    teacher = with_classifier(teacher, 2, 0)
    texts = read_split(find_task("sst-2"), data_dir, "train").texts[:20000]
    data = encode(tokenizer, texts, 128)
    shape = {k: v for k, v in vars(teacher.config).items() if k != "num_hidden_layers"}
    student = nanospike.init_student(shape | {"num_hidden_layers": encoders}, teacher)
    teacher.save(directory / "teacher")
    student.save(directory / "student")
    if name == "3x384":
        shutil.copytree(bundled("student"), directory / "shift")
    else:
        bits = {"num_hidden_layers": encoders, "operators": "shift", "weights": "ternary", "spikes": "signed"}
        nanospike.init_student(shape | bits, teacher).save(directory / "shift")
    batches = {}
    for i, index in zip(range(BATCHES), batch_order(data.lengths, batch_size, 0), strict=False):
        batch = collate(data, index)
        batches |= {f"ids.{i}": batch.input_ids, f"mask.{i}": batch.attention_mask}
    write_tensors(directory / "batches.safetensors", batches)
    return batches


def useful_gflop(teacher, student, mask):
    """GFLOP of a step's matrix products on real tokens: teacher forward, student forward and backward."""
    lengths = mask.sum(axis=1).astype(float)

    def forward(config):
        d, f = config["hidden_size"], config["intermediate_size"]
        linear = 2 * lengths.sum() * (4 * d * d + 2 * d * f)
        return config["num_hidden_layers"] * (linear + 4 * d * (lengths**2).sum())

    d, e = student["hidden_size"], teacher["hidden_size"]
    mapped = 2 * lengths.sum() * d * e * (student["num_hidden_layers"] + 1)
    return 1e-9 * (forward(teacher) + 3 * (forward(student) + mapped))


class Ours:
    """The program that answers the same commands as tools/bench_torch.py."""

    def __init__(self, directory, workers):
        self.workers = Workers(workers)
        teacher, self.student = load_teacher(directory / "teacher"), nanospike.load_student(directory / "student")
        self.shift, self.prepared = nanospike.load_student(directory / "shift"), {}
        for model in (teacher, self.student):
            twins.arrange(model.tree)
        options = Distill(stages=("internal",), encoders=self.student.config.num_hidden_layers)
        outputs = lambda: lambda batch: teaching.computed(teacher, batch)  # noqa: E731
        self.gradients = teaching.gradients(outputs, self.student, options, "internal", self.workers)
        self.optimizer, self.at = AdamW(self.student.parameters()), 0
        tensors = read_tensors(directory / "batches.safetensors")
        self.batches = [(tensors[f"ids.{i}"], tensors[f"mask.{i}"]) for i in range(len(tensors) // 2)]

    def batch(self):
        self.at += 1
        return self.batches[(self.at - 1) % len(self.batches)]

    def step(self):
        ids, mask = self.batch()
        lengths, parts = mask.sum(axis=1), []
        for s in shares(lengths, self.workers.size):
            longest = lengths[s].max()
            parts.append(part_of(ids[s, :longest], mask[s, :longest]))
        totals = Totals(len(ids), lengths.sum(), (lengths * lengths).sum())
        terms, grads, _ = self.gradients(parts, (0, 0, 0), totals)
        self.optimizer.update(grads, 1e-4, 1.0, self.workers)
        return float(sum(terms.values()))

    def equilibrium(self):
        """All batches settle, shared among the workers as evaluation does it."""
        self.workers.map(lambda b: self.student.equilibrium(*b), self.batches)
        return 0.0

    def simulated(self, steps):
        self.workers.map(lambda b: self.student.simulate(*b, time_steps=steps, record=()), self.batches)
        return 0.0

    def one(self):
        """One sentence of SENTENCE word pieces: ids, mask."""
        ids, mask = next((i[:1], m[:1]) for i, m in self.batches if m[0].sum() >= SENTENCE)
        return ids[:, :SENTENCE], mask[:, :SENTENCE]

    def logits(self, steps, arithmetic):
        """Those of one sentence, of the student without multiplications; at 0 steps its equilibrium."""
        how = SpikingRun(time_steps=max(steps, 1), arithmetic=arithmetic, logits_alone=True)
        if how not in self.prepared:
            self.prepared[how] = self.shift.prepared(how)
        ids, mask = self.one()
        with self.workers.one_blas_thread():
            if steps:
                self.prepared[how]((ids, mask, ids * 0))
            else:
                self.shift.equilibrium(ids, mask)
        return 0.0

    def sentence(self, steps):
        """One sentence for so many time steps; 0: its equilibrium."""
        ids, mask = self.one()
        with self.workers.one_blas_thread():
            if steps:
                self.student.simulate(ids, mask, time_steps=steps, record=())
            else:
                self.student.equilibrium(ids, mask)
        return 0.0


def part_of(ids, mask):
    from nanospike.data.text import Batch

    return Batch(ids, mask, ids * 0, None, np.arange(len(ids)))


def timed(function, repeats):
    seconds, losses = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        losses.append(function())
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "losses": losses}


def gemm(rows, inner, columns, repeats=9):
    """GFLOP/s of (rows, inner) (columns, inner)^T: a linear layer without its bias."""
    rng = np.random.default_rng(0)
    x, weight = rng.random((rows, inner), np.float32), rng.random((columns, inner), np.float32)
    seconds = timed(lambda: (x @ weight.T, 0.0)[1], repeats)["seconds"]
    return 2e-9 * rows * inner * columns / statistics.median(seconds)


def serve(directory, workers):
    """Answer commands from standard input, one a line, each with a line of JSON."""
    ours = Ours(Path(directory), workers)
    for line in sys.stdin:
        what, *rest = line.split()
        n = int(rest[0]) if rest else 0
        if what == "step":
            answer = timed(ours.step, n)
        elif what == "equilibrium":
            answer = timed(ours.equilibrium, n)
        elif what == "simulated":
            answer = timed(lambda: ours.simulated(n), 1)  # noqa: B023
        elif what == "sentence":
            answer = timed(lambda: ours.sentence(n), 9)  # noqa: B023
        elif what == "logits":
            answer = timed(lambda: ours.logits(n, rest[1]), 9)  # noqa: B023
        elif what == "gemm":
            answer = {"gflops": gemm(n, n, n)}
        elif what == "layer":
            answer = {"gflops": gemm(*map(int, rest), repeats=50)}
        else:
            answer = {"peak_mb": growth.peak_mb()}
        print(json.dumps(answer), flush=True)


# ---- the comparison -----------------------------------------------------------------------------------------


class Program:
    """A process that answers commands; while it waits it takes no processor time."""

    def __init__(self, *argv):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.process.args)}: ended at the command {command!r}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def ours_on(directory, workers=0):
    return Program(sys.executable, __file__, "--serve", str(directory), "--workers", str(workers))


def peer_on(peer, directory, update, *more):
    here = Path(__file__).with_name("bench_torch.py")
    return Program(peer, str(here), str(directory), "--update", update, *more)


def quartiles(values):
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "quartiles": [round(float(low), 4), round(float(high), 4)]}


def compare_steps(name, options, directory):
    """The rows of one size: ratios, GFLOP/s, memory."""
    batches = prepare(directory, name, options.minilm, options.data_dir)
    programs = {"ours": ours_on(directory), "ours, one worker": ours_on(directory, 1)}
    if options.peer:
        programs |= {f"peer {u}": peer_on(options.peer, directory, u) for u in ("sparse", "dense")}
        if HALF in os.environ:
            programs["peer autocast"] = peer_on(options.peer, directory, "sparse", "--autocast")
    first = {n: p.ask("step 3") for n, p in programs.items()}  # warm, and the same losses: it is the same step
    losses = {n: a["losses"] for n, a in first.items()}
    seconds, peaks, layers = {n: [] for n in programs}, [], {}
    configs = [read_json(directory / who / "config.json") for who in ("teacher", "student")]
    tokens = int(statistics.mean(batches[f"mask.{i}"].sum() for i in range(BATCHES)))
    layer = f"layer {tokens} {configs[1]['hidden_size']} {configs[1]['intermediate_size']}"
    for _ in range(options.rounds):
        for n, p in programs.items():
            seconds[n].append(statistics.median(p.ask(f"step {options.steps}")["seconds"]))
        peaks.append(programs["ours"].ask("gemm 2048")["gflops"])
        for n in {"ours", "peer sparse"} & programs.keys():
            layers.setdefault(n, []).append(programs[n].ask(layer)["gflops"])
    masks = [batches[f"mask.{i}"] for i in range(BATCHES)]
    gflop = statistics.mean(useful_gflop(*configs, mask) for mask in masks)
    row = {"size": name, "gflop_per_step": round(gflop, 2), "losses_of_three_steps": losses}
    row["ms"] = {n: round(1000 * statistics.median(s), 1) for n, s in seconds.items()}
    row["over"] = {n: quartiles(np.array(seconds["ours"]) / s) for n, s in seconds.items() if n != "ours"}
    row["sgemm_peak_gflops"] = quartiles(peaks)
    row["share_of_sgemm_peak"] = quartiles(gflop / np.array(seconds["ours"]) / np.array(peaks))
    row["peak_mb"] = {n: round(p.ask("memory")["peak_mb"]) for n, p in programs.items()}
    row["layer"] = {"shape": layer} | {n: quartiles(g) for n, g in layers.items()}
    if options.peer:
        if options.published:
            theirs = programs["peer sparse"].ask("published 1")["seconds"][0]
            mine = statistics.median(programs["ours"].ask(f"step {options.steps}")["seconds"])
            row["published_seconds"], row["times_faster_than_published"] = round(theirs, 2), round(theirs / mine, 1)
    for p in programs.values():
        p.close()
    return row


def compare_simulation(options, directory):
    """One simulated step over one equilibrium forward: 3 x 384, batches of 32; the share of T in the cost."""
    prepare(directory, "3x384", options.minilm, options.data_dir)
    program, ratios = ours_on(directory), []
    program.ask("equilibrium 1")
    for _ in range(options.rounds):
        forward = statistics.median(program.ask("equilibrium 3")["seconds"])
        some, many = (program.ask(f"simulated {t}")["seconds"][0] for t in (2, 10))
        ratios.append((many - some) / 8 / forward)
    program.close()
    return {"simulated_step_over_equilibrium": quartiles(ratios)}


def one_sentence(options, directory):
    """One sentence, the model loaded: milliseconds at T = 4, and T = 16 over its equilibrium."""
    found = {}
    for name in ("4x128", "3x384"):
        prepare(directory / name, name, options.minilm, options.data_dir)
        program, rows = ours_on(directory / name, 1), []
        for _ in range(options.rounds + 1):
            ms = lambda command: 1000 * statistics.median(program.ask(command)["seconds"])  # noqa: B023, E731
            row = {"hybrid, T = 4": ms("sentence 4"), "hybrid, T = 16 over its equilibrium": ms("sentence 16")}
            row["hybrid, T = 16 over its equilibrium"] /= ms("sentence 0")
            settled = ms("logits 0 float")
            for arithmetic in ("float", "integer"):
                four, sixteen = (ms(f"logits {t} {arithmetic}") for t in (4, 16))
                row |= {f"{arithmetic}, T = 4": four, f"{arithmetic}, T = 16": sixteen}
                row[f"{arithmetic}, T = 16 over its equilibrium"] = sixteen / settled
            row["integer over float, T = 4"] = row["integer, T = 4"] / row["float, T = 4"]
            rows.append(row)
        program.close()
        found[name] = {n: quartiles([row[n] for row in rows[1:]]) for n in rows[0]}
    return found


def dev_set(options, directory, steps=32):
    """Seconds of T = 32 over the whole SST-2 dev set, no example stopped early; beside it, the equilibrium."""
    student = nanospike.load_student(options.student or directory / "student")
    tokenizer = load_tokenizer(student.directory)
    examples = read_split(find_task("sst-2"), options.data_dir, "dev")
    data = encode(tokenizer, examples.texts, 128, examples.labels)
    low_bit = student.config.shifts == OPERATORS and student.config.weights != "float"
    found = {"dev_examples": len(data), "dev_tokens": int(data.lengths.sum()), "dev_time_steps": steps}
    for arithmetic in ("integer", "float") if low_bit else ("float",):
        began = time.perf_counter()
        _, facts = run_student(student, data, [steps], SpikingRun(arithmetic=arithmetic), workers=Workers(0))
        found[f"dev_seconds_{arithmetic}"] = round(time.perf_counter() - began, 1)
    return found | {"peak_memory_mb": facts["peak_memory_mb"]}


START = """
import sys, time
peak_mb = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
began = time.perf_counter()
import nanospike
imported, mb = time.perf_counter() - began, growth.peak_mb()
began = time.perf_counter()
nanospike.predict(sys.argv[1], ["a warm , funny and surprising film ."])
print(imported, mb, time.perf_counter() - began, growth.peak_mb())
"""


def start_up(options, directory):
    """Medians over fresh processes: `import nanospike`, then a first prediction (3 x 384, T = 32)."""
    prepare(directory, "3x384", options.minilm, options.data_dir)
    names = ("import_seconds", "import_mb", "first_prediction_seconds", "first_prediction_mb")
    argv = [sys.executable, "-c", START, str(directory / "student")]
    rows = [subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() for _ in range(7)]
    return {n: quartiles([float(r[i]) for r in rows]) for i, n in enumerate(names)}


def show(row):
    """One size as lines of text."""
    print(f"{row['size']}: {row['gflop_per_step']} GFLOP a step, {row['ms']['ours']} ms", end=", ")
    share, peak = row["share_of_sgemm_peak"], row["sgemm_peak_gflops"]["median"]
    print(f"{100 * share['median']:.0f} % of the sgemm peak ({peak:.0f} GFLOP/s)")
    for name, ratio in row["over"].items():
        low, high = ratio["quartiles"]
        print(f"  ours / {name:<17}{ratio['median']:7.3f}   ({low:.3f} to {high:.3f})   {row['ms'][name]} ms")
    print("  GFLOP/s of", ", ".join(f"{n} {g['median']:.0f}" for n, g in row["layer"].items() if n != "shape"), end=" ")
    print(f"in the shape of {row['layer']['shape']}")
    if "published_seconds" in row:
        print(f"  published procedure {row['published_seconds']} s: {row['times_faster_than_published']} times ours")
    print("  peak memory in MB: " + ", ".join(f"{n} {mb}" for n, mb in row["peak_mb"].items()), flush=True)


def machine():
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    wide = any("avx512f" in line for line in lines)
    return {"cpu": model, "cores": os.cpu_count(), "avx512": wide, "numpy": np.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, help="directory of all-MiniLM-L6-v2")
    parser.add_argument("--data-dir", type=Path, help="directory of SST-2 (train.tsv, dev.tsv)")
    parser.add_argument("--peer", help="Python interpreter with torch, safetensors and numpy")
    parser.add_argument("--student", type=Path, help="3 x 384 student for the dev set; without it, an untrained one")
    parser.add_argument("--only", default="step,simulation,sentence,start,growth", help="which parts, a comma list")
    parser.add_argument("--sizes", default=",".join(SIZES), help="which sizes of `step`, a comma list")
    parser.add_argument("--rounds", type=int, default=7, help="alternations")
    parser.add_argument("--steps", type=int, default=BATCHES, help="steps of each program per alternation")
    parser.add_argument("--published", action="store_true", help="run the published procedure, too (slow)")
    parser.add_argument("--dev", action="store_true", help="run T = 32 over the SST-2 dev set, too")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--fast", action="store_true", help="ours with blocks that numba compiles (the extra `fast`)")
    parser.add_argument(
        "--bfloat16", action="store_true", help="ours with factors rounded to it (extras fast, mkl); the peer also so"
    )
    parser.add_argument("--quick", action="store_true", help="the ratios that matter, in about 3 minutes: " + QUICK)
    options = parser.parse_args()
    if options.quick:
        parser.parse_args(QUICK.split(), options)
    if options.fast:
        os.environ[FAST] = "1"  # of the programs that are started, too
    if FAST in os.environ and "compiled" not in (said := twins.use_fast(True)):
        parser.error(said)
    if options.bfloat16:
        os.environ[HALF] = "1"
    if HALF in os.environ:
        require_precision(argparse.Namespace(device="cpu", fast=FAST in os.environ, precision="bfloat16"))
        from nanospike.arrays.half_products import product

        set_host_product(product)
    if options.serve:
        return serve(options.serve, options.workers)
    parts = options.only.split(",")
    if unknown := [name for name in options.sizes.split(",") if name not in SIZES]:
        parser.error(f"--sizes: found {unknown[0]!r}, expected some of {', '.join(SIZES)}")
    if {"step", "simulation", "sentence", "start"} & set(parts) and not (options.minilm and options.data_dir):
        parser.error("--minilm and --data-dir: needed for " + options.only)
    results = {"machine": machine()}
    with tempfile.TemporaryDirectory() as temporary:
        if "step" in parts:
            results["step"] = []
            for name in options.sizes.split(","):
                results["step"].append(compare_steps(name, options, Path(temporary) / name.replace(" ", "-")))
                show(results["step"][-1])
        if "simulation" in parts:
            results["simulation"] = compare_simulation(options, Path(temporary) / "simulation")
            if options.dev:
                results["simulation"] |= dev_set(options, Path(temporary) / "simulation")
            print(json.dumps(results["simulation"]))
        if "sentence" in parts:
            results["sentence"] = one_sentence(options, Path(temporary) / "sentence")
            print(json.dumps(results["sentence"]))
        if "start" in parts:
            results["start"] = start_up(options, Path(temporary) / "start")
            print(json.dumps(results["start"]))
        if "growth" in parts:
            results["growth"] = growth.measured(options.rounds)
            print("\n".join(growth.lines(results["growth"])))
    if options.output:
        write_json(options.output, results)


if __name__ == "__main__":
    main()
