"""Checkpoints of a training run, and what --resume takes from the last of them.

OUTPUT_DIR/checkpoints/STAGE-STEP holds the weights, the optimizer's moments and state.json: the stage and step, the
number of updates since the stage began and the usual norm of their gradients, the summary of the stages before it, the
options, and when it was saved.
"""

import json
import shutil
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

from ..arrays.backend import to_device
from ..config.errors import InputError
from ..config.options import flag, plain
from ..files.model_files import read_json, read_tensors, replacing, write_json, write_tensors
from .shift_options import MADE_OF

KEEP = 2  # checkpoints
LOG, ARGS = "train_log.jsonl", "training_args.json"  # in the output directory
MAY_CHANGE = {"output_dir", "resume", "device", "workers", "log_every", "save_every"}  # on --resume
REMEDIES = {"learning_rate", "warmup", "clip_norm"}  # may change too, after a divergence


def write_checkpoint(options, parameters, optimizer, stage, step, summary, score=None):
    """A new checkpoint of parameters {name: array} and an AdamW; the older ones but the last, and the best if they have
    scores, are removed.
    """
    root = Path(options.output_dir) / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"{stage}-{step:07d}"
    with replacing(target) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_tensors(temporary / "model.safetensors", parameters)
        write_tensors(temporary / "optimizer.safetensors", _named_moments(optimizer))
        state = {"stage": stage, "step": step, "updates": optimizer.step, "log_norm": optimizer.log_norm}
        more = {"summary": summary, "options": plain(options), "saved": time.time(), "score": score}
        write_json(temporary / "state.json", state | more)
        shutil.rmtree(target, ignore_errors=True)
    best = _best(options.output_dir)
    for old in _checkpoints(options.output_dir)[:-KEEP]:
        if best is None or old != best[0]:
            shutil.rmtree(old)


def _best(directory):
    """(checkpoint, state) of the first one with the best score, None if none has a score."""
    found = [(path, read_json(path / "state.json")) for path in _checkpoints(directory)]
    scored = [(path, state) for path, state in found if state.get("score") is not None]
    return max(scored, key=lambda entry: entry[1]["score"], default=None)


def read_best(directory):
    """(state, weights) of the checkpoint with the best score."""
    path, state = _best(directory)
    return state, read_tensors(path / "model.safetensors")


def last_checkpoint(options):
    """(directory, state) of the checkpoint from which --resume goes on; InputError if it is of another run."""
    found = _checkpoints(options.output_dir)
    if not found:
        raise InputError(f"--resume: {options.output_dir} has no checkpoint")
    state = read_json(found[-1] / "state.json")
    now, then = (_decisive(o) for o in (plain(options), state["options"]))
    may_change = MAY_CHANGE | (REMEDIES if "diverged" in state else set())
    defaults = {f.name: f.default for f in fields(options)} | MADE_OF  # of an option that the run was begun without
    if changed := [flag(k) for k in now if k not in may_change and now[k] != then.get(k, defaults[k])]:
        raise InputError(f"--resume: other values of {', '.join(changed)} than in the run in {options.output_dir}")
    return found[-1], state


def note_divergence(options, what):
    """Say in the last checkpoint that the run went wrong after it; (stage, step) of it."""
    path = _checkpoints(options.output_dir)[-1] / "state.json"
    state = read_json(path)
    write_json(path, state | {"diverged": what})
    return state["stage"], state["step"]


def has_checkpoint(directory):
    return bool(_checkpoints(directory))


def _decisive(options):
    """The options of a run without what changes nothing: where a cache is, but not whether there is one.

    Without one, a stage of one epoch does not round the teacher's activations.
    """
    return options | ({"cache_dir": options["cache_dir"] is not None} if "cache_dir" in options else {})


def read_checkpoint(options):
    """(state, weights, moments) of the last one; what the log has beyond it is dropped."""
    checkpoint, state = last_checkpoint(options)
    _cut_log(Path(options.output_dir) / LOG, state)
    return state, *(read_tensors(checkpoint / f"{name}.safetensors") for name in ("model", "optimizer"))


def restore(parameters, optimizer, state, weights, moments):
    """Put what read_checkpoint returned into the parameters {name: live array} and their fresh optimizer."""
    restore_weights(parameters, weights)
    _copy_into(_named_moments(optimizer), moments)
    optimizer.step, optimizer.log_norm = state["updates"], state.get("log_norm")


def restore_weights(parameters, weights):
    """Put {name: array} of the host into {name: live array}."""
    _copy_into(parameters, weights)


def _checkpoints(directory):
    """Complete checkpoints of a run, oldest first."""
    found = [p.parent for p in (Path(directory) / "checkpoints").glob("[!.]*/state.json")]
    return sorted(found, key=lambda p: read_json(p / "state.json")["saved"])


def _named_moments(optimizer):
    """{m.NAME, v.NAME: live array}"""
    return {f"{kind}.{n}": pair[i] for n, pair in optimizer.moments.items() for i, kind in enumerate("mv")}


def _copy_into(arrays, tensors):
    for name, array in arrays.items():
        array[...] = to_device(tensors[name], "cpu" if isinstance(array, np.ndarray) else "cuda")


def _cut_log(path, state):
    """Drop the lines of steps that will be done again."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # cut short when the run was stopped
            continue
        this = line["stage"] == state["stage"] and line["step"] <= state["step"]
        if this or line["stage"] in state["summary"]:
            kept.append(text + "\n")
    with replacing(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
