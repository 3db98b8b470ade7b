"""Checkpoints of a training run, and what --resume takes from the last of them.

OUTPUT_DIR/checkpoints/STAGE-STEP holds the weights, the optimizer's moments and state.json: the stage and step, the
number of updates since the stage began, the usual norm of their gradients and how many of the last exploded, the
summary of the stages before it, the options, how many workers each process had, and when it was saved. One that is
damaged (a power cut may leave files of no or the wrong length) is passed over.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..arrays.backend import to_device
from ..config.errors import InputError
from ..config.options import flag, plain, plain_value
from ..files.model_files import (
    read_json,
    read_tensors,
    remove_leftovers,
    replacing,
    require_whole,
    write_json,
    write_tensors,
)
from .shift_options import MADE_OF

KEEP = 2  # checkpoints
LOG, ARGS = "train_log.jsonl", "training_args.json"  # in the output directory
MAY_CHANGE = {"output_dir", "resume", "device", "workers", "fast", "graphs", "log_every", "save_every"}  # on --resume
REMEDIES = {"learning_rate", "warmup", "clip_norm"}  # may change too, after a divergence
LENGTHS = ("epochs", "max_steps", "stages")
NEEDED = {"stage", "step", "updates", "summary", "options", "saved"}  # in state.json
KINDS = {  # of what is in it
    **{"stage": str, "step": int, "updates": int, "summary": dict, "options": dict, "saved": int | float},
    **{"score": int | float | None, "log_norm": int | float | None, "exploded": int, "workers": list},
}
TENSORS = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Position:
    """Where a run is: the stage and the updates done in it, {stage: result} of those before it, workers per rank.

    score: how good the weights are, where a stage says so.
    """

    stage: str
    step: int
    summary: dict
    workers: list
    score: float | None = None


def write_checkpoint(options, parameters, optimizer, position):
    """A new checkpoint of parameters {name: array} and an AdamW; the older ones but the last, and the best if they have
    scores, are removed.
    """
    root = Path(options.output_dir) / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"{position.stage}-{position.step:07d}"
    with replacing(target) as temporary:
        temporary.mkdir()
        for name, arrays in zip(TENSORS, (parameters, _named_moments(optimizer)), strict=True):
            write_tensors(temporary / name, arrays)
        state = {"updates": optimizer.step, "log_norm": optimizer.log_norm, "exploded": optimizer.exploded}
        more = {"options": plain(options), "saved": time.time()}
        write_json(temporary / "state.json", vars(position) | state | more)
        shutil.rmtree(target, ignore_errors=True)
    whole, damaged = _checkpoints(options.output_dir)
    best = _best(whole)
    for old in [*(place for place, _ in whole[:-KEEP]), *damaged]:
        if best is None or old != best[0]:
            shutil.rmtree(old)


def _best(checkpoints):
    """(checkpoint, state) of the first one with the best score, None if none has a score."""
    scored = [(place, state) for place, state in checkpoints if state.get("score") is not None]
    return max(scored, key=lambda entry: entry[1]["score"], default=None)


def read_best(directory):
    """(state, weights) of the checkpoint with the best score."""
    place, state = _best(_checkpoints(directory)[0])
    return state, read_tensors(place / "model.safetensors")


def last_checkpoint(options):
    """(directory, state) of the checkpoint from which --resume goes on; InputError if it is of another run."""
    whole, damaged = _checkpoints(options.output_dir)
    if not whole:
        but = f" that is whole: {'; '.join(damaged.values())}; remove it, to begin anew" if damaged else ""
        raise InputError(f"--resume: {options.output_dir} has no checkpoint{but}")
    place, state = whole[-1]
    _require_same(options, state["options"], MAY_CHANGE | (REMEDIES if "diverged" in state else set()))
    return place, state


def require_resumable(options):
    """InputError unless --resume can go on from a checkpoint of the same run, or begin it again before its first."""
    if stopped_early(options.output_dir):
        _require_same(options, read_json(Path(options.output_dir) / ARGS), MAY_CHANGE)
    else:
        last_checkpoint(options)


def begun_with(directory):
    """The options that the run in a directory, or that of the first task in it, was begun with; {} without one."""
    places = (Path(directory) / ARGS, *sorted(Path(directory).glob(f"*/{ARGS}")))
    return next((read_json(p) for p in places if p.exists()), {})


def stopped_early(directory):
    """Whether a run was begun in the directory and left no checkpoint, not even a damaged one."""
    return (Path(directory) / ARGS).exists() and not any(_checkpoints(directory))


def _require_same(options, then, may_change):
    """InputError if the options of the run that was begun, a dict, are others but for the names in may_change."""
    now, then = _decisive(plain(options)), _decisive(then)
    defaults = {f.name: plain_value(f.default) for f in fields(options)}  # of an option the run was begun without
    defaults |= {name: plain_value(value) for name, value in MADE_OF.items()}
    if changed := [flag(k) for k in now if k not in may_change and now[k] != then.get(k, defaults[k])]:
        longer = {flag(name) for name in LENGTHS} & set(changed)
        hint = "; to train what it left further, name it as --model or --init of a new run" if longer else ""
        raise InputError(
            f"--resume: other values of {', '.join(changed)} than in the run in {options.output_dir}{hint}"
        )


def note_divergence(options, what):
    """Say in the last checkpoint that the run went wrong after it; (stage, step) of it."""
    place, state = _checkpoints(options.output_dir)[0][-1]
    write_json(place / "state.json", state | {"diverged": what})
    return state["stage"], state["step"]


def has_checkpoint(directory):
    """Whether a run left one that is whole."""
    return bool(_checkpoints(directory)[0])


def _decisive(options):
    """The options of a run without what changes nothing: where a cache is, but not whether there is one.

    Without one, a stage of one epoch does not round the teacher's activations. few_steps was one number once, and every
    classifier was learnt.
    """
    if "cache_dir" in options:
        options = options | {"cache_dir": options["cache_dir"] is not None}
    if isinstance(options.get("few_steps"), int):
        options = options | {"few_steps": [options["few_steps"]]}
    if "few_steps" in options:  # those of distill
        options = options | {"classifier": options.get("classifier") or "learnt"}
        if "few-steps" not in (options.get("stages") or ()):
            options = options | {"few_steps": []}
    return options


def read_checkpoint(options):
    """(state, weights, moments) of the last one; what the log has beyond it is dropped.

    Damaged ones are named on standard error; what a killed run had begun to write is removed.
    """
    checkpoint, state = last_checkpoint(options)
    for problem in _checkpoints(options.output_dir)[1].values():
        print(f"{problem}; passed over", file=sys.stderr)
    for directory in (Path(options.output_dir), checkpoint.parent):
        remove_leftovers(directory)
    _cut_log(Path(options.output_dir) / LOG, state)
    return state, *(read_tensors(checkpoint / name) for name in TENSORS)


def restore(parameters, optimizer, state, weights, moments):
    """Put what read_checkpoint returned into the parameters {name: live array} and their fresh optimizer."""
    restore_weights(parameters, weights)
    _copy_into(_named_moments(optimizer), moments)
    optimizer.step, optimizer.log_norm = state["updates"], state.get("log_norm")
    optimizer.exploded = state.get("exploded", 0)


def restore_weights(parameters, weights):
    """Put {name: array} of the host into {name: live array}."""
    _copy_into(parameters, weights)


def _checkpoints(directory):
    """([(directory, state)] of the whole ones, oldest first; {directory: what is wrong} of the damaged ones)."""
    whole, damaged = [], {}
    for place in (p for p in (Path(directory) / "checkpoints").glob("[!.]*") if p.is_dir()):
        try:
            state = read_json(place / "state.json")
            _require_state(state, place / "state.json")
            for name in TENSORS:
                require_whole(place / name)
            whole.append((place, state))
        except InputError as error:
            damaged[place] = str(error)
    return sorted(whole, key=lambda found: _progress(found[1])), damaged


def _progress(state):
    """How far a run was: the clock, which may have been set, is not asked."""
    stages = state["options"].get("stages") or []
    return (stages.index(state["stage"]) if state["stage"] in stages else 0, state["step"])


def _require_state(state, path):
    """InputError unless a state.json has what --resume reads of it."""
    if missing := sorted(NEEDED - state.keys()):
        raise InputError(f"{path}: no {', '.join(missing)} in it")
    for name, kind in KINDS.items():
        if name in state and not (isinstance(state[name], kind) and not isinstance(state[name], bool)):
            raise InputError(f"{path}: {name}: found {str(state[name])[:80]!r}, expected {kind}")
        if isinstance(state.get(name), int | float) and not abs(state[name]) <= sys.float_info.max:
            raise InputError(f"{path}: {name}: found a number that is too large, or none")
    if not isinstance(state["options"].get("stages", []), (list, type(None))):
        raise InputError(f"{path}: options: stages: expected a list")


def _named_moments(optimizer):
    """{m.NAME, v.NAME: live array}"""
    return {f"{kind}.{n}": pair[i] for n, pair in optimizer.moments.items() for i, kind in enumerate("mv")}


def _copy_into(arrays, tensors):
    other = [n for n, a in arrays.items() if n not in tensors or tensors[n].shape != tuple(a.shape)]
    if other:
        raise InputError(f"--resume: the checkpoint is of another model: tensors missing or mis-shaped: {other[0]}")
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
