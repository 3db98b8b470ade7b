"""Files with something wrong in them, as many as are asked for: each gives a result, or one line that says why not.

    python tools/fuzz.py [--inputs 100000] [--seed 0] [--json fuzz.json]

An input is one of TARGETS, whole files of a few kilobytes, one of which is changed: bytes (cut, doubled, flipped, put
in), a value or a key of its JSON, a number of its tensors, a cell of its table. It is read as a command reads it. What
counts as a fault: another exception than InputError, a message of more than one line, more than --seconds, or more than
SPARE bytes of memory beyond what the process had. An input is a function of (seed, number): a fault can be had again.
"""

import contextlib
import gzip
import io
import json
import math
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nanospike.config.errors import InputError
from nanospike.config.options import option, parse, require_at_least
from nanospike.data.own import OwnFiles, own_data
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import encode
from nanospike.data.tokenizer import SPECIAL_TOKENS, load_tokenizer
from nanospike.files.model_files import write_json
from nanospike.finetune import Finetune
from nanospike.model.fresh import init_student
from nanospike.model.loading import load_student
from nanospike.model.teacher import Teacher, load_teacher
from nanospike.start import command
from nanospike.training.loop import Run
from nanospike.training.optim import AdamW
from nanospike.training.options import TrainingOptions
from nanospike.training.resume import Position, read_checkpoint, write_checkpoint

SPARE = 2**30  # bytes of memory
ADDRESSES = 8  # times as many of addresses: allocators reserve more than they use
PATIENCE = 30  # with a machine that is busy with other work
WORDS = [*SPECIAL_TOKENS, "the", "tea", "was", "hot", "##s", "café", *"abcdefghij"]
SHAPE = {
    "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 12, "max_position_embeddings": 10, "num_labels": 2,
}  # fmt: skip
TABLE = [("sentence", "label"), *[(f"the tea was hot {i}", str(i % 2)) for i in range(12)]]
OPTIONS = 'task = "sst-2"\ndata_dir = "~/x"\noutput_dir = "y"\nmodel = "z"\nseed = 3\nbatch_size = 8\nmax_steps = 2\n'
VALUES = [
    None, True, False, 0, 1, -1, 2, 7, 1e308, -1e-308, 5e-324, math.nan, math.inf, 10**20, 2**63, 2**31, 10**400, "",
    "x", "0", "\ud800", "\x00", "é" * 300, [], {}, [[]], {"a": {}}, [None], ["x"] * 3, "[UNK]", "LABEL_0", "../x", "~",
    0.5,
]  # fmt: skip
BYTES = [b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"\t", b",", b'"', b"{", b"[" * 50, b"}", b"\\",
         b"\x1f\x8b", b"9" * 40, b"-", b"e999", b"NaN", b"\xed\xa0\x80", "\u2028é".encode(), b" ", b"=", b"#",
         b"'"]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """make(directory) writes whole files, use(directory) reads them as a command does; spoil: which are changed."""

    make: Callable
    use: Callable
    spoil: tuple


class TooLong(BaseException):
    """An input took more than its seconds."""


# ---- what is read --------------------------------------------------------------------------------------------------


def model(directory, student=False):
    rng = np.random.default_rng(0)
    made = init_student(SHAPE, None, 0)
    made.raw_config = {"id2label": {"0": "bad", "1": "good"}, "recommended_time_steps": 4}
    if not student:
        flat = {n: p for n, p in made.parameters().items() if not n.startswith("distill_map")}
        from nanospike.arrays.tree import nest
        from nanospike.config.models import BertConfig

        made = Teacher(BertConfig(**SHAPE), nest(flat), "cpu", None, made.raw_config)
    for values in made.parameters().values():
        values += rng.standard_normal(values.shape).astype(values.dtype) * 0.01
    made.save(directory)
    return made


def use_teacher(directory):
    load_teacher(directory)(np.array([[2, 5, 3]]))


def use_student(directory):
    load_student(directory).simulate(np.array([[2, 5, 3]]), time_steps=2, record=())


def vocabulary(directory):
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": null}')
    (directory / "added_tokens.json").write_text(json.dumps({"[NEW]": len(WORDS)}))


def tokenizer(directory):
    vocabulary(directory)
    (directory / "added_tokens.json").unlink()
    load_tokenizer(directory).save(str(directory / "tokenizer.json"))


def use_tokenizer(directory):
    found = load_tokenizer(directory, len(WORDS) + 1)
    ids = encode(found, ["The tea, was HOT 文", ("café", ""), "\ue000"], 8).ids
    assert all(1 < len(i) <= 8 and 0 <= i.min() and i.max() <= len(WORDS) for i in ids)


def table(name):
    def make(directory):
        kind = name.removesuffix(".gz").rpartition(".")[2]
        if kind == "jsonl":
            text = "\n".join(json.dumps(dict(zip(TABLE[0], row, strict=True))) for row in TABLE[1:])
        else:
            text = "\n".join(("," if kind == "csv" else "\t").join(row) for row in TABLE)
        body = text.encode()
        (directory / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)

    return make


def use_own(name, regression=False):
    return lambda directory: own_data(OwnFiles(train_file=directory / name, regression=regression))


def use_glue(task, split):
    def use(directory):
        found = read_split(find_task(task), directory, split, need_labels=split != "test")
        assert found.labels is None or len(found.labels) == len(found.texts)

    return use


def use_options(directory):
    parse(Finetune, ["--config", str(directory / "run.toml")], prog="fuzz")


def training(directory):
    return TrainingOptions(output_dir=directory, resume=True, workers=1)


def checkpoint(directory):
    made = model(directory, student=True)
    optimizer = AdamW(made.parameters())
    write_checkpoint(training(directory), made.parameters(), optimizer, Position("finetune", 5, {}, [1]))


def use_checkpoint(directory):
    parameters = load_student(directory).parameters()
    with contextlib.redirect_stderr(io.StringIO()):
        read_checkpoint(training(directory))
        Run(training(directory), parameters)._restore()


PLACE = "checkpoints/finetune-0000005"
TARGETS = {
    "config of a BERT": Target(model, use_teacher, ("config.json",)),
    "config of a student": Target(lambda d: model(d, student=True), use_student, ("config.json",)),
    "tensors of a BERT": Target(model, use_teacher, ("model.safetensors",)),
    "tensors of a student": Target(lambda d: model(d, student=True), use_student, ("model.safetensors",)),
    "vocabulary": Target(vocabulary, use_tokenizer, ("vocab.txt", "tokenizer_config.json", "added_tokens.json")),
    "tokenizer": Target(tokenizer, use_tokenizer, ("tokenizer.json", "tokenizer.json", "tokenizer_config.json")),
    "CSV": Target(table("a.csv"), use_own("a.csv"), ("a.csv",)),
    "CSV of numbers": Target(table("a.csv"), use_own("a.csv", regression=True), ("a.csv",)),
    "TSV": Target(table("a.tsv"), use_own("a.tsv"), ("a.tsv",)),
    "JSONL": Target(table("a.jsonl"), use_own("a.jsonl"), ("a.jsonl",)),
    "CSV in gzip": Target(table("a.csv.gz"), use_own("a.csv.gz"), ("a.csv.gz",)),
    "TSV of GLUE": Target(table("dev.tsv"), use_glue("sst-2", "dev"), ("dev.tsv",)),
    "test TSV of GLUE": Target(table("test.tsv"), use_glue("sst-2", "test"), ("test.tsv",)),
    "TOML": Target(lambda d: (d / "run.toml").write_text(OPTIONS), use_options, ("run.toml",)),
    "state of a checkpoint": Target(checkpoint, use_checkpoint, (f"{PLACE}/state.json",)),
    "tensors of a checkpoint": Target(
        checkpoint, use_checkpoint, (f"{PLACE}/model.safetensors", f"{PLACE}/optimizer.safetensors")
    ),
}


# ---- what is wrong in it -------------------------------------------------------------------------------------------


def spoilt(name, body, rng):
    """The bytes of a file, changed in one to three places."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        ways = [in_bytes]
        ways += [in_json] * 2 if name.endswith(".json") else []
        ways += [in_tensors] * 2 if name.endswith(".safetensors") else []
        ways += [in_lines] if name.endswith((".csv", ".tsv", ".jsonl", ".toml", ".txt")) else []
        with contextlib.suppress(
            ValueError, IndexError, OverflowError, struct.error
        ):  # it is broken beyond that already
            body = rng.choice(ways)(body, rng)
    return body


def in_bytes(body, rng):
    start = rng.randrange(len(body) + 1)
    stop = min(len(body), start + rng.choice((0, 1, 4, 64, 10**6)))
    middle = rng.choice(
        (b"", rng.choice(BYTES), body[start:stop] * 2, bytes([rng.randrange(256)]), body[start:stop][::-1])
    )
    return body[:start] + middle + body[stop:]


def in_json(body, rng):
    value = json.loads(body)
    holder, key = rng.choice(list(places_of(value)))
    act = rng.randrange(8)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, dict):
        holder[str(rng.choice(VALUES))] = holder.pop(key)
    elif act == 2 and isinstance(holder, dict):
        holder[str(rng.choice(VALUES))] = rng.choice(VALUES)
    elif act == 3 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * rng.choice((-1, 0.5, 1.5, 2, 1000))
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def places_of(value):
    """(holder, key) of every value within a JSON value."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places_of(inner)


def in_tensors(body, rng):
    """Another header, or another number."""
    (length,) = struct.unpack("<Q", body[:8])
    header, data = body[8 : 8 + length], bytearray(body[8 + length :])
    if rng.random() < 0.6:
        header = in_json(header, rng)
        return struct.pack("<Q", len(header)) + header + bytes(data)
    place = 4 * rng.randrange(len(data) // 4)
    data[place : place + 4] = rng.choice(
        (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00")
    )
    return body[: 8 + length] + bytes(data)


def in_lines(body, rng):
    """A cell, or a line, is another."""
    lines = body.split(b"\n")
    i = rng.randrange(len(lines))
    mark = rng.choice((b",", b"\t", b"=", b":"))
    cells = lines[i].split(mark)
    value = str(rng.choice(VALUES)).encode("utf-8", "surrogatepass")
    cells[rng.randrange(len(cells))] = rng.choice((value, b'"' + value + b'"', rng.choice(BYTES), b"[" + value + b"]"))
    lines[i] = rng.choice((mark.join(cells), mark.join(cells), lines[rng.randrange(len(lines))], b""))
    return b"\n".join(lines)


# ---- running -------------------------------------------------------------------------------------------------------


class Bench:
    """The targets' files in a directory of their own; try_out(number) is one input."""

    def __init__(self, directory, seed=0, seconds=20.0):
        self.directory, self.seed, self.seconds = Path(directory), seed, seconds
        for name, target in TARGETS.items():
            self.place(name).mkdir()
            target.make(self.place(name))
            target.use(self.place(name))  # whole files are read

    def place(self, name):
        return self.directory / name.replace(" ", "_")

    def try_out(self, number):
        """(target, "result" or "refused", seconds) of an input; AssertionError, which says how to have it again."""
        rng = random.Random(f"{self.seed} {number}")
        name = rng.choice(list(TARGETS))
        target, place = TARGETS[name], self.place(name)
        path = place / rng.choice(target.spoil)
        whole, began = path.read_bytes(), time.perf_counter()
        files = set(place.rglob("*"))
        try:
            path.write_bytes(spoilt(path.name, whole, rng))
            outcome = self._used(target, place)
        except BaseException as error:
            kept = self.directory / f"fault-{number}-{path.name}"
            shutil.copyfile(path, kept)
            if isinstance(error, KeyboardInterrupt):
                raise
            told = f"{type(error).__name__}: {str(error)[:300]}"
            raise AssertionError(f"input {number} of seed {self.seed}, {name}, {path.name}: {told} ({kept})") from error
        finally:
            path.write_bytes(whole)
            for made in set(place.rglob("*")) - files:
                made.unlink(missing_ok=True)
        return name, outcome, time.perf_counter() - began

    def _used(self, target, place):
        with warnings.catch_warnings(), np.errstate(all="ignore"), limits(self.seconds), quiet() as said:
            warnings.simplefilter("ignore")
            try:
                target.use(place)
            except InputError as error:
                assert "\n" not in str(error) or " ".join(str(error).split()), "an empty message"
                return "refused"
            except SystemExit as stop:  # what the command line's reader does
                assert stop.code == 2 and said.getvalue().count("\n") == 1, f"said {said.getvalue()!r}"
                return "refused"
        return "result"


@contextlib.contextmanager
def quiet():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        yield said


@contextlib.contextmanager
def limits(seconds):
    """TooLong after so many seconds of the processor, or PATIENCE as many by the clock; MemoryError beyond SPARE bytes
    more, or ADDRESSES as many of addresses, than before; on Linux, in the main thread."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    def late(signum, frame):
        raise TooLong(f"more than {seconds} s, or {PATIENCE * seconds} by the clock")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before, clocks = resource.getrlimit(resource.RLIMIT_AS), ((signal.ITIMER_PROF, 1), (signal.ITIMER_REAL, PATIENCE))
    handlers = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES * SPARE, before[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for clock, factor in clocks:
        signal.setitimer(clock, factor * seconds)
    try:
        yield
    finally:
        for clock, _ in clocks:
            signal.setitimer(clock, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        if grown > SPARE:
            raise MemoryError(f"grew by {grown} bytes")
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass(frozen=True, kw_only=True)
class Fuzz:
    """Read files with something wrong in them, and count what comes of it."""

    inputs: int = option("how many", 100_000)
    first: int = option("number of the first", 0)
    seed: int = option("of all of them", 0)
    seconds: float = option("most time of the processor for one", 20.0)
    json: Path | None = option("file for the figures", None)

    def __post_init__(self):
        require_at_least(self, inputs=1, first=0, seed=0, seconds=0.1)


def main(argv=None):
    options = parse(Fuzz, argv, prog="python tools/fuzz.py")
    counts, faults, slowest, began = Counter(), [], 0.0, time.perf_counter()
    directory = Path(tempfile.mkdtemp(prefix="fuzz-"))
    bench = Bench(directory, options.seed, options.seconds)
    for number in range(options.first, options.first + options.inputs):
        try:
            name, outcome, seconds = bench.try_out(number)
            counts[name, outcome] += 1
            slowest = max(slowest, seconds)
        except AssertionError as error:
            faults.append(" ".join(str(error).split()))
            print(faults[-1], file=sys.stderr)
        if options.json and (number + 1) % 1000 == 0:
            write_json(options.json, figures(options, counts, faults, slowest, time.perf_counter() - began))
    found = figures(options, counts, faults, slowest, time.perf_counter() - began)
    if options.json:
        write_json(options.json, found)
    print(json.dumps(found, indent=2))
    if not faults:
        shutil.rmtree(directory)
    sys.exit(bool(faults))


def figures(options, counts, faults, slowest, seconds):
    by_target = {name: {o: counts[name, o] for o in ("result", "refused")} for name in TARGETS}
    about = {"inputs": sum(counts.values()) + len(faults), "seconds": round(seconds, 1), "slowest": round(slowest, 3)}
    return about | {"faults": faults, "targets": by_target, "seed": asdict(options)["seed"]}


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
