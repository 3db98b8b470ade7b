"""python -m nanospike.finetune: teach a BERT (a later teacher) a task."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .arrays import ops
from .arrays.backend import library, random_generator
from .arrays.tree import leaves, summed
from .config.options import option, parse
from .data.tasks import find_task, read_splits
from .data.text import encode_splits, load_tokenizer, require_segments, save_tokenizer
from .files.model_files import write_json
from .glue import TASK_HELP, run_tasks
from .model.bert import Flow
from .model.loss import label_loss
from .model.teacher import load_teacher, with_classifier
from .results.inference import nested, with_teacher
from .start import begin, command, require_startable
from .training.loop import Run, Stage
from .training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingOptions):
    """Fine-tune a BERT on a task's labels; what it writes can be the teacher of nanospike.distill."""

    model: Path = option("directory of a Hugging Face BERT: config.json, model.safetensors, a tokenizer")
    task: str = option(TASK_HELP)
    data_dir: Path = option("directory with train.tsv and dev.tsv, or the GLUE directory above it")


def gradients(teacher, workers):
    """Stage.gradients of the cross-entropy of the labels, with the dropout of the teacher's configuration."""
    xp, config = library(teacher.device), teacher.config

    def part(batch, seed, totals):
        generator = random_generator(xp, seed)
        flow = Flow(
            drop=dropping(config.hidden_dropout_prob, generator),
            drop_attention=dropping(config.attention_probs_dropout_prob, generator),
        )
        out, vjp = teacher.forward((batch.input_ids, batch.attention_mask, batch.token_type_ids), flow)
        value, loss_vjp = label_loss(out.logits, batch.labels, totals)
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
    task = find_task(options.task)
    teacher = load_teacher(options.model, options.device)
    tokenizer = load_tokenizer(options.model, teacher.config.vocab_size)
    splits = {s: e for name in ("train", "dev") for s, e in read_splits(task, options.data_dir, name).items()}
    length = min(options.max_length, teacher.config.max_position_embeddings)
    data = encode_splits(tokenizer, splits, length)
    require_segments(data["train"], teacher.config, options.model)
    require_startable(options)
    return options, task, teacher, tokenizer, data


def run(options, task, teacher, tokenizer, data):
    begin(options)
    teacher = with_classifier(teacher, task.num_labels, options.seed)
    teacher.raw_config |= {"id2label": task.id2label}
    started = time.perf_counter()
    job = Run(options, teacher.parameters())
    stage = Stage("finetune", data["train"], gradients(teacher, job.workers), options.epochs, options.learning_rate)
    job.train([stage])
    if job.world.rank:
        return None
    teacher.save(options.output_dir)
    save_tokenizer(tokenizer, options.output_dir)
    results = evaluate(teacher, task, data, job.workers) | {"seconds": time.perf_counter() - started}
    write_json(options.output_dir / "eval_results.json", results)
    print(
        f"{task.name} dev {task.metric} {results['teacher']:.4f} after {results['seconds']:.0f} s; "
        f"saved in {options.output_dir}"
    )
    return results


def evaluate(teacher, task, data, workers):
    about = {"task": task.name, "metric": task.metric}
    devs = {name: part for name, part in data.items() if name.startswith("dev")}
    known = {n: about | {"examples": len(d)} for n, d in devs.items()}
    return nested({n: with_teacher(known[n], task, teacher, d, workers=workers) for n, d in devs.items()})


def main(argv=None):
    run_tasks(parse(Finetune, argv, prog="python -m nanospike.finetune"), prepare, run)


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), processes=None)
