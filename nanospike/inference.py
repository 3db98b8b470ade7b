"""From texts to labels, and from a labelled data set to a score: at equilibrium and spike by spike."""

import sys
import time
from pathlib import Path

import numpy as np

from .backend import to_host
from .config import InputError
from .simulate import gap
from .student import load_student, mean_rate
from .tasks import score, scores
from .text import collate, encode, in_length_order, label_names, load_tokenizer

PREDICT_STEPS = 32
VARIANTS = ("mismatched",)  # keys under which results hold those of another file of the same task


def bundled(*parts):
    """A path in the weights that come with the package; InputError if they are not there."""
    here = Path(__file__).resolve().parent
    for root in (here / "weights", here.parent / "weights"):
        if root.joinpath(*parts).exists():
            return root.joinpath(*parts)
    raise InputError(f"{here.parent / 'weights' / Path(*parts)}: not installed; name a model or a data directory")


def predict(directory, texts, time_steps=PREDICT_STEPS, device="cpu", batch_size=32):
    """Label texts with a student, spike by spike (differential drive; a leaky student: instant).

    texts: strings or pairs of strings. Returns a list of {label, score, time_steps}; score is the softmax of the label,
    or the output of a regression (label None).
    """
    if isinstance(texts, str):
        raise InputError(f"predict: found {texts!r}, expected a list of texts")
    texts = list(texts)
    for i, text in enumerate(texts):
        pair = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(p, str) for p in text)
        if not pair and not isinstance(text, str):
            raise InputError(f"predict: text {i}: found {text!r}, expected a string or a pair of strings")
    student = load_student(directory, device)
    names = label_names(directory)
    data = encode(load_tokenizer(directory), texts, student.config.max_position_embeddings) if texts else None
    results = [None] * len(texts)
    for index in in_length_order(data, batch_size) if texts else ():
        batch = collate(data, index, device)
        logits = to_host(
            student.simulate(
                batch.input_ids,
                batch.attention_mask,
                batch.token_type_ids,
                time_steps=time_steps,
                drive=drive_for(student),
                record=(),
            ).logits[time_steps]
        )
        for i, row in zip(index, logits, strict=True):
            results[i] = _answer(row, names) | {"time_steps": time_steps}
    return results


def drive_for(student):
    return "differential" if student.config.leak == 1 else "instant"


def _answer(logits, names):
    if logits.size == 1:
        return {"label": None, "score": float(logits[0])}
    odds = np.exp(logits - logits.max())
    best = int(logits.argmax())
    return {"label": names.get(best, str(best)), "score": float(odds[best] / odds.sum())}


def teacher_logits(teacher, data, batch_size=64):
    """Logits (n, C) of all examples, on the host."""
    rows = []
    for index in in_length_order(data, batch_size):
        batch = collate(data, index, teacher.device)
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        out, _ = teacher.forward(*inputs, differentiable=False)
        rows.append((index, to_host(out.logits)))
    return _in_order(rows, len(data))


def _in_order(rows, n):
    logits = np.zeros((n, rows[0][1].shape[1]), rows[0][1].dtype)
    for index, values in rows:
        logits[index] = values
    return logits


def evaluate_student(student, task, data, time_steps, *, drive=None, spikes=None, initial=None, batch_size=64):
    """Score a student on labelled data at equilibrium and at every one of `time_steps` of a spiking run.

    Returns {task, metric, examples, drive, spikes, equilibrium, spiking {"T": value}, metrics {equilibrium: {metric:
    value}, spiking: {"T": {metric: value}}}, equilibrium_gap {"T": value}, mean_rate, spiking_mean_rate, seconds,
    peak_memory_mb}; the scores are fractions.
    """
    logits, facts = run_student(
        student, data, time_steps, drive=drive, spikes=spikes, initial=initial, batch_size=batch_size
    )
    settled = logits.pop("equilibrium")
    return {
        "task": task.name,
        "metric": task.metric,
        "examples": len(data),
        "drive": facts.pop("drive"),
        "spikes": facts.pop("spikes"),
        "equilibrium": score(task, settled, data.labels),
        "spiking": {str(t): score(task, v, data.labels) for t, v in logits.items()},
        "metrics": {
            "equilibrium": scores(task, settled, data.labels),
            "spiking": {str(t): scores(task, v, data.labels) for t, v in logits.items()},
        },
        **facts,
    }


def run_student(student, data, time_steps, *, drive=None, spikes=None, initial=None, batch_size=64):
    """Settle a student on all examples, and run it spike by spike; labels are not needed.

    Returns ({"equilibrium" or time step: logits (n, C) on the host}, {drive, spikes, equilibrium_gap {"T": value},
    mean_rate, spiking_mean_rate, seconds, peak_memory_mb}). An ann student has an equilibrium only.
    """
    began, rows, gaps, firing, fired, weight = time.perf_counter(), {}, {}, 0.0, 0.0, 0
    drive, spiking = drive or drive_for(student), student.config.activation != "ann"
    steps = sorted(set(time_steps)) if spiking else []
    for index in in_length_order(data, batch_size):
        batch = collate(data, index, student.device)
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        settled = student.equilibrium(*inputs)
        rows.setdefault("equilibrium", []).append((index, to_host(settled.logits)))
        tokens = int(batch.attention_mask.sum())
        firing, weight = firing + tokens * mean_rate(settled, batch.attention_mask), weight + tokens
        last = settled.hidden_states[-1]
        del settled  # the rates of all populations are not needed through the simulation
        if not steps:
            continue
        run = student.simulate(*inputs, time_steps=steps[-1], drive=drive, spikes=spikes, initial=initial, record=steps)
        width = sum(rates.shape[2] for rates in run.rates.values())
        fired += sum(float(c.sum()) for c in run.spike_counts.values()) / (width * run.time_steps)
        per_example = batch.attention_mask.sum(axis=1)
        for t in steps:
            rows.setdefault(t, []).append((index, to_host(run.logits[t])))
            gaps_here = gap(run.output_rates[t], last, batch.attention_mask)
            gaps[t] = gaps.get(t, 0.0) + float((gaps_here * per_example).sum())
    return {k: _in_order(v, len(data)) for k, v in rows.items()}, {
        "drive": drive if spiking else None,
        "spikes": (spikes or student.config.spikes) if spiking else None,
        "equilibrium_gap": {str(t): gaps[t] / weight for t in steps},
        "mean_rate": firing / weight if spiking else None,
        "spiking_mean_rate": fired / weight if spiking else None,
        "seconds": round(time.perf_counter() - began, 2),
        "peak_memory_mb": peak_memory_mb(),
    }


def with_teacher(results, task, teacher, data, batch_size=64):
    """The results of a student, and its teacher's on the same examples. teacher None: not known."""
    if teacher is None:
        return {"teacher": None} | results
    logits = teacher_logits(teacher, data, batch_size)
    metrics = {"teacher": scores(task, logits, data.labels)} | results.get("metrics", {})
    return {"teacher": score(task, logits, data.labels)} | results | {"metrics": metrics}


def nested(by_split):
    """The results of a task: those of its first split, and of each variant under its name, such as mismatched."""
    first, *others = by_split
    return by_split[first] | {name.partition("_")[2]: by_split[name] for name in others}


def peak_memory_mb():
    """Largest resident memory of this process so far; nan where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def table(results):
    """The evaluation as lines of text: one row per measurement; a variant of the data (mismatched) below."""
    lines = [f"{results['task']}, {results['metric']}, {results['examples']} examples"]
    if results.get("teacher") is not None:
        lines.append(f"  {'teacher':<28}{_percent(results, 'teacher')}")
    lines.append(f"  {'student at equilibrium':<28}{_percent(results, 'equilibrium')}")
    if results["spiking"]:
        lines.append(f"  spike by spike ({results['drive']} drive, {results['spikes']} spikes)      equilibrium gap")
    for t in results["spiking"]:
        gap = f"{results['equilibrium_gap'][t]:15.4f}"
        lines.append(f"    {'T = ' + t:<26}{_percent(results, 'spiking', t, between=gap)}")
    if results["mean_rate"] is not None:
        lines.append(f"  {'mean firing rate':<28}{results['mean_rate']:8.4f} spikes per neuron and time step")
    variants = [v | {"task": f"{results['task']} {k}"} for k, v in results.items() if k in VARIANTS]
    return "\n".join([*lines, *map(table, variants)])


def _percent(results, *path, between=""):
    """The score in percent, and the task's single metrics behind it where there are several."""
    value, metrics = results, results["metrics"]
    for key in path:
        value, metrics = value[key], metrics[key]
    several = ", ".join(f"{name} {100 * v:.2f}" for name, v in metrics.items()) if len(metrics) > 1 else ""
    return f"{100 * value:6.2f} %{between}" + (f"   {several}" if several else "")
