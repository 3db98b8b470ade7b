"""What the studies have in common: runs of the commands, each done once and taken up again where it was stopped."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

import nanospike
from nanospike.config.errors import InputError
from nanospike.config.options import plain
from nanospike.data.tasks import find_task, split_path

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
    argv = ["-m", f"nanospike.{command}", *argv, "--output-dir", out]
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


def told(options):
    """The options as results keep them: without the paths of one machine."""
    return {n: v for n, v in plain(options).items() if n not in PLACES}


def piped(lines):
    """Rows of cells, the first the head, as markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
