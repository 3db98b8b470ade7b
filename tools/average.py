"""Average the weights of BERTs that were fine-tuned from the same one, and score what comes out.

    python tools/average.py --models DIR,DIR,... --task sst-2 --data-dir GLUE/SST-2 --output-dir DIR

Runs that began from the same weights end close enough to one another for their mean to be a model too, often a better
one than each (Wortsman et al. 2022, model soups, arXiv 2203.05482). Configuration and tokenizer are the first one's.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanospike.arrays.backend import DEVICES
from nanospike.arrays.workers import WORKERS_HELP, Workers
from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import encode_splits
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.model_files import require_empty, write_json
from nanospike.finetune import evaluate
from nanospike.model.teacher import load_teacher
from nanospike.start import command


@dataclass(frozen=True, kw_only=True)
class Average:
    """Average BERTs of one shape."""

    models: tuple[str, ...] = option("directories of BERTs with the task's classifier")
    task: str = option("GLUE task on whose dev set the average is scored")
    data_dir: Path = option("directory of the task, or the GLUE directory above it")
    output_dir: Path = option("directory to write the average to; must be empty or absent")
    max_length: int = option("word pieces per text; longer ones are cut", 128)
    device: str = option("where to compute", "cpu", choices=DEVICES)
    workers: int = option(WORKERS_HELP, 0)

    def __post_init__(self):
        require_at_least(self, max_length=3, workers=0)


def averaged(directories, device="cpu"):
    """The teacher whose weights are the means of those in the directories. InputError where shapes differ."""
    first, *others = (load_teacher(directory, device) for directory in directories)
    for directory, other in zip(directories[1:], others, strict=True):
        theirs, ours = ({n: p.shape for n, p in t.parameters().items()} for t in (other, first))
        if differing := sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)):
            found = f"found {theirs.get(differing[0])}, expected {ours.get(differing[0])}, as in {directories[0]}"
            raise InputError(f"{directory}: {differing[0]}: {found}")
    for name, mean in first.parameters().items():
        all_of = [mean, *(other.parameters()[name] for other in others)]
        mean[...] = sum(p.astype(np.float64) for p in all_of) / len(all_of)
    return first


def main(argv=None):
    options = parse(Average, argv, prog="python tools/average.py")
    task = find_task(options.task)
    require_empty(options.output_dir)
    teacher = averaged(options.models, options.device)
    splits = {"dev": read_split(task, options.data_dir, "dev")}
    tokenizer = load_tokenizer(options.models[0], teacher.config.vocab_size)
    data = encode_splits(tokenizer, splits, min(options.max_length, teacher.config.usable_positions))
    results = evaluate(teacher, task, data, Workers(options.workers, options.device))
    teacher.save(options.output_dir)
    write_json(options.output_dir / "eval_results.json", results)
    print(f"{task.name} dev {task.metric} {results['teacher']:.4f}; saved in {options.output_dir}")
    return results


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
