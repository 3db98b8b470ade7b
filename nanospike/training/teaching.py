"""The distillation step: what the teacher says of a batch, the student's gradients, and what the log tells of both."""

import functools
import math
import sys
import warnings
from dataclasses import replace

import numpy as np

from ..arrays.backend import library, random_generator, to_device
from ..arrays.recorded import Recorded, can_record
from ..arrays.tree import RowSum, leaves, summed
from ..data.text import Batch
from ..model.equilibrium import FrozenDropout, Loop
from ..model.gradients import Gradients
from ..model.loss import LossWeights, Targets
from ..model.recurrence import project
from ..model.simulate import SpikingRun
from ..model.student import mean_rate
from .classifier_fit import begin_with_classifier
from .loop import Stage
from .monitor import Monitor, gap_probe
from .options import WITH_LOGITS, part_of
from .parallel import world
from .pruning import Pruning
from .stability import Stability
from .teacher_cache import computed, parts_of, targets

SMALL = 4096  # numbers of a gradient of which every graph may have its own
LENGTHS = 8  # word pieces: batches on a GPU are padded to multiples of it


def loss_terms(options, stage):
    """The LossWeights of a stage."""
    common = {"temperature": options.temperature, "layer_map": options.layer_map or None}
    common["spikes"] = options.spike_penalty_in(stage)
    if stage not in WITH_LOGITS:
        return LossWeights(**common, hidden=options.hidden, attention=options.attention, logits=0.0, labels=0.0)
    return LossWeights(
        **common,
        hidden=options.hidden * options.keep_internal,
        attention=options.attention * options.keep_internal,
        logits=options.logits,
        labels=options.labels,
    )


def stages_of(options, teacher, student, data, workers, masking=None):
    """The Stages of a run. masking: the text.Masking of all of them."""
    stages, graphs = [], can_graph(options, student)
    if graphs:
        print("each update asks a GPU for one graph of launches", file=sys.stderr)
    if options.device == "cuda" and options.teacher_cache not in (0, type(options).teacher_cache):
        print("--teacher-cache: not on a GPU, which computes the teacher in every step", file=sys.stderr)
    for name, epochs, rate in zip(options.stages, options.epochs, options.learning_rate, strict=True):
        stage = Stage(name, data[name], None, epochs, rate)
        outputs = teacher_outputs_of(options, teacher, student, stage, workers)
        monitor = monitor_of(student, options, name, data[name])
        learn = gradients(outputs, student, options, name, workers, monitor, masking)
        most = min(student.config.max_position_embeddings, teacher.config.usable_positions)
        padded = functools.partial(in_few_lengths, most=most) if graphs else stage.padded
        stages.append(replace(stage, gradients=learn, prepare=outputs, project=project, padded=padded))
    if options.prune:
        pruning = Pruning(student, stages[-1].data, options.prune, workers)
        stages[-1] = replace(stages[-1], begin=pruning.begin, project=pruning.project)
    if (i := first_with_logits(options)) is not None:
        fit = functools.partial(begin_with_classifier, student, teacher, stages[i].data, workers)
        stages[i] = replace(stages[i], begin=functools.partial(_both, stages[i].begin, fit))
    return stages


def first_with_logits(options):
    """The number of the stage before which a classifier is fitted; None where none is."""
    if options.classifier != "fitted":
        return None
    return next(i for i, name in enumerate(options.stages) if name in WITH_LOGITS)


def _both(first, second, start):
    first(start)
    second(start)


def cache_of(options):
    return options.cache_dir or options.output_dir / "cache"


def teacher_outputs_of(options, teacher, student, stage, workers):
    """() -> (batch -> TeacherOutput) of a stage: from the cache where epochs, or runs with the same one, repeat.

    With masked word pieces nothing repeats.
    """
    repeats = options.cache_dir or stage.steps(options) > math.ceil(len(stage.data) / options.batch_size)
    parts = parts_of(student.config.num_hidden_layers, teacher, loss_terms(options, stage.name))
    if not options.teacher_cache or not repeats or options.mask or options.device == "cuda":
        return lambda: functools.partial(computed, teacher, parts=parts)
    return targets(teacher, stage.data, parts, cache_of(options), options.teacher_cache * 1e9, workers)


def monitor_of(student, options, stage, data):
    """The Monitor of a stage on `data` (text.Encoded); None for an ann student."""
    if student.config.activation == "ann":
        return None
    return Monitor(stage, gap_probe(student, data, options.drive), options.probe_every, options.log_every)


def gradients(teacher_outputs, student, options, stage, workers, monitor=None, masking=None):
    """Stage.gradients of the distillation loss.

    teacher_outputs: () -> the function batch -> TeacherOutput, asked once per step and before any part of it begins.
    monitor: a monitor.Monitor. masking: a text.Masking.
    """
    xp = library(student.device)
    weights, simulation = loss_terms(options, stage), None
    if weights.labels and options.class_weights:
        weights = replace(weights, classes=to_device(options.class_factors, student.device))
    if options.forward == "spikes" or stage == "few-steps":
        steps = options.few_steps if stage == "few-steps" else (max(options.time_steps),)
        simulation = SpikingRun(time_steps=max(steps), record=steps, drive=options.drive)
    stability = Stability(student.parameters())
    loop = Loop(
        forward_solver=options.forward_solver, adjoint_solver=options.adjoint_solver,
        adjoint_rtol=options.adjoint_rtol or None, drop_failed=True, jacobian_penalty=options.jacobian_penalty,
    )  # fmt: skip

    def part(batch, seed, totals, teacher_output, student, run):
        if masking:
            batch = masking(batch, seed[:3])
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        dropout = FrozenDropout(options.dropout, random_generator(xp, (*seed, 1))) if options.dropout else None
        target = Targets(teacher_output(batch), batch.labels if weights.labels else None, totals)
        return student.gradients(inputs, target, weights, replace(loop, seed=seed), run, dropout)

    shared = {}  # see in_places

    def at_once(ids, mask, types, labels, run):
        """(terms, {name: gradient}) of an update on a GPU, from what differs between updates alone."""
        batch = Batch(ids, mask, types, labels, None)
        target = Targets(teacher_outputs()(batch), labels if weights.labels else None)
        result = student.computing().gradients((ids, mask, types), target, weights, loop, run)
        return result.terms, in_places(dict(leaves(result.grads)), shared)

    recorded = Recorded(at_once) if can_graph(options, student) else None

    def graphed(batch, seed, run):
        """The same from a graph, whose arrays the next update overwrites; the equilibrium is solved for when asked."""
        if masking:
            batch = masking(batch, seed[:3])
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        terms, kept = recorded(*inputs, batch.labels, run)
        grads = {n: g.copy() if isinstance(g, RowSum) else g for n, g in kept.items()}
        settled = functools.partial(student.equilibrium, *inputs)
        return Gradients(terms, grads, settled, adjoint=None, examples=len(batch.index))

    def step(batches, seed, totals):
        if not batches:
            stability.after([])
            return {}, {}, dict
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # solves that fail are counted and logged below
            run = None if stage == "few-steps" and at_equilibrium(seed[2], options.settled_share) else simulation
            if recorded:
                results = [graphed(*batches, seed, run)]
            else:
                teacher_output = teacher_outputs()
                now = student.computing(workers)  # low-bit weights are made once for all parts of the batch
                jobs = [(batch, (*seed, i), totals, teacher_output, now, run) for i, batch in enumerate(batches)]
                results = workers.map(lambda job: part(*job), jobs)
        stability.after(results)
        values = {name: sum(r.terms[name] for r in results) for name in results[0].terms}
        grads = summed([dict(leaves(r.grads)) for r in results], workers)
        return values, grads, lambda: notes(student, results, batches, stability, monitor, seed[2] + 1)

    return step


def can_graph(options, student):
    """Whether the gradients of an update are one graph of launches, which depends on the shape of its batch alone."""
    if options.device != "cuda" or not options.graphs or not can_record() or world().size > 1:
        return False
    return not (options.dropout or options.jacobian_penalty or student.config.recurrent)


def in_places(gradients, shared):
    """The same {name: array or RowSum} with the large arrays copied into those of `shared` {name: array}, which grows:
    else every graph would hold its own of them."""
    moved = dict(gradients)
    for name, gradient in gradients.items():
        if not isinstance(gradient, RowSum) and gradient.size > SMALL:
            place = shared.setdefault(name, gradient)
            if place is not gradient:
                place[...] = gradient
            moved[name] = place
    return moved


def in_few_lengths(longest, most):
    """The length to which a batch is padded, so that there are few of them: a multiple of LENGTHS, or the `most`."""
    return max(longest, min(most, -(-longest // LENGTHS) * LENGTHS))


def at_equilibrium(step, share):
    """Whether this update (from 0) of the stage few-steps is one of the `share` that are taken at the equilibrium."""
    return int(part_of(share, step)) != int(part_of(share, step - 1))


def notes(student, results, batches, stability, monitor=None, step=0):
    """What a line of the log after update `step` says about the student's state: over all parts of a batch."""
    spiking = student.config.activation != "ann"
    tokens = [int(b.attention_mask.sum()) for b in batches]
    rates = [mean_rate(r.equilibrium, b.attention_mask) for r, b in zip(results, batches, strict=True) if spiking]
    values = {"mean_rate": float(np.average(rates, weights=tokens)) if spiking else None}
    if results[0].adjoint is not None:
        values |= {
            "equilibrium_sweeps": max(r.equilibrium.iterations for r in results),
            "equilibrium_residual": max(r.equilibrium.residual for r in results),
            "adjoint_sweeps": max(r.adjoint.iterations for r in results),
            "adjoint_residual": max(r.adjoint.residual for r in results),
            **stability.notes(),
        }
    if monitor is not None:
        parts = [(r.equilibrium.rates, b.attention_mask) for r, b in zip(results, batches, strict=True)]
        values |= monitor.notes(parts, step)
    return values
