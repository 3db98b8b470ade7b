"""python -m nanospike.finetune: teach a BERT (a later teacher) a task."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import ops
from .backend import library, random_generator
from .checkpoint import write_json
from .config import option, parse
from .inference import teacher_logits
from .loss import label_loss
from .models import load_teacher, with_classifier
from .tasks import find_task, read_split, score
from .text import encode_splits, load_tokenizer, require_segments, save_tokenizer
from .train import Run, Stage, TrainingOptions, begin, command
from .tree import leaves, summed


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingOptions):
    """Fine-tune a BERT on a task's labels; what it writes can be the teacher of nanospike.distill."""

    model: Path = option("directory of a Hugging Face BERT: config.json, model.safetensors, a tokenizer")
    task: str = option("GLUE task, such as sst-2")
    data_dir: Path = option("directory with train.tsv and dev.tsv, or the GLUE directory above it")


def gradients(teacher, workers):
    """Stage.gradients of the cross-entropy of the labels, with the dropout of the teacher's configuration."""
    xp, config = library(teacher.device), teacher.config

    def part(batch, seed, totals):
        generator = random_generator(xp, seed)
        out, vjp = teacher.forward(
            batch.input_ids,
            batch.attention_mask,
            batch.token_type_ids,
            drop=dropping(config.hidden_dropout_prob, generator),
            drop_attention=dropping(config.attention_probs_dropout_prob, generator),
        )
        value, loss_vjp = label_loss(out.logits, batch.labels, totals)
        grads = {}
        vjp(None, None, loss_vjp(1.0), grads)
        return value, dict(leaves(grads))

    def step(batches, seed, totals):
        parts = workers.map(lambda i: part(batches[i], (*seed[:-1], seed[-1] + i), totals), range(len(batches)))
        terms = {"labels": sum(value for value, _ in parts)}
        return terms, summed([grads for _, grads in parts], workers), lambda: {"mean_rate": None}  # it does not spike

    return step


def dropping(probability, generator):
    return (lambda x: ops.dropout(x, probability, generator)) if probability else ops.identity


def main(argv=None):
    options = parse(Finetune, argv, prog="python -m nanospike.finetune")
    task = find_task(options.task)
    teacher = load_teacher(options.model, options.device)
    tokenizer = load_tokenizer(options.model, teacher.config.vocab_size)
    splits = {s: read_split(task, options.data_dir, s) for s in ("train", "dev")}
    length = min(options.max_length, teacher.config.max_position_embeddings)
    data = encode_splits(tokenizer, splits, length)
    require_segments(data["train"], teacher.config, options.model)
    begin(options)
    teacher = with_classifier(teacher, task.num_labels, options.seed)
    teacher.raw_config |= {"id2label": task.id2label}
    started = time.perf_counter()
    run = Run(options, teacher.parameters())
    stage = Stage("finetune", data["train"], gradients(teacher, run.workers), options.epochs, options.learning_rate)
    run.train([stage])
    if run.world.rank:
        return
    teacher.save(options.output_dir)
    save_tokenizer(tokenizer, options.output_dir)
    value = score(task, teacher_logits(teacher, data["dev"]), data["dev"].labels)
    results = {"task": task.name, "metric": task.metric, "teacher": value, "seconds": time.perf_counter() - started}
    write_json(options.output_dir / "eval_results.json", results)
    print(f"{task.name} dev {task.metric} {value:.4f} after {results['seconds']:.0f} s; saved in {options.output_dir}")


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]), processes=None)
