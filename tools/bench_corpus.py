"""How long a corpus takes to become a store on disk, and how much memory that and training batches from it need.

    python tools/bench_corpus.py --output tools/results/corpus-memory.json

A text of each size is made of random words, in a temporary folder; each size is a process of its own, whose largest
resident memory the system counts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanospike.config.options import option, parse, require_at_least
from nanospike.data.corpus import read_corpus
from nanospike.data.text import collate
from nanospike.data.tokenizer import load_tokenizer
from nanospike.files.bundled import bundled
from nanospike.files.model_files import write_json
from nanospike.results.inference import peak_memory_mb
from nanospike.start import command
from nanospike.training.loop import Stage
from nanospike.training.options import TrainingOptions

PARAGRAPH = (20, 300)  # words, from and to
GLUED = 0.1  # share of words that follow the one before without a space, so that the tokenizer has something to split


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure time and memory of tokenising a corpus into a store, and of reading training batches from it."""

    sizes: tuple[int, ...] = option("megabytes (10^6 bytes) of text", (64, 256, 1000))
    tokenizer: Path | None = option("directory of a tokenizer; without it, the bundled teacher's", None)
    max_length: int = option("word pieces per window", 128)
    batch_size: int = option("examples per batch", 32)
    batches: int = option("batches that are read from the store", 5000)
    seed: int = option("seed of the words and of the order", 0)
    output: Path | None = option("JSON file to write", None)
    text: Path | None = option("measure this text in this process, and no other", None)

    def __post_init__(self):
        require_at_least(self, sizes=1, max_length=3, batch_size=1, batches=1, seed=0)


def write_text(path, size, tokenizer, seed):
    """`size` bytes of random whole words of the vocabulary, a paragraph a line."""
    rng = np.random.default_rng(seed)
    words = np.array(sorted(w for w in tokenizer.get_vocab() if w.isalpha()), object)
    with open(path, "wb") as file:
        while (left := size - file.tell()) > 0:
            lengths = rng.integers(*PARAGRAPH, 200)
            some = words[rng.integers(0, len(words), lengths.sum())] + np.where(
                rng.random(lengths.sum()) < GLUED, "", " "
            )
            some[lengths.cumsum() - 1] = ".\n"
            file.write("".join(some).encode()[:left])


def measure(options, directory):
    """Times, sizes and peak memory of one text, in this process."""
    tokenizer = load_tokenizer(options.tokenizer)
    at_start, clock = peak_memory_mb(), [time.perf_counter()]
    corpus = read_corpus([options.text], tokenizer, options.max_length)
    clock.append(time.perf_counter())
    store = corpus.tokenised(directory)
    clock.append(time.perf_counter())
    tokenised = peak_memory_mb()
    training = TrainingOptions(output_dir=directory, batch_size=options.batch_size, seed=options.seed)
    batches, tokens = Stage("general", store, None, 1.0, 0.0).batches(training, 0), 0
    for _ in range(options.batches):
        tokens += int(collate(store, next(batches)).attention_mask.sum())
    clock.append(time.perf_counter())
    check, tokenise, read = np.diff(clock)
    return {
        "text_mb": options.text.stat().st_size / 1e6,
        "windows": len(store),
        "tokens": int(store.offsets[-1]),
        "check_seconds": round(check, 2),
        "tokenise_seconds": round(tokenise, 2),
        "tokens_per_second": round(int(store.offsets[-1]) / tokenise),
        "batches": options.batches,
        "tokens_read": tokens,
        "milliseconds_per_batch": round(1000 * read / options.batches, 3),
        "peak_mb_at_start": at_start,
        "peak_mb_tokenised": tokenised,
        "peak_mb": peak_memory_mb(),
    }


def in_child(options, size, directory):
    """The measurement of a fresh text of `size` MB, in a process of its own."""
    text = Path(directory) / "text"
    write_text(text, size * 10**6, load_tokenizer(options.tokenizer), options.seed)
    given = ("tokenizer", "max_length", "batch_size", "batches", "seed")
    argv = [f"--{n.replace('_', '-')}={getattr(options, n)}" for n in given]
    done = subprocess.run(
        [sys.executable, __file__, "--text", text, *argv], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout)


def main(argv=None):
    options = parse(Bench, argv, prog="python tools/bench_corpus.py")
    object.__setattr__(options, "tokenizer", options.tokenizer or bundled("teacher"))
    if options.text:
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps(measure(options, Path(directory))))
        return
    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(in_child(options, size, directory))
        print(", ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    if options.output:
        write_json(options.output, {"cores": len(os.sched_getaffinity(0)), "sizes": rows})


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
