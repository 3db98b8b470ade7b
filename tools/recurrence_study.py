"""Do recurrent students do better? Students with and without a loop, trained alike on a part of SST-2, in one table.

    python tools/recurrence_study.py --teacher DIR --data-dir GLUE/SST-2 --work DIR --examples 2000

Each student is a run of `python -m nanospike.distill`, one after the other; what they say is in WORK/NAME.log. What is
done is not done again, what was interrupted goes on, and what failed is told in the table with its last line (to try it
again, remove WORK/NAME.failed). At the end, tools/adjoint_study.py puts every adjoint solver to trained loops.

Columns. Accuracies: on the dev set, in %. loop: parameters on the path that returns, and their share of the encoders'
weights. forward, adjoint: sweeps, mean over the log's lines of the prediction stage (of a line: the slowest worker's);
the adjoint's besides the one reverse sweep that every student needs, and a second one with a loop. ms: median time of
an update in that stage. MB: largest resident memory, evaluation included. dropped: examples whose equilibrium or
adjoint was not found, of all updates. gain: largest estimate of the loop's spectral radius in the prediction stage,
where the solver has one, and the updates after which the loop was scaled down.
"""

import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from runs import TASK, done, failed_line, piped, python, write_facts, write_part

import nanospike
from nanospike.config.errors import InputError
from nanospike.config.options import flag, option, parse, plain, require_at_least
from nanospike.files.model_files import read_json, write_json
from nanospike.start import command

STUDENTS = {  # name: options of distill. 3-feedback-8 has 6144 numbers more than 3 (of 384): equal size, as good as
    "3": "--encoders 3",
    "3-feedback-8": "--encoders 3 --feedback --feedback-rank 8",
    "3-feedback": "--encoders 3 --feedback",
    "3-cls": "--encoders 3 --feedback --feedback-from cls",
    "1": "--encoders 1",
    "1-looped": "--encoders 1 --looped",
    "2-looped": "--encoders 2 --looped",
    "6": "--encoders 6",
    "1-looped-exact": "--encoders 1 --looped --adjoint-rtol 1e-6",
    "1-looped-loose": "--encoders 1 --looped --adjoint-rtol 0.1",
    "1-looped-one-step": "--encoders 1 --looped --adjoint-solver one-step",
    "1-looped-spide": "--encoders 1 --looped --adjoint-solver spide",
}
SOLVED = ("1-looped", "3-feedback-8")  # whose adjoint systems every solver gets at the end
PASSED_ON = (
    "epochs",
    "learning_rate",
    "batch_size",
    "max_steps",
    "time_steps",
    "log_every",
    "seed",
    "device",
    "workers",
)
RECIPE = {"teacher", "data_dir", "examples", *PASSED_ON} - {"log_every", "device", "workers"}  # one for all students


@dataclass(frozen=True, kw_only=True)
class Study:
    """Train students with and without a loop alike on a part of SST-2, and put what comes out in a table."""

    teacher: Path = option("directory of a BERT with the task's classifier")
    data_dir: Path = option("directory of SST-2, or the GLUE directory above it")
    work: Path = option("directory for the students; what is done in it is not done again")
    examples: int = option("training examples, the first of a fixed permutation of train.tsv; 0: all", 0)
    only: tuple[str, ...] = option("names of students; without it, all", (), choices=tuple(STUDENTS))
    epochs: tuple[float, ...] = option("passes over the data, internal and prediction", (2.0, 2.0))
    learning_rate: tuple[float, ...] = option("peak learning rate, internal and prediction", (1e-3, 3e-4))
    batch_size: int = option("examples per update", 32)
    max_steps: int = option("most updates per stage; 0: as many as the epochs need", 0)
    time_steps: tuple[int, ...] = option("time steps at which the students are evaluated", (4, 16))
    log_every: int = option("updates per line of a student's log, from which the table is made", 10)
    seed: int = option("seed of all students", 0)
    device: str = option("where to compute", "cpu", choices=("cpu", "cuda"))
    workers: int = option("threads; 0: one per core", 0)
    json: Path | None = option("file to write the table to", None)

    def __post_init__(self):
        require_at_least(self, examples=0, batch_size=1, max_steps=0, time_steps=1, log_every=1, seed=0, workers=0)


def require_same_recipe(options):
    """InputError if students in the work directory were trained otherwise; the recipe is written there."""
    path, ours = options.work / "recipe.json", {k: v for k, v in plain(options).items() if k in RECIPE}
    if path.exists():
        theirs = read_json(path)
        if changed := sorted(flag(k) for k in RECIPE if ours[k] != theirs.get(k)):
            raise InputError(f"--work {options.work}: its students have other values of {', '.join(changed)}")
    options.work.mkdir(parents=True, exist_ok=True)
    write_json(path, ours)


def distill_argv(options, name, data):
    values = {n: getattr(options, n) for n in PASSED_ON}
    recipe = [f"{flag(n)}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for n, v in values.items()]
    where = ["--task", TASK, "--data-dir", data, "--teacher", options.teacher]
    fixed = ["--stages", "internal,prediction", "--attention", "1", "--save-every", "100", "--operators", "float"]
    fixed += ["--classifier", "learnt", "--cache-dir", options.work / "cache"]
    return [*where, *fixed, *recipe, *STUDENTS[name].split()]


def train(options, name, data):
    """Train and evaluate a student unless that is done: "" or why it failed."""
    return done(options.work / name, distill_argv(options, name, data))


def row_of(directory, name):
    """What a student's files say: a row of the table."""
    results, log = read_json(directory / "eval_results.json"), (directory / "train_log.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    late = [line for line in lines if line["stage"] == "prediction"]
    mean = lambda field, without: statistics.fmean(line.get(field, without) for line in late)  # noqa: E731
    sizes = {n: p.size for n, p in nanospike.load_student(directory).parameters().items()}
    total = lambda *start: sum(size for n, size in sizes.items() if n.startswith(start))  # noqa: E731
    gains = [line["loop_gain"] for line in late if line.get("loop_gain") is not None]
    return {
        "student": name,
        "options": STUDENTS[name],
        "examples": results["examples"],
        "teacher": results["teacher"],
        "equilibrium": results["equilibrium"],
        "spiking": results["spiking"],
        "equilibrium_gap": results["equilibrium_gap"],
        "parameters": sum(sizes.values()),
        "without_embeddings": sum(sizes.values()) - total("embeddings."),
        "loop": total("feedback.", "lateral."),
        "loop_share": total("feedback.", "lateral.") / total("encoder."),
        "forward_sweeps": mean("equilibrium_sweeps", 1),
        "adjoint_sweeps": mean("adjoint_sweeps", 0),
        "step_ms": statistics.median(line["step_ms"] for line in late),
        "step_ms_internal": statistics.median(line["step_ms"] for line in lines if line["stage"] == "internal"),
        "peak_memory_mb": read_json(directory / "train_results.json")["peak_memory_mb"],
        "dropped": sum(line.get("failed", 0) for line in lines),
        "loop_gain": max(gains, default=None),
        "rescaled": sum(line.get("rescaled", 0) for line in lines),
        "loss": late[-1]["loss"],
        "seconds": results["total_seconds"],
    }


def markdown(rows, time_steps):
    """The table of the students."""
    spiking = [f"T = {t}" for t in sorted(time_steps)]
    head = ["student", "equilibrium", *spiking, "parameters", "without embeddings", "loop", "forward", "adjoint"]
    lines = [head + ["ms", "MB", "dropped", "gain", "s"]]
    for r in rows:
        if "failed" in r:
            lines.append(failed_line(r["student"], r, len(lines[0])))
            continue
        scores = [r["equilibrium"], *(r["spiking"][str(t)] for t in sorted(time_steps))]
        loop = f"{r['loop']} ({100 * r['loop_share']:.2g} %)" if r["loop"] else ""
        gain = "" if r["loop_gain"] is None else f"{r['loop_gain']:.2f}"
        scaled = f", scaled {r['rescaled']} times" if r["rescaled"] else ""
        counts = [str(r["parameters"]), str(r["without_embeddings"]), loop]
        sweeps = [f"{r['forward_sweeps']:.1f}", f"{r['adjoint_sweeps']:.1f}"]
        costs = [f"{r['step_ms']:.0f}", f"{r['peak_memory_mb']:.0f}", str(r["dropped"]), gain + scaled]
        lines.append(
            [r["student"], *(f"{100 * s:.2f}" for s in scores), *counts, *sweeps, *costs, f"{r['seconds']:.0f}"]
        )
    return piped(lines)


def doubt(rows):
    """How much of a difference in accuracy is chance."""
    best = max(rows, key=lambda r: r["equilibrium"])
    n, p = best["examples"], best["equilibrium"]
    return (
        f"Teacher {100 * best['teacher']:.2f}. One sentence of the {n} is {100 / n:.2f} points; the standard error of "
        f"an accuracy is {100 * math.sqrt(p * (1 - p) / n):.1f} points."
    )


def adjoint_rows(options, name, data):
    """([row], "") of tools/adjoint_study.py on a trained student, or (None, why it failed)."""
    out, tool = options.work / f"{name}.adjoint.json", Path(__file__).with_name("adjoint_study.py")
    if not out.exists():
        print(f"{name}: every adjoint solver ...", file=sys.stderr, flush=True)
        argv = [tool, "--model", options.work / name, "--task", TASK, "--data-dir", data, "--json", out]
        if failure := python(argv, options.work / f"{name}.adjoint.log"):
            return None, failure
    return read_json(out)["rows"], ""


def adjoint_markdown(rows):
    names = [n for n in rows[0] if n not in ("gain", "converged")]
    shown = lambda v: f"{v:.2g}" if isinstance(v, float) else "" if v is None else str(v)  # noqa: E731
    return piped([names, *([shown(row[n]) for n in names] for row in rows)])


def main(argv=None):
    options = parse(Study, argv, prog="python tools/recurrence_study.py")
    require_same_recipe(options)
    data = write_part(options.data_dir, options.work / "data", options.examples)
    rows, solvers = [], {}
    for name in options.only or STUDENTS:
        failure = train(options, name, data)
        rows.append({"student": name, "failed": failure} if failure else row_of(options.work / name, name))
    finished = [r for r in rows if "failed" not in r]
    print(markdown(rows, options.time_steps))
    if finished:
        print("\n" + doubt(finished))
    loops = [r["student"] for r in finished if r["loop"]]
    for name in [n for n in SOLVED if n in loops] or loops[:1]:
        solvers[name], failure = adjoint_rows(options, name, data)
        print(f"\nAdjoint solvers on {name}:\n\n{failure or adjoint_markdown(solvers[name])}", flush=True)
    write_facts(options, students=rows, adjoint=solvers)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
