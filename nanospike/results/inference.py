"""A labelled data set to a score, at equilibrium and spike by spike, and what both have in common with labelling."""

import math
import sys
import time
import warnings
from dataclasses import replace
from threading import Lock

import numpy as np

from ..arrays.backend import to_host
from ..arrays.workers import ALONE
from ..config.errors import InputError
from ..data.metrics import standard_error
from ..data.tasks import answers, confusion, score, scores
from ..data.text import collate, in_length_order
from ..files.tensors import all_finite
from ..model.simulate import SpikingRun, gap
from ..model.student import mean_rate
from ..training.monitor import silent_and_full
from ..training.progress import counted

# Examples, where nothing else is asked for. On a CPU what a step of them needs stays in its last-level cache; with
# fewer a GPU waits for Python.
AT_A_TIME = {"cpu": 32, "cuda": 256}
VARIANTS = ("mismatched", "test")  # keys under which results hold those of another file of the same task
SURELY = 3  # standard errors
FEW = 30  # examples, below which a score says how little it is worth
IN_UNITS = ("rmse",)  # metrics that are no fractions


def require_head(student):
    """InputError for a student that was distilled on general text only."""
    if student.config.headless:
        raise InputError(f"{student.directory}: its classifier was never trained; distil it for a task with --init")


def drive_for(student):
    return "differential" if student.config.leak == 1 else "instant"


def batches_of(data, batch_size, device):
    """Index arrays of all examples, the longest first: the load is even. batch_size: 0: as many as suits the device."""
    return in_length_order(data, batch_size or AT_A_TIME[device])[::-1]


def teacher_logits(teacher, data, batch_size=0, workers=ALONE):
    """Logits (n, C) of all examples, on the host."""

    def logits_of(index):
        batch = collate(data, index, teacher.device)
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        out, _ = teacher.forward(inputs, differentiable=False)
        return index, to_host(out.logits)

    return _in_order(workers.map(logits_of, batches_of(data, batch_size, teacher.device)), len(data))


def _in_order(rows, n):
    logits = np.zeros((n, rows[0][1].shape[1]), rows[0][1].dtype)
    for index, values in rows:
        logits[index] = values
    return all_finite(logits, "the answers of the model, whose weights are too large")


def evaluate_student(student, task, data, time_steps, how=SpikingRun(), batch_size=0, workers=ALONE):  # noqa: B008
    """Score a student on labelled data at equilibrium and at every one of `time_steps` of a spiking run.

    how, batch_size, workers: see run_student. Returns {task, metric, examples, drive, spikes, equilibrium, spiking
    {"T": value}, metrics {equilibrium: {metric: value}, spiking: {"T": {metric: value}}}, equilibrium_gap {"T": value},
    mean_rate, spiking_mean_rate, rates {population: {rate, dead, saturated}}, seconds, peak_memory_mb}; with a margin
    also mean_time_steps, with how.count also counts, a counting.Counts; scores are fractions.
    """
    logits, facts = run_student(student, data, time_steps, how, batch_size, workers)
    about = {"task": task.name, "metric": task.metric, "examples": len(data)}
    neurons = {name: facts.pop(name) for name in ("drive", "spikes")}
    return about | neurons | scored(task, logits, data.labels) | facts


def scored(task, logits, labels):
    """{metric, equilibrium, spiking, metrics} and, of a set of one's own, confusion: of the logits of run_student."""
    settled, spiking = logits["equilibrium"], {t: v for t, v in logits.items() if t != "equilibrium"}
    return {
        "metric": task.metric,
        "equilibrium": score(task, settled, labels),
        "spiking": {str(t): score(task, v, labels) for t, v in spiking.items()},
        "metrics": {
            "equilibrium": scores(task, settled, labels),
            "spiking": {str(t): scores(task, v, labels) for t, v in spiking.items()},
        },
        **_confusions(task, {"equilibrium": settled} | {f"T = {t}": v for t, v in spiking.items()}, labels),
    }


def _confusions(task, logits, labels):
    """{confusion: {what gave the logits: table}} of {what: logits}, {} where none is to be made."""
    tables = {name: confusion(task, v, labels) for name, v in logits.items()}
    return {"confusion": tables} if any(tables.values()) else {}


def run_student(student, data, time_steps, how=SpikingRun(), batch_size=0, workers=ALONE):  # noqa: B008
    """Settle a student on all examples, and run it spike by spike as `how` says; labels are not needed.

    Returns ({"equilibrium" or time step: logits (n, C) on the host}, {drive, spikes, equilibrium_gap {"T": value},
    mean_rate, spiking_mean_rate, rates, seconds, peak_memory_mb}), with a margin (Student.simulate) also
    mean_time_steps, with how.count also counts. An ann student has an equilibrium only.
    """
    began = time.perf_counter()
    spiking = student.config.activation != "ann"
    steps = sorted(set(time_steps)) if spiking else []
    if spiking:
        how = replace(how, time_steps=max(steps, default=1), record=tuple(steps)).resolved(student.config)
    simulate, counts = student.prepared(how) if steps else None, Sum()

    def measure(index):
        part = _measured(student, simulate, collate(data, index, student.device), steps)
        counts.add(part.pop("counts", None))
        return part

    measure = counted("evaluating", len(data), measure)
    found = workers.map(measure, batches_of(data, batch_size, student.device))
    tokens = sum(f["tokens"] for f in found)
    mean = lambda name: sum(f[name] for f in found) / tokens if spiking else None  # noqa: E731
    logits = {k: _in_order([(f["index"], f["logits"][k]) for f in found], len(data)) for k in found[0]["logits"]}
    facts = {
        "drive": how.drive if spiking else None,
        "spikes": how.spikes if spiking else None,
        "arithmetic": how.arithmetic if spiking else None,
        "equilibrium_gap": {str(t): sum(f["gaps"][t] for f in found) / tokens for t in steps},
        "mean_rate": mean("firing"),
        "spiking_mean_rate": mean("fired") if steps else None,
        "rates": _rates([f["rates"] for f in found], tokens) if spiking else {},
        "seconds": round(time.perf_counter() - began, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    if how.margin is not None:
        facts["mean_time_steps"] = sum(f["steps"] for f in found) / len(data)
    if how.count and steps:
        facts["counts"] = counts.total
    return logits, facts


class Sum:
    """A sum to which several threads add; of whole numbers, so that the order does not matter. None adds nothing."""

    def __init__(self):
        self.total, self.lock = None, Lock()

    def add(self, value):
        if value is not None:
            with self.lock:
                self.total = value if self.total is None else self.total + value


def _rates(parts, tokens):
    """{population: {rate, dead, saturated}} at equilibrium, of [{population: (sum of |rates|, dead, saturated)}].

    rate: spikes per neuron and time step; dead, saturated: shares of its neurons that were so at every real token.
    """
    found = {}
    for name in parts[0]:
        sums, dead, full = zip(*(part[name] for part in parts), strict=True)
        dead, full = np.logical_and.reduce(dead), np.logical_and.reduce(full)
        rate = sum(sums) / (tokens * len(dead))
        found[name] = {"rate": rate, "dead": float(dead.mean()), "saturated": float(full.mean())}
    return found


def population_rates(settled, mask):
    """{population: {rate, dead, saturated}} of one equilibrium.   mask (B, L)"""
    return _rates([_looked_at(settled, mask)], int(mask.sum()))


def _looked_at(settled, mask):
    """{population: (sum of |rates| of real tokens, (W,) whether dead, (W,) whether saturated)} of an equilibrium."""
    sums = {name: float((abs(r).sum(axis=2) * mask).sum()) for name, r in settled.rates.items()}
    return {name: (sums[name], *marks) for name, marks in silent_and_full(settled.rates, mask).items()}


def _measured(student, simulate, batch, steps):
    """What one batch adds to run_student: logits on the host, and sums over its tokens or examples."""
    inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    settled = student.equilibrium(*inputs)
    lengths = batch.attention_mask.sum(axis=1)
    tokens, spiking = int(lengths.sum()), student.config.activation != "ann"
    found = {"index": batch.index, "tokens": tokens, "logits": {"equilibrium": to_host(settled.logits)}}
    found["firing"] = tokens * mean_rate(settled, batch.attention_mask) if spiking else 0.0
    found["rates"] = _looked_at(settled, batch.attention_mask) if spiking else {}
    last = settled.hidden_states[-1]
    del settled  # the rates of all populations are not needed through the simulation
    if not steps:
        return found
    run = simulate(inputs)
    width = sum(rates.shape[2] for rates in run.rates.values())
    per_step = sum(to_host(c).astype(float) for c in run.spike_counts.values()) / run.steps  # (B,)
    found |= {"fired": float(per_step.sum()) / width, "steps": int(run.steps.sum()), "counts": run.counts}
    found["logits"] |= {t: to_host(run.logits[t]) for t in steps}
    gaps = {t: gap(run.output_rates[t], last, batch.attention_mask) for t in steps}
    return found | {"gaps": {t: float((g * lengths).sum()) for t, g in gaps.items()}}


def warn_below_chance(task, logits, labels, where):
    """A warning where a classifier is surely worse than guessing: it may name its classes in another order."""
    if not task.labels:
        return
    chance, right = 1 / len(task.labels), float((answers(task, logits) == labels).mean())
    if right + SURELY * math.sqrt(chance * (1 - chance) / len(labels)) < chance:
        told = f"right on {100 * right:.1f} % of {len(labels)} examples, where guessing is on {100 * chance:.1f} %"
        warnings.warn(f"{where}: {told}: are its classes in another order than those of {task.name}?", stacklevel=2)


def with_teacher(results, task, teacher, data, batch_size=0, workers=ALONE):
    """The results of a student, and its teacher's on the same examples. teacher None: not known."""
    if teacher is None:
        return {"teacher": None} | results
    logits = teacher_logits(teacher, data, batch_size, workers)
    warn_below_chance(task, logits, data.labels, teacher.directory)
    metrics = {"teacher": scores(task, logits, data.labels)} | results.get("metrics", {})
    found = {"teacher": score(task, logits, data.labels)} | results | {"metrics": metrics}
    if tables := _confusions(task, {"teacher": logits}, data.labels):
        found["confusion"] = tables["confusion"] | results.get("confusion", {})
    return found


def confusion_table(results, task):
    """The confusion of the last measurement as text: a row for each class, a column for each answer; "" without one."""
    tables, names = results.get("confusion"), list(task.labels)
    if not tables:
        return ""
    of, counts = list(tables.items())[-1]
    width = max(len(str(n)) for row in counts for n in row) + 2
    short = [n[:24] for n in names]
    first = max(map(len, short)) + 2
    heads = [f"({i})" for i in range(len(names))]
    width = max(width, len(heads[-1]) + 2)
    lines = [f"  confusion, {of}: {'label':>{max(0, first - 5)}}   taken for" + "".join(f"{h:>{width}}" for h in heads)]
    start = len(lines[0]) - width * len(names)
    for head, name, row in zip(heads, short, counts, strict=True):
        lines.append(f"{name + ' ' + head:>{start}}" + "".join(f"{n:>{width}}" for n in row))
    return "\n".join(lines)


def nested(by_split):
    """The results of a task: those of its first split, and of each variant under its name, such as mismatched."""
    first, *others = by_split
    return by_split[first] | {name.partition("_")[2] or name: by_split[name] for name in others}


def peak_memory_mb():
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def of_few(results):
    """In words, how little the scores of few examples say; "" of more."""
    score = next((results[k] for k in ("equilibrium", "teacher") if results.get(k) is not None), None)
    if score is None or not 0 < results["examples"] < FEW:
        return ""
    error = standard_error(results["metric"], score, results["examples"])
    return f"only {results['examples']} examples: a score has a standard error of about {100 * error:.0f} %"


def spent(seconds, memory):
    """What a run took, in words; memory: that of peak_memory_mb."""
    return f"{seconds:.0f} s" + (f", {memory:.0f} MB" if memory is not None else "")


def table(results):
    """The evaluation as lines of text: one row per measurement; a variant of the data (mismatched) below."""
    about = (results["task"], results["metric"], f"{results['examples']} examples")
    lines = [", ".join(part for part in about if part)]
    if few := of_few(results):
        lines.append(f"  {few}")
    if results.get("teacher") is not None:
        lines.append(f"  {'teacher':<28}{_percent(results, 'teacher')}")
    if results["equilibrium"] is not None:
        lines.append(f"  {'student at equilibrium':<28}{_percent(results, 'equilibrium')}")
    else:  # of a student without a task there is nothing to score
        lines += [f"  {'equilibrium gap, T = ' + t:<28}{gap:8.4f}" for t, gap in results["equilibrium_gap"].items()]
    if results["spiking"]:
        whole = ", integers" if results.get("arithmetic") == "integer" else ""
        lines.append(
            f"  spike by spike ({results['drive']} drive, {results['spikes']} spikes{whole})      equilibrium gap"
        )
    for t in results["spiking"]:
        gap = f"{results['equilibrium_gap'][t]:15.4f}"
        lines.append(f"    {'T = ' + t:<26}{_percent(results, 'spiking', t, between=gap)}")
    if results.get("mean_time_steps") is not None:
        lines.append(f"  {'mean time steps':<28}{results['mean_time_steps']:8.2f}, each until its decision is clear")
    if results["mean_rate"] is not None:
        lines.append(f"  {'mean firing rate':<28}{results['mean_rate']:8.4f} spikes per neuron and time step")
    variants = [v | {"task": f"{results['task']} {k}"} for k, v in results.items() if k in VARIANTS and "metric" in v]
    return "\n".join([*lines, *map(table, variants)])


def _percent(results, *path, between=""):
    """The score in percent, and the task's single metrics behind it where there are several."""
    value, metrics = results, results["metrics"]
    for key in path:
        value, metrics = value[key], metrics[key]
    shown = {n: f"{v:.4g}" if n in IN_UNITS else f"{100 * v:.2f}" for n, v in metrics.items()}
    several = ", ".join(f"{name} {v}" for name, v in shown.items() if name != results["metric"])
    return f"{100 * value:6.2f} %{between}" + (f"   {several}" if several else "")
