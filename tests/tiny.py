"""Files for tests: a tiny BERT directory, labelled text in the layout of GLUE, and commands run in this process."""

import json
import string
import struct
import warnings
from pathlib import Path

import numpy as np
from models import random_teacher

from nanospike.start import command
from nanospike.training.optim import AdamW

TRAIN = """\
1	the tea was hot and the cake was fresh .
0	the soup came cold and tasted of nothing .
1	we laughed all evening and want to go back .
0	the room smelled of smoke and old carpet .
1	a kind host , clean sheets and a quiet night .
0	nobody answered the phone for two days .
1	she plays the part with warmth and wit .
0	a dull story that takes far too long .
1	the bread is crisp and the butter is sweet .
0	my coat was lost and no one said sorry .
1	bright songs and a clever , funny script .
0	the chairs are hard and the light is poor .
1	this little film is a joy .
0	this long film is a bore .
1	the staff were quick , polite and patient .
0	the waiter was rude and forgot our order twice .
1	fresh fish , fair prices .
0	stale bread , high prices .
1	the garden is lovely in spring .
0	the garden is full of rubbish .
1	great acting and a great ending .
0	poor acting and a worse ending .
1	the train was on time and clean .
0	the train was late again and dirty .
1	i slept well and woke up happy .
0	i hardly slept , the street was loud .
1	the soup was rich and warm .
0	the tea was weak and cold .
"""
DEV = """\
1	the cake was sweet and fresh .
0	the room was cold and dirty .
1	a clever and funny film .
0	a long and dull film .
1	the host was kind and patient .
0	the waiter was late and rude .
1	lovely garden , clean rooms .
0	loud street , hard chairs .
1	we want to go back in spring .
0	nobody said sorry for the cold soup .
1	warm bread and great tea .
0	stale cake and weak tea .
"""
CORPUS = """\
The river rises in the hills and runs past the old mill to the sea.

In spring the water is high, and the boats lie close to the road.
At night the lamps of the inn are seen from far away, and travellers who come late find the door open and the soup warm.
Nobody knows who built the bridge.
"""
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = sorted({w for line in (TRAIN + DEV).splitlines() for w in line.partition("\t")[2].split()})
VOCABULARY = [*PIECES, *WORDS, *(c for c in string.ascii_lowercase if c not in WORDS)]
VOCABULARY += ["##" + c for c in string.ascii_lowercase]
POSITIONS = 16


def write_teacher(directory, labels=2, seed=3, pooler=True, mixing=1, **changes):
    """A random float32 BERT with a pooler and a classifier (labels=0: neither), and vocab.txt.

    mixing: factor on the weights that carry other tokens to [CLS], so that the logits depend on the text.
    """
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS}
    teacher = random_teacher(seed, labels, dtype="float32", **shape | changes)
    if not pooler:
        teacher.tree.pop("pooler")
    for name, weight in teacher.parameters().items():
        if name.endswith(("value.weight", "attention.output.dense.weight")):
            weight *= mixing
        if name.endswith(("query.weight", "key.weight")):
            weight /= mixing
    teacher.save(directory)
    (Path(directory) / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return Path(directory)


def write_sst2(directory, train=TRAIN, dev=DEV):
    """train.tsv and dev.tsv: header, text, label."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, lines in (("train.tsv", train), ("dev.tsv", dev)):
        rows = [f"{text}\t{label}" for label, _, text in (line.partition("\t") for line in lines.splitlines())]
        (Path(directory) / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return Path(directory)


def write_sts_b(directory, rows):
    """dev.tsv and train.tsv of [(text, pair, score)], in the task's official columns."""
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    lines = [f"{i}\tg\tf\t2012\t0\tnone\tnone\t{a}\t{b}\t{s}" for i, (a, b, s) in enumerate(rows)]
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name in ("train.tsv", "dev.tsv"):
        (Path(directory) / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return Path(directory)


def write_safetensors(path, entries):
    """A safetensors file by hand: {name: (dtype name, shape, bytes)}."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (kind, shape, body) in entries.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def bfloat16(values):
    """(bytes of the values cut to bfloat16, what those bytes stand for as float32)."""
    halves = np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16
    return halves.astype("<u2").tobytes(), (halves << 16).view(np.float32)


def edit_json(path, **changes):
    """Set keys of a JSON object file; None removes one."""
    value = json.loads(Path(path).read_text(encoding="utf-8")) | changes
    Path(path).write_text(json.dumps({k: v for k, v in value.items() if v is not None}), encoding="utf-8")


def run(main, *argv):
    """The exit status of a command run in this process; what it printed is left to capsys."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            command(lambda: main([str(a) for a in argv]))
        except SystemExit as stop:
            return stop.code
    return 0


def contents(directory):
    """{relative path: bytes, or None of a directory} of everything below `directory`."""
    return {
        str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None
        for p in sorted(Path(directory).rglob("*"))
    }


def log_lines(directory, timed=False):
    """The lines of train_log.jsonl, without the fields that a clock decides, and those that look at the lines before
    (after --resume there are none)."""
    lines = [json.loads(x) for x in (Path(directory) / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    left_out = () if timed else ("step_ms", "examples_per_second", "dead", "saturated")
    return [{k: v for k, v in line.items() if k not in left_out} for line in lines]


def interrupt(monkeypatch, update):
    """Press Ctrl-C in the update of this number, counted over the whole run."""
    whole, calls = AdamW.update, []

    def stopping(self, *args):
        calls.append(1)
        if len(calls) == update:
            raise KeyboardInterrupt
        return whole(self, *args)

    monkeypatch.setattr(AdamW, "update", stopping)
