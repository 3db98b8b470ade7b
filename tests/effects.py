"""Runs of commands that differ in one option, and what can be compared of them. Used by test_effects.py.

A row of the table says of one option: two values of it, what both runs need beside it, which of the outcome's
attributes must differ and which must be alike, and, where the effect is known, a check that computes it.
"""

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import contents, log_lines, run

from nanospike.arrays.workers import Workers
from nanospike.data.text import collate
from nanospike.data.tokenizer import load_tokenizer
from nanospike.results import inference

CLOCKS = ("seconds", "total_seconds", "training", "peak_memory_mb", "options")  # of results, no effect of an option


def tensors_of(directory):
    """{name: array} of a model's file, without the prefix that a BERT with a classifier has in it."""
    return {n.removeprefix("bert."): t for n, t in load_file(directory / "model.safetensors").items()}


@dataclass(frozen=True)
class Row:
    """One option. one, other: values, True and False of a switch, None where it is not given; in texts {p} is the
    folder of inputs and {out} a fresh one of the run. differ, alike: attributes of Outcome, separated by spaces.
    given: {option: value} that both runs have, None takes one of BASE away. check(one, other): what is known of the
    two Outcomes. before(out, p): what is done to the run's folder before it. stdin: what is typed."""

    one: object
    other: object
    differ: str = ""
    alike: str = ""
    given: dict = field(default_factory=dict)
    check: Callable | None = None
    before: Callable | None = None
    stdin: bytes | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run left: exit status, standard output and error, the folder `out`; pools: sizes of the worker pools that
    it used; seeds: those of its random generators; batches: how many examples it took at a time to score them."""

    status: int
    printed: str
    said: str
    out: Path
    pools: frozenset
    seeds: tuple
    batches: tuple

    @cached_property
    def files(self):
        """Names of what is there in the end, without the checkpoints."""
        return sorted(n for n in contents(self.out) if not n.startswith("checkpoints"))

    @cached_property
    def checkpoints(self):
        return sorted(p.name for p in (self.out / "checkpoints").glob("*"))

    @cached_property
    def tensors(self):
        return tensors_of(self.out)

    @cached_property
    def weights(self):
        return {n: t.tobytes() for n, t in self.tensors.items()}

    @cached_property
    def shapes(self):
        return {n: t.shape for n, t in self.tensors.items()}

    @cached_property
    def config(self):
        return json.loads((self.out / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def log(self):
        return log_lines(self.out)

    def logged(self, name):
        """A field of the log's lines, as an array."""
        return np.array([line[name] for line in self.log])

    @cached_property
    def results(self):
        return json.loads((self.out / "eval_results.json").read_text(encoding="utf-8"))

    @cached_property
    def scores(self):
        """The results without what a clock decides."""
        return {k: v for k, v in self.results.items() if k not in CLOCKS}

    @cached_property
    def costs(self):
        found = json.loads((self.out / "energy.json").read_text(encoding="utf-8"))
        return {k: v for k, v in found.items() if k not in CLOCKS}

    @cached_property
    def page(self):
        """The report whose path was printed."""
        return Path(self.printed.strip()).read_text(encoding="utf-8")

    @cached_property
    def predictions(self):
        return (self.out / "predictions.tsv").read_text(encoding="utf-8")

    @cached_property
    def lines(self):
        """What was printed, without the line of the options and the one that ends with a time."""
        return [x for x in self.printed.splitlines() if not x.startswith("options: ") and " s, " not in x]


def outcome(command, options, places, out, before=None, stdin=None):
    """Run a command of nanospike with {option: value} in this process: its Outcome."""
    main = importlib.import_module(f"nanospike.{command}").main
    fill = lambda v: v.format(p=places, out=out) if isinstance(v, str) else v  # noqa: E731
    argv, positional = [], []
    for name, value in options.items():
        flag, value = "--" + name.replace("_", "-"), fill(value)
        if name in ("texts", "out", "directory", "source"):
            positional += map(fill, value or ()) if isinstance(value, tuple | None) else [value]
        elif isinstance(value, bool):
            argv += [flag if value else f"--no-{flag[2:]}"]
        elif isinstance(value, list):
            argv += [flag, *map(fill, value)]
        elif value is not None:
            argv += [flag, value]
    out.mkdir(parents=True)
    if before:
        before(out, places)
    pools, seeds, batches, printed, said = set(), [], [], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(out), contextlib.ExitStack() as files:
        whole, generator = Workers.map, np.random.default_rng
        patch.setattr(Workers, "map", lambda self, *args: pools.add(self.size) or whole(self, *args))
        patch.setattr(np.random, "default_rng", lambda seed=None: seeds.append(str(seed)) or generator(seed))
        patch.setattr(inference, "collate", lambda data, i, *a: batches.append(len(i)) or collate(data, i, *a))
        patch.setitem(sys.modules, "cupy", None)  # so that --device cuda is refused everywhere
        typed = out.parent / "stdin"
        typed.write_bytes(stdin or b"")
        patch.setattr(sys, "stdin", files.enter_context(open(typed)))
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            status = run(main, *argv, *positional)
    return Outcome(status, printed.getvalue(), said.getvalue(), out, frozenset(pools), tuple(seeds), tuple(batches))


def options_of(command):
    """{option: its dataclass field} of a command: of the record that it parses."""
    module, seen = importlib.import_module(f"nanospike.{command}"), []

    def parse(record, *args, **more):
        seen.append(record)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse", parse)
        with contextlib.suppress(KeyboardInterrupt):
            module.main([])
    return dict(seen[0].__dataclass_fields__)


def batch_of(tokenizer_from, texts, labels=None):
    """(input_ids, attention_mask, token_type_ids) and labels of all texts, padded to the longest, by hand."""
    tokenizer = load_tokenizer(tokenizer_from)
    found = [tokenizer.encode(*((t,) if isinstance(t, str) else t)) for t in texts]
    ids, mask, types = np.zeros((3, len(found), max(len(f.ids) for f in found)), np.int64)
    for i, f in enumerate(found):
        n = len(f.ids)
        ids[i, :n], mask[i, :n], types[i, :n] = f.ids, 1, f.type_ids
    return SimpleNamespace(inputs=(ids, mask, types), mask=mask, labels=None if labels is None else np.array(labels))
