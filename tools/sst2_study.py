"""What each ingredient of training is worth on SST-2: students of 3 encoders, one run of a command for each row.

    python tools/sst2_study.py --teacher DIR --data-dir GLUE/SST-2 --work DIR [--general DIR] [--only NAME,...]

Nothing in it was chosen on the dev set, which each finished student sees once (at the same time steps with binary and
with corrective spikes). What is done is not done again, what was interrupted goes on; tools/runs.py has the details.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from runs import TASK, done, failed_line, in_table, piped, shown, write_part

from nanospike.arrays.backend import DEVICES
from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.files.model_files import read_json
from nanospike.start import command

STEPS = ("2", "4", "8", "16")
LEARN = "--classifier learnt --stages internal,prediction --epochs 1,0.5 --learning-rate 1e-3,3e-4"
FEW = "--stages few-steps --few-steps 4 --epochs 0.25 --learning-rate 2e-4"
LABELS = "--stages prediction --epochs 1.5 --learning-rate 3e-4 --logits 0 --labels 1"
PART = 10_000  # training examples of the rows that are compared with a baseline


@dataclass(frozen=True)
class Row:
    """One line of the table: options of distill, the seeds, the row whose students it goes on with, and its data."""

    says: str
    options: str
    seeds: tuple = (0,)
    after: str | None = None
    examples: int = 0  # of the training set; 0: all
    general: bool = False


ROWS = {
    "distilled": Row("one epoch of internal, half of prediction distillation", LEARN, seeds=(0, 1, 2)),
    "few": Row("then a quarter of few-steps, T = 4", FEW, seeds=(0, 1, 2), after="distilled"),
    "few-half": Row(
        "the same, every other update at the equilibrium",
        f"{FEW} --settled-share 0.5",
        seeds=(0, 1, 2),
        after="distilled",
    ),
    "few-none": Row(
        "then a quarter more at the equilibrium",
        FEW.replace("few-steps --few-steps 4", "prediction"),
        after="distilled",
    ),
    "few-corrective": Row("as few, trained with corrective spikes", f"{FEW} --spikes corrective", after="distilled"),
    "few-learnt": Row("as few, a learnt threshold per population", f"{FEW} --thresholds learnt", after="distilled"),
    "mask": Row("15 % of the word pieces masked, for teacher and student", f"{LEARN} --mask 0.15", examples=PART),
    "dropout": Row("dropout 0.1", f"{LEARN} --dropout 0.1", examples=PART),
    "longer": Row("as distilled, twice as long", LEARN.replace("1,0.5", "2,1")),
    "signed-mask": Row("15 % masked, signed spikes", f"{LEARN} --mask 0.15 --spikes signed", seeds=(0, 1, 2)),
    "6": Row("6 encoders, signed spikes", f"{LEARN} --encoders 6 --spikes signed"),
    "part": Row("distilled on a part of the examples, for comparison with the rows below", LEARN, examples=PART),
    "ann": Row("(a) an ordinary BERT of the student's size", f"{LEARN} --student ann", examples=PART),
    "published": Row(
        "(b) the published procedure: instant drive, loss at T = 16 (membranes start at half a threshold, not at 0)",
        f"{LEARN} --drive instant --forward spikes",
        examples=PART,
    ),
    "labels": Row(
        "(c) labels only, no distillation, from the layers of the fine-tuned teacher as the others",
        f"{LABELS} --init teacher",
        examples=PART,
    ),
    "labels-random": Row("(c) labels only, from random weights", f"{LABELS} --init random", examples=PART),
    "general": Row(
        "(d) after general distillation of the BERT before its fine-tuning", LEARN, examples=PART, general=True
    ),
    "signed": Row("signed spikes, rates in [-1, 1]", f"{LEARN} --spikes signed", seeds=(0, 1, 2)),
    "few-signed": Row("then a quarter of few-steps, T = 4", f"{FEW} --spikes signed", seeds=(0, 1, 2), after="signed"),
    "few-signed-half": Row(
        "the same, every other update at the equilibrium",
        f"{FEW} --spikes signed --settled-share 0.5",
        seeds=(0, 1, 2),
        after="signed",
    ),
    "part-signed": Row("signed spikes", f"{LEARN} --spikes signed", examples=PART),
    "part-signed-2": Row("signed spikes, a threshold of 2", f"{LEARN} --spikes signed --v-th 2", examples=PART),
    "learnt": Row("a learnt threshold per population", f"{LEARN} --thresholds learnt", examples=PART),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Train students of SST-2 with and without each ingredient, and put what comes out in a table."""

    teacher: Path = option("directory of a BERT with the task's classifier")
    data_dir: Path = option("directory of SST-2, or the GLUE directory above it")
    work: Path = option("directory for the students; what is done in it is not done again")
    general: Path | None = option("for the row general: a student of 3 encoders of distill --stages general", None)
    only: tuple[str, ...] = option("names of rows; without it, all", (), choices=tuple(ROWS))
    batch_size: int = option("examples per update", 32)
    max_steps: int = option("most updates per stage; 0: as many as the epochs need", 0)
    device: str = option("where to compute", "cpu", choices=DEVICES)
    json: Path | None = option("file to write the table to", None)

    def __post_init__(self):
        require_at_least(self, batch_size=1, max_steps=0)
        if "general" in self.only and not self.general:
            raise InputError("--general: needed for the row general")


def student_of(options, name, seed):
    return options.work / f"{name}-{seed}"


def train(options, name, seed):
    """Train the student of a row, and evaluate it once more with corrective spikes: "" or why that failed."""
    row = ROWS[name]
    data = write_part(options.data_dir, options.work / f"data-{row.examples}", row.examples)
    argv = ["--teacher", options.teacher, "--task", TASK, "--data-dir", data, "--attention", 1, "--seed", seed]
    argv += ["--operators", "float"]
    argv += ["--batch-size", options.batch_size, "--max-steps", options.max_steps, "--time-steps", ",".join(STEPS)]
    if options.device != "cpu":
        argv += ["--device", options.device]
    elif "--mask" not in row.options:
        argv += ["--cache-dir", options.work / "cache", "--teacher-cache", 9]
    argv += ["--log-every", 100, "--probe-every", 1000]
    if row.general:
        argv += ["--init", options.general]
    elif row.after:
        if failure := train(options, row.after, seed):
            return f"{row.after}: {failure}"
        argv += ["--init", student_of(options, row.after, seed)]
    elif "--encoders" not in row.options:
        argv += ["--encoders", 3]
    out = student_of(options, name, seed)
    failure = done(out, [*argv, *row.options.split()])
    if failure or any(word in row.options for word in ("ann", "signed", "instant")):
        return failure
    where = ["--model", out, "--task", TASK, "--data-dir", data, "--time-steps", ",".join(STEPS)]
    where += ["--device", options.device] if options.device != "cpu" else []
    return done(out.with_name(f"{out.name}-corrective"), [*where, "--spikes", "corrective"], "evaluate")


def scores(options, name, seed):
    """{"equilibrium" or "T = 4, binary", ...: accuracy} and other facts of one student."""
    out = student_of(options, name, seed)
    results = read_json(out / "eval_results.json")
    found = {"teacher": results["teacher"], "equilibrium": results["equilibrium"]}
    other = out.with_name(f"{out.name}-corrective") / "eval_results.json"
    for spikes, path in ((results["spikes"], out / "eval_results.json"), ("corrective", other)):
        if path.exists():
            found |= {f"{spikes} {t}": v for t, v in read_json(path)["spiking"].items()}
    return found | {"mean_rate": results["mean_rate"], "seconds": results["total_seconds"]}


def markdown(rows):
    """The table: accuracy with the spikes that a row was trained for, and that of binary students with corrective."""
    names = ["equilibrium", *(f"T = {t}" for t in STEPS), *(f"corrective {t}" for t in STEPS)]
    lines = [["row", "what", "seeds", *names, "mean rate", "s"]]
    for name, row in rows.items():
        if "failed" in row:
            lines.append(failed_line(name, row, len(lines[0])))
            continue
        means = row["summary"]
        own = next((s for s in ("binary", "signed", "corrective") if f"{s} {STEPS[0]}" in means), "")
        cells = [shown(means.get(n.replace("T =", own))) for n in names]
        rate = means.get("mean_rate")
        more = [f"{rate[0]:.3f}" if rate else "", f"{means['seconds'][0]:.0f}"]
        lines.append([name, ROWS[name].says, str(len(row["seeds"])), *cells, *more])
    return piped(lines)


def main(argv=None):
    options = parse(Study, argv, prog="python tools/sst2_study.py")

    def row_of(name):
        failures = [f for seed in ROWS[name].seeds if (f := train(options, name, seed))]
        return failures, [] if failures else [scores(options, name, seed) for seed in ROWS[name].seeds]

    names = options.only or [n for n, row in ROWS.items() if options.general or not row.general]
    in_table(options, names, row_of, markdown)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
