"""What the studies have in common: runs of the commands, each done once and taken up again where it was stopped."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

import nanospike
from nanospike.config.errors import InputError
from nanospike.config.options import plain
from nanospike.data.tasks import find_task, split_path
from nanospike.files.model_files import write_json

TASK = "sst-2"
PLACES = ("teacher", "model", "data_dir", "work", "general", "json")  # options of the studies that are paths


def write_part(data_dir, folder, examples):
    """`folder` with train.tsv, the first `examples` (0: all) of a fixed permutation of the task's, and its dev.tsv."""
    paths = {split: split_path(find_task(TASK), data_dir, split) for split in ("train", "dev")}
    header, *lines = paths["train"].read_bytes().splitlines(keepends=True)
    lines = [line.rstrip(b"\r\n") + b"\n" for line in lines if line.strip()]
    kept = np.random.default_rng(0).permutation(len(lines))[: examples or None]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.tsv").write_bytes(header + b"".join(lines[i] for i in kept))
    shutil.copyfile(paths["dev"], folder / "dev.tsv")
    return folder


def python(argv, log):
    """Run this Python with this nanospike, its output at the end of `log`: "" or why it failed, its last line."""
    here = os.pathsep.join([str(Path(nanospike.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with open(log, "ab") as file:
        child = subprocess.Popen(
            [sys.executable, *map(str, argv)], stdout=file, stderr=file, env=os.environ | {"PYTHONPATH": here}
        )
        try:
            status = child.wait()
        except KeyboardInterrupt:  # the child had it too, and saves
            child.wait()
            raise
    if status in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    if status < 0:
        return f"killed by signal {-status}"
    said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return (said[-1] if said else f"status {status}") if status else ""


def done(out, argv, command="distill"):
    """Run a command with its options `argv` and --output-dir `out`, unless that is done: "" or why it failed.

    What it says is in OUT.log. What failed is not tried again as long as OUT.failed is there. InputError if OUT is of
    other options, which are in OUT.argv.
    """
    failed, log, kept = (out.with_name(f"{out.name}.{end}") for end in ("failed", "log", "argv"))
    asked = " ".join(map(str, (command, *argv)))
    if out.exists() and kept.exists() and kept.read_text(encoding="utf-8") != asked:
        raise InputError(f"{out}: was made with other options than now, which are in {kept}; name another --work")
    if (out / "eval_results.json").exists():
        return ""
    if failed.exists():
        return failed.read_text(encoding="utf-8")
    tool = Path(__file__).with_name(f"{command}.py")
    argv = [*([tool] if tool.exists() else ["-m", f"nanospike.{command}"]), *argv, "--output-dir", out]
    if any(out.glob("checkpoints/[!.]*/state.json")):
        argv.append("--resume")
    elif (out / "training_args.json").exists():  # it was stopped before its first checkpoint
        shutil.rmtree(out)
    kept.write_text(asked, encoding="utf-8")
    print(f"{out.name}: {command} ...", file=sys.stderr, flush=True)
    failure = python(argv, log)
    if failure and not failure.startswith("killed"):
        failed.write_text(failure, encoding="utf-8")
    return failure


def in_table(options, names, row_of, markdown):
    """Print the table of a study after each of its rows, and write it to --json: row_of(name) -> (failures, figures).

    A row is {"failed": why} or {"seeds": [figures], "summary": summary of them}; markdown({name: row}) -> text.
    """
    rows = {}
    for name in names:
        failures, found = row_of(name)
        rows[name] = {"failed": failures[0]} if failures else {"seeds": found, "summary": summary(found)}
        print(markdown(rows), flush=True)
        write_facts(options, rows=rows)


def write_facts(options, **results):
    """Write to --json, where it is given, the results of a study and what they were made with."""
    if options.json:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        facts = {"nanospike_version": nanospike.__version__, "cores": cores, "options": told(options)}
        write_json(options.json, facts | results)


def summary(found):
    """{name: [mean, standard deviation of the seeds or None]} of [{name: number or None}], one of each seed."""
    spread = lambda values: statistics.stdev(values) if len(values) > 1 else None  # noqa: E731
    numbers = {n: [f[n] for f in found] for n in found[0] if found[0][n] is not None}
    return {n: [statistics.fmean(values), spread(values)] for n, values in numbers.items()}


def shown(value, scale=100, digits=2):
    """A mean and, where there is one, its standard deviation as text, in percent; "" of None."""
    if value is None:
        return ""
    mean, spread = value
    return f"{scale * mean:.{digits}f}" + (f" ± {scale * spread:.{digits}f}" if spread is not None else "")


def failed_line(name, row, width):
    """The cells of a row that failed, in a table of so many columns."""
    return [name, f"failed: {row['failed'].replace('|', '/')}", *[""] * (width - 2)]


def told(options):
    """The options as results keep them: without the paths of one machine."""
    return {n: v for n, v in plain(options).items() if n not in PLACES}


def piped(lines):
    """Rows of cells, the first the head, as markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
