"""What each operator, weight format and push for fewer spikes costs: one run of distill for each row of a table.

    python tools/operators_study.py --work DIR [--teacher DIR --task sst-2 --data-dir DIR] [--only NAME,...]

Without a teacher and a task, the bundled ones. What is done is not done again, what was interrupted goes on;
tools/runs.py has the details. All students emit signed spikes, and start from the teacher but for rows that go on with
another row's.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from runs import done, failed_line, in_table, piped, shown

from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.files.model_files import read_json
from nanospike.start import command

STEPS = (1, 2, 4, 8, 16)
SHOWN = 4  # time steps at which spikes and the gap are shown
LEARN = "--classifier learnt --stages internal,prediction --epochs 1,0.5 --learning-rate 1e-3,3e-4"
FEW = "--stages few-steps --epochs 0.25 --learning-rate 2e-4 --few-steps 1,2,4,8"
TERNARY = "--operators shift --weights ternary --embedding-weights ternary"


@dataclass(frozen=True)
class Row:
    """One line of the table: options of distill, and the row whose students it goes on with and is taught by."""

    says: str
    options: str
    after: str | None = None


ROWS = {
    "float": Row("float operators and weights", f"{LEARN} --operators float"),
    "relu": Row("without GELU", f"{LEARN} --operators relu"),
    "query": Row("spiking queries, thresholds calibrated", f"{LEARN} --operators query"),
    "query-fixed": Row("spiking queries, thresholds 1", f"{LEARN} --operators query --thresholds fixed"),
    "softmax": Row("softmax of powers of two", f"{LEARN} --operators softmax"),
    "norm": Row("shift norms in the encoders", f"{LEARN} --operators norm"),
    "embedding-norm": Row("shift norm of the embedding", f"{LEARN} --operators embedding-norm"),
    "shift": Row("all five", f"{LEARN} --operators shift"),
    "half-steps": Row("all five, gains also 1.5 times a power of two", f"{LEARN} --operators shift --half-steps"),
    "ternary-float": Row(
        "float operators, ternary layers and tables",
        f"{LEARN} --operators float --weights ternary --embedding-weights ternary",
    ),
    "ternary": Row("all five, ternary layers and tables", f"{LEARN} {TERNARY}"),
    "binary": Row("then binary layers", f"{LEARN} --weights binary", after="ternary"),
    "few-one": Row("ternary, then few-steps, T = 4", FEW.replace("1,2,4,8", "4"), after="ternary"),
    "few": Row("ternary, then few-steps, T = 1, 2, 4, 8 at once", FEW, after="ternary"),
    "penalty-0.01": Row("few, spikes in the loss, 0.01", f"{FEW} --spike-penalty 0.01", after="ternary"),
    "penalty-0.03": Row("few, spikes in the loss, 0.03", f"{FEW} --spike-penalty 0.03", after="ternary"),
    "penalty-0.1": Row("few, spikes in the loss, 0.1", f"{FEW} --spike-penalty 0.1", after="ternary"),
    "window": Row("few, a window of 0.25", f"{FEW} --window 0.25", after="ternary"),
    "prune": Row("few, intermediate neurons below 0.02 removed", f"{FEW} --prune 0.02", after="ternary"),
    "ann": Row(
        "an ordinary BERT: ternary, 4 bits of activations",
        f"{LEARN} --student ann --weights ternary --embedding-weights ternary --activation-bits 4",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Distil students with and without each operator and weight format, and put what comes out in a table."""

    work: Path = option("directory for the students; what is done in it is not done again")
    teacher: Path | None = option("directory of a BERT with the task's classifier; without it, the bundled one", None)
    task: str | None = option("GLUE task; without it, the bundled texts", None)
    data_dir: Path | None = option("directory of the task, or the GLUE directory above it", None)
    only: tuple[str, ...] = option("names of rows; without it, all", (), choices=tuple(ROWS))
    seeds: tuple[int, ...] = option("seeds of each row", (0,))
    encoders: int = option("encoders of the students; 0: as many as the teacher's", 0)
    batch_size: int = option("examples per update", 32)
    max_steps: int = option("most updates per stage; 0: as many as the epochs need", 0)
    workers: int = option("threads of each run; 0: one per core", 0)
    json: Path | None = option("file to write the table to", None)

    def __post_init__(self):
        require_at_least(self, batch_size=1, max_steps=0, encoders=0, workers=0)
        if (self.task is None) != (self.data_dir is None):
            raise InputError("--task, --data-dir: found one of them, expected both or neither")


def train(options, name, seed):
    """Train the student of a row, after the one that it goes on with: "" or why that failed."""
    row = ROWS[name]
    argv = ["--seed", seed, "--batch-size", options.batch_size, "--max-steps", options.max_steps, "--attention", 1]
    argv += ["--time-steps", ",".join(map(str, STEPS)), "--workers", options.workers, "--log-every", 50]
    argv += ["--task", options.task, "--data-dir", options.data_dir] if options.task else []
    if row.after:
        if failure := train(options, row.after, seed):
            return f"{row.after}: {failure}"
        before = options.work / f"{row.after}-{seed}"
        argv += ["--init", before, "--teacher", before]
    else:
        argv += [] if "ann" in row.options else ["--spikes", "signed"]
        argv += ["--encoders", options.encoders] if options.encoders else []
        argv += ["--teacher", options.teacher] if options.teacher else []
    return done(options.work / f"{name}-{seed}", [*argv, *row.options.split()])


def figures(directory):
    """{name: number or None} of a finished student."""
    results = read_json(directory / "eval_results.json")
    found = {"equilibrium": results["equilibrium"]} | {f"T = {t}": results["spiking"].get(str(t)) for t in STEPS}
    found["gap"] = results["equilibrium_gap"].get(str(SHOWN))
    energy = directory / "energy.json"
    by_time = read_json(energy)["time_steps"] if energy.exists() else {}
    found["T r"] = by_time.get(str(SHOWN), {}).get("t_r")
    found["kB"] = (directory / "model.safetensors").stat().st_size / 1000
    return found


def markdown(rows):
    shares = ["equilibrium", *(f"T = {t}" for t in STEPS)]
    lines = [["row", "what", *shares, f"gap at T = {SHOWN}", f"T r at T = {SHOWN}", "kB"]]
    for name, row in rows.items():
        if "failed" in row:
            lines.append(failed_line(name, row, len(lines[0])))
            continue
        means = row["summary"]
        cells = [shown(means.get(n)) for n in shares]
        more = [shown(means.get("gap"), 1, 3), shown(means.get("T r"), 1, 2), shown(means.get("kB"), 1, 0)]
        lines.append([name, ROWS[name].says, *cells, *more])
    return piped(lines)


def main(argv=None):
    options = parse(Study, argv, prog="python tools/operators_study.py")
    options.work.mkdir(parents=True, exist_ok=True)

    def row_of(name):
        failures = [f for seed in options.seeds if (f := train(options, name, seed))]
        return failures, [] if failures else [figures(options.work / f"{name}-{seed}") for seed in options.seeds]

    in_table(options, options.only or ROWS, row_of, markdown)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
