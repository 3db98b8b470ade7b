"""python -m nanospike.finetune: teach a BERT (a later teacher) a task."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from .arrays import ops
from .arrays.backend import library, random_generator, to_device
from .arrays.tree import leaves, summed
from .config.options import option, parse
from .data.own import OwnFiles, own_data, with_class_weights
from .data.tasks import find_task, read_splits, score
from .data.text import encode_splits, require_segments
from .data.tokenizer import load_tokenizer, save_tokenizer
from .files.model_files import write_json
from .glue import TASK_HELP, run_tasks
from .model.bert import Flow
from .model.head import TARGET, Scale, described, in_its_unit, scale_of, standardise
from .model.loss import label_loss
from .model.teacher import load_teacher, with_classifier
from .model.twins import arrange
from .results.inference import confusion_table, nested, of_few, teacher_logits, with_teacher
from .start import begin, command, require_startable
from .training.loop import Run, Stage
from .training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Finetune(OwnFiles, TrainingOptions):
    """Fine-tune a BERT on a task's labels; what it writes can be the teacher of nanospike.distill."""

    model: Path = option("directory of a Hugging Face BERT: config.json, model.safetensors, a tokenizer")
    task: str | None = option(TASK_HELP, None)
    data_dir: Path | None = option("directory with train.tsv and dev.tsv, or the GLUE directory above it", None)
    keep: str = option(
        "which weights are left at the end: the last ones, or the best, of the checkpoint with the highest dev score; "
        "then there is one after every epoch",
        "last",
        choices=("last", "best"),
    )

    def __post_init__(self):
        super().__post_init__()
        self.require_one_source()


def gradients(teacher, workers, class_weights=None):
    """Stage.gradients of the cross-entropy of the labels, with the dropout of the teacher's configuration.

    class_weights: (C,) factors on what an example of each class counts.
    """
    xp, config = library(teacher.device), teacher.config

    def part(batch, seed, totals):
        generator = random_generator(xp, seed)
        flow = Flow(
            drop=dropping(config.hidden_dropout_prob, generator),
            drop_attention=dropping(config.attention_probs_dropout_prob, generator),
        )
        out, vjp = teacher.forward((batch.input_ids, batch.attention_mask, batch.token_type_ids), flow)
        value, loss_vjp = label_loss(out.logits, batch.labels, totals, class_weights)
        grads = {}
        vjp(None, None, loss_vjp(1.0), grads)
        return value, dict(leaves(grads))

    def step(batches, seed, totals):
        if not batches:
            return {}, {}, dict
        parts = workers.map(lambda i: part(batches[i], (*seed[:-1], seed[-1] + i), totals), range(len(batches)))
        terms = {"labels": sum(value for value, _ in parts)}
        return terms, summed([grads for _, grads in parts], workers), lambda: {"mean_rate": None}  # it does not spike

    return step


def dropping(probability, generator):
    return (lambda x: ops.dropout(x, probability, generator)) if probability else ops.identity


def prepare(options):
    """All that the run reads, checked: the arguments of run."""
    task = None if options.own else find_task(options.task)
    teacher = load_teacher(options.model, options.device)
    tokenizer = load_tokenizer(options.model, teacher.config.vocab_size)
    if options.own:
        task, splits = own_data(options)
    else:
        splits = {s: e for name in ("train", "dev") for s, e in read_splits(task, options.data_dir, name).items()}
    length = min(options.max_length, teacher.config.usable_positions)
    data = encode_splits(tokenizer, splits, length)
    require_segments(data["train"], teacher.config, options.model)
    options = with_class_weights(options, task, data["train"].labels)
    require_startable(options)
    return options, task, teacher, tokenizer, data


def run(options, task, teacher, tokenizer, data):
    begin(options)
    teacher = with_classifier(teacher, task.num_labels, options.seed)
    scale = Scale.of(data["train"].labels) if options.regression else None
    if scale_of(teacher):  # its last layer answers in the unit of other labels; a fresh one in none
        standardise(teacher, scale)
    kept = {key: value for key, value in teacher.raw_config.items() if key != TARGET}
    teacher.raw_config = kept | described(task, scale)
    started = time.perf_counter()
    arrange(teacher.tree)
    job = Run(options, teacher.parameters())
    job.train([stage_of(options, task, teacher, data, job.workers, scale)])
    if job.world.rank:
        return None
    if options.keep == "best":
        job.take_best()
    in_its_unit(teacher, scale)
    teacher.save(options.output_dir)
    save_tokenizer(tokenizer, options.output_dir)
    results = evaluate(teacher, task, data, job.workers) | {"seconds": time.perf_counter() - started}
    write_json(options.output_dir / "eval_results.json", results)
    if table := confusion_table(results, task):
        print(table)
    few = of_few(results)
    print(
        f"{task.name} dev {task.metric} {results['teacher']:.4f}{f' ({few})' if few else ''} after "
        f"{results['seconds']:.0f} s; saved in {options.output_dir}"
    )
    return results


def stage_of(options, task, teacher, data, workers, scale):
    train, dev = data["train"], data["dev"]
    if scale is not None:
        train = replace(train, labels=scale.standardised(train.labels))
    weights = to_device(options.class_factors, teacher.device) if options.class_weights else None
    stage = Stage("finetune", train, gradients(teacher, workers, weights), options.epochs, options.learning_rate)
    if options.keep == "best":
        # a correlation, which stands for a regression, is the same in any unit
        best = lambda: score(task, teacher_logits(teacher, dev, workers=workers), dev.labels)  # noqa: E731
        stage = replace(stage, score=best)
    return stage


def evaluate(teacher, task, data, workers):
    about = {"task": task.name, "metric": task.metric}
    devs = {name: part for name, part in data.items() if name.startswith("dev")}
    known = {n: about | {"examples": len(d)} for n, d in devs.items()}
    return nested({n: with_teacher(known[n], task, teacher, d, workers=workers) for n, d in devs.items()})


def main(argv=None):
    run_tasks(parse(Finetune, argv, prog="python -m nanospike.finetune"), prepare, run)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), processes=None)
