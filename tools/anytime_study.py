"""Anytime inference with a margin that is calibrated on training data: mean time steps against accuracy.

    python tools/anytime_study.py --data-dir GLUE/SST-2 [--model DIR] [--examples 2000] [--json OUT]

An example stops at the first time step t at which its best logit leads by margin / t^decay, at the last one in any
case. The margin is the one of MARGINS that needs the fewest steps on the training examples while it loses at most
--loss of their accuracy at the last step; the dev set then is scored with it, and with all others for the curve.
"error" in the results is what the decay should follow: the root mean square of the lead's distance from its value at
the last step, on the training examples.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from runs import piped, told

from nanospike.arrays.workers import Workers
from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.data.tasks import find_task, read_split, score
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
from nanospike.files.model_files import write_json
from nanospike.model.loading import load_student
from nanospike.model.neuron import SPIKES
from nanospike.model.simulate import SpikingRun
from nanospike.results.anytime import MARGINS, stopped
from nanospike.results.inference import run_student
from nanospike.start import command


@dataclass(frozen=True, kw_only=True)
class Anytime:
    """Calibrate the margin of anytime inference on training examples, and measure it on the dev set."""

    model: Path | None = option("directory of a student; without one, the bundled student", None)
    task: str = option("GLUE task, a classification", "sst-2")
    data_dir: Path = option("directory of the task, or the GLUE directory above it")
    examples: int = option("training examples, the first of a fixed permutation", 2000)
    time_steps: int = option("most time steps", 16)
    spikes: str | None = option("what a neuron may emit; without it, what the student says", None, choices=SPIKES)
    margin_decay: float = option("at time step t the margin is divided by t^DECAY", 1.0)
    loss: float = option(
        "accuracy that may be lost on the training examples, as a fraction: less than on others, which are harder",
        0.001,
    )
    json: Path | None = option("file to write the curves to", None)

    def __post_init__(self):
        require_at_least(self, examples=1, time_steps=1, margin_decay=0, loss=0)


def errors(logits):
    """{time step: root mean square of the lead's distance from its value at the last step} of logits (n, C)."""
    lead = {t: np.sort(v, axis=1)[:, -2:] @ [-1, 1] for t, v in logits.items()}
    return {str(t): float(np.sqrt(np.mean((v - lead[max(lead)]) ** 2))) for t, v in lead.items()}


def curve(task, logits, labels, decay):
    """[{margin, time_steps (mean), score}] from {time step: logits}; margin None: all run to the last step."""
    lines = [{"margin": None, "time_steps": float(max(logits)), "score": score(task, logits[max(logits)], labels)}]
    for margin in MARGINS:
        final, taken = stopped(logits, margin, decay)
        lines.append({"margin": margin, "time_steps": float(taken.mean()), "score": score(task, final, labels)})
    return lines


def chosen(lines, loss):
    """The margin with the fewest steps among those that lose at most `loss`; None if all lose more."""
    fine = [line for line in lines if line["score"] >= lines[0]["score"] - loss]
    return min(fine, key=lambda line: line["time_steps"])["margin"]


def part(examples, number):
    """The first `number` of a fixed permutation: (texts, labels)."""
    index = np.random.default_rng(0).permutation(len(examples.texts))[:number]
    return [examples.texts[i] for i in index], np.asarray(examples.labels)[index]


def main(argv=None):
    options = parse(Anytime, argv, prog="python tools/anytime_study.py")
    task = find_task(options.task)
    if task.num_labels < 2:
        raise InputError(f"--task {task.name}: a regression never decides")
    student = load_student(options.model or bundled("student"))
    if student.config.activation == "ann":
        raise InputError(f"--model {student.directory}: an ordinary BERT: it has no time steps")
    tokenizer = load_tokenizer(options.model or bundled("student"))
    curves, error = {}, None
    for split, number in (("train", options.examples), ("dev", None)):
        texts, labels = part(read_split(task, options.data_dir, split), number)
        data = encode(tokenizer, texts, student.config.max_position_embeddings)
        steps = range(1, options.time_steps + 1)
        logits, _ = run_student(student, data, steps, SpikingRun(spikes=options.spikes), workers=Workers(0))
        logits.pop("equilibrium")
        error = error or errors(logits)  # of the training examples, which come first
        curves[split] = curve(task, logits, labels, options.margin_decay)
    margin = chosen(curves["train"], options.loss)
    lines = [["margin", "mean T, training", f"{task.metric}, training", "mean T, dev", f"{task.metric}, dev"]]
    for train, dev in zip(curves["train"], curves["dev"], strict=True):
        name = "none" if train["margin"] is None else f"{train['margin']:g}"
        cells = [f"{line[key]:.{d}f}" for line in (train, dev) for key, d in (("time_steps", 2), ("score", 4))]
        lines.append([name + (" (chosen)" if train["margin"] == margin else ""), *cells])
    print(piped(lines))
    if options.json:
        write_json(options.json, {"options": told(options), "chosen": margin, "error": error, "curves": curves})


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
