"""One command over several GLUE tasks: each in a directory of its own, and what they gave together."""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from .config.errors import InputError
from .config.options import flag
from .data.tasks import TASKS, find_task, submission_name
from .files.model_files import read_json, require_empty, write_json
from .results.inference import VARIANTS
from .training.parallel import world
from .training.resume import has_checkpoint, last_checkpoint, stopped_early

RESULTS = "eval_results.json"  # what a command leaves behind when it is done with a task
SHARED = ("metric", "examples", "metrics", *VARIANTS)  # of a task's results, what the results of all repeat
TASK_HELP = "GLUE task, such as sst-2; a comma list or all: each in its own subdirectory"


def run_tasks(options, prepare, run, models=()):
    """run(*prepare(options)) for options.task; for `all` or a comma list, for each task in OUTPUT_DIR/TASK.

    prepare(options) reads and checks what the run needs; of several tasks, it is called for every one before the first
    is run, so that what is missing stops the command at once. run(*prepared) returns the task's results. models:
    options that then name a directory with one model per task, of which the first is required.
    """
    if options.task is None or (options.task != "all" and "," not in options.task):  # None: data of one's own
        run(*prepare(options))
        return
    for name in models[:1]:
        if getattr(options, name) is None:
            raise InputError(f"{flag(name)}: needed for --task {options.task}: a directory with one in each DIR/TASK")
    plans = {name: _of_task(options, name, models) for name in task_names(options)}
    _check(options, prepare, plans.values())
    results = {}
    for name, plan in plans.items():
        results[name] = world().once(_results_of, plan) or run(*prepare(plan))
        if world().rank == 0:
            _save(options.output_dir, results)
    if world().rank == 0 and (scored := {n: r for n, r in results.items() if "metrics" in r}):
        print(summary_table(scored))


def _results_of(plan):
    """The results of a task that an earlier run finished, on --resume; None if it is to be run."""
    done = getattr(plan, "resume", False) and (plan.output_dir / RESULTS).exists()
    return read_json(plan.output_dir / RESULTS) if done else None


def task_names(options):
    """The tasks meant: those of a comma list, or of `all` whose folders lie below the GLUE directory."""
    if options.task != "all":
        names = dict.fromkeys(name.strip() for name in options.task.split(",") if name.strip())
        return [find_task(name).name for name in names or [options.task]]
    tested = getattr(options, "split", "").startswith("test")
    tasks = [t for t in TASKS.values() if t.name != "opinions" and (tested or not t.model)]
    if found := [t.name for t in tasks if (Path(options.data_dir) / t.folder).is_dir()]:
        return found
    raise InputError(f"--data-dir {options.data_dir}: found none of the folders {', '.join(t.folder for t in tasks)}")


def _of_task(options, name, models):
    """The options of the run of one task. On --resume, one that has not begun begins."""
    models = [m for m in models if getattr(options, m) is not None]
    own = {"task": name} | {m: getattr(options, m) / (find_task(name).model or name) for m in models}
    if options.output_dir is not None:
        own["output_dir"] = options.output_dir / name
        if getattr(options, "resume", False):
            own["resume"] = world().once(_begun, own["output_dir"])
    return replace(options, **own)


def _begun(directory):
    """Whether the run of one task was begun in its directory."""
    return has_checkpoint(directory) or (stopped_early(directory) and not (directory / RESULTS).exists())


def _check(options, prepare, plans):
    """InputError if any of the runs could not begin."""
    if options.output_dir is not None and not getattr(options, "resume", False):
        world().once(require_empty, options.output_dir)
    elif options.output_dir is not None and not any(plan.resume for plan in plans):
        world().once(last_checkpoint, options)  # says that there is none
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again when the task is run
        for plan in plans:
            prepare(plan)


def _save(directory, results):
    """glue_results.json of the tasks that were scored; the predictions of the others under GLUE's names."""
    if directory is None:
        return
    if scored := {n: r for n, r in results.items() if "metrics" in r}:
        write_json(directory / "glue_results.json", summary(scored))
    for name, result in results.items():
        for split, file in result.get("predictions", {}).items():
            (directory / "submission").mkdir(exist_ok=True)
            target = directory / "submission" / submission_name(TASKS[name], split)
            shutil.copyfile(directory / name / file, target)


def summary(results):
    """{average, tasks {name: {score, metric, examples, metrics}}} of {name: results}; scores as in task_score."""
    scores = {name: task_score(r) for name, r in results.items()}
    tasks = {n: {"score": scores[n]} | {k: r[k] for k in SHARED if k in r} for n, r in results.items()}
    return {"average": average(list(scores.values())), "tasks": tasks}


def task_score(results):
    """{teacher, equilibrium, spiking {"T"}}, what is known of them: the mean of the task's metrics, as GLUE takes it,
    and of its files (MNLI matched and mismatched).
    """
    return average([_means(r["metrics"]) for r in (results, *(results[v] for v in VARIANTS if v in results))])


def _means(metrics):
    """Every innermost {metric: value} replaced by its mean."""
    if metrics and not any(isinstance(v, dict) for v in metrics.values()):
        return fmean(metrics.values())
    return {key: _means(value) for key, value in metrics.items()}


def average(scores):
    """The mean of nested dicts of numbers, entry by entry: of those entries that all of them have."""
    first, *others = scores
    if not isinstance(first, dict):
        return fmean(scores)
    return {k: average([s[k] for s in scores]) for k in first if all(k in s for s in others)}


def summary_table(results):
    """One line per task, the mean of its metrics in percent, and their average."""
    whole = summary(results)
    rows = {n: (f"{t['examples']:d}", _metric_names(t), t["score"]) for n, t in whole["tasks"].items()}
    rows["average"] = ("", "", whole["average"])
    flat = {n: (*first, _flat(score)) for n, (*first, score) in rows.items()}
    columns = list(dict.fromkeys(c for *_, score in flat.values() for c in score))
    lines = [f"{'task':<9}{'examples':>9}  {'metric':<18}" + "".join(f"{c:>12}" for c in columns)]
    for name, (examples, metric, score) in flat.items():
        cells = "".join(f"{100 * score[c]:>12.2f}" if c in score else f"{'-':>12}" for c in columns)
        lines.append(f"{name:<9}{examples:>9}  {metric:<18}{cells}")
    return "\n".join(lines)


def _metric_names(task):
    first = next(iter(task["metrics"].values()))
    return ", ".join(first) + (", m and mm" if any(v in task for v in VARIANTS) else "")


def _flat(score):
    spiking = {f"T = {t}": v for t, v in score.get("spiking", {}).items()}
    return {k: v for k, v in score.items() if k != "spiking"} | spiking
