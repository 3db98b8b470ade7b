"""The training loop that the commands share: batches, updates, log, checkpoints, resume.

The order of the data is a function of (seed, stage, epoch), every random number one of (seed, stage, step, part of the
batch), so that a run that is resumed with as many workers goes on exactly where it was.
"""

import json
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..arrays.workers import Workers, few_collections, give_memory_back, shares
from ..config.errors import InputError
from ..config.options import flag, plain
from ..data.text import batch_order, collate
from ..files.model_files import finite
from ..model.loss import Totals
from .optim import Diverged, linear_schedule
from .optim_device import optimizer_of
from .options import part_of
from .parallel import Sums, world
from .progress import progress
from .resume import (
    LOG,
    Position,
    has_checkpoint,
    note_divergence,
    read_best,
    read_checkpoint,
    restore,
    restore_weights,
    write_checkpoint,
)

STAGE_SEEDS = {"finetune": 1, "general": 2, "internal": 3, "prediction": 4, "few-steps": 5}


class Stopped(KeyboardInterrupt):
    """A Ctrl-C after which all processes end together, having saved."""


@dataclass(frozen=True)
class Stage:
    """One stage of training on `data` (text.Encoded or corpus.TokenStore).

    gradients(batches, rng_seed, totals) -> (terms {name: 0-d array}, grads {name: array or RowSum}, notes: () -> dict
    of numbers that are only worth computing for a line of the log), of one batch that comes in parts (text.Batch) and
    the loss.Totals of the whole; without parts (more MPI ranks than examples) all are empty. rng_seed: run, stage,
    step, and the number of the first part, another on every MPI rank. prepare(): what is to be done before the first
    of them, such as to fill a cache on disk.
    """

    name: str
    data: object
    gradients: Callable
    epochs: float
    learning_rate: float
    prepare: Callable = lambda: None
    begin: Callable = lambda start: None  # before its first update, and where --resume goes on after `start` of them
    project: Callable = lambda parameters: None  # after every update: puts those parameters back that have left a set
    padded: Callable = lambda longest: longest  # to how many word pieces a batch is padded whose longest text has those
    score: Callable | None = None  # () -> how good the weights are, for every checkpoint; then each epoch ends with one

    def steps(self, options):
        wanted = max(1, math.ceil(part_of(self.epochs, self._per_epoch(options))))
        return min(wanted, options.max_steps) if options.max_steps else wanted

    def saves_after(self, step, options):
        """Whether a checkpoint is due after the update of this number, counted from 1."""
        due = options.save_every and step % options.save_every == 0
        return bool(due or (self.score and step % self._per_epoch(options) == 0))

    def _per_epoch(self, options):
        return math.ceil(len(self.data) / options.batch_size)

    def batches(self, options, start):
        """Index arrays of the batches from step `start` on: the same whenever they are asked for."""
        per_epoch = self._per_epoch(options)
        epoch = start // per_epoch
        while True:
            order = batch_order(self.data.lengths, options.batch_size, (options.seed, STAGE_SEEDS[self.name], epoch))
            yield from (order[i] for i in range(max(0, start - epoch * per_epoch), per_epoch))
            epoch += 1


class Run:
    """An output directory with its log and checkpoints, and the parameters in training ({name: live array})."""

    def __init__(self, options, parameters):
        self.options, self.parameters = options, parameters
        self.world = world()
        self.workers = Workers(options.workers or self.world.threads, options.device)
        self.worker_counts = self.world.gathered(self.workers.size)  # of all ranks: what 0 stood for
        self.first_part = sum(self.worker_counts[: self.world.rank])
        self.log_path = Path(options.output_dir) / LOG
        self.interrupted = self.signalled = False  # the first is what all ranks know of the second

    def train(self, stages):
        """Train the stages in turn; returns a summary {stage: {steps, loss, seconds}}."""
        begun = self.options.resume and self.world.once(has_checkpoint, self.options.output_dir)
        position, summary, restored = self._restore() if begun else ({}, {}, None)
        self.world.require_same(self.parameters)
        for stage in stages:
            if stage.name in summary:  # it was done before the run was interrupted
                continue
            self.world.in_turn(stage.prepare)  # a Ctrl-C in it ends the run at once: nothing has been learnt since
            give_memory_back()
            start, optimizer = 0, self._optimizer()  # fresh moments: its loss is another than the last stage's
            if stage.name == position.get("stage"):
                start, optimizer = position["step"], restored
            stage.begin(start)
            with self._finishing_the_step_on_interrupt(), few_collections():
                summary[stage.name] = self._train_stage(stage, optimizer, start, summary)
            give_memory_back()
            if self.interrupted:
                self._stop(stage, summary[stage.name]["steps"])
        return summary

    @staticmethod
    def _stop(stage, step):
        print(f"saved as of {stage.name} step {step}; --resume goes on from there", file=sys.stderr)
        raise Stopped

    @contextmanager
    def _finishing_the_step_on_interrupt(self):
        """The first Ctrl-C, or SIGTERM, ends the run after the step it falls in, and saves; the second ends it at once.

        Where SIGINT is ignored, as in a job that a shell runs in the background, it stays so. Of several processes
        SIGTERM is left to their launcher, which sends it when one of them has failed.
        """
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if before[signal.SIGINT] in (signal.SIG_IGN, None):
            del before[signal.SIGINT]
        if self.world.size > 1 or before[signal.SIGTERM] not in (signal.SIG_DFL, signal.default_int_handler):
            del before[signal.SIGTERM]
        if threading.current_thread() is not threading.main_thread():
            before = {}

        def note(signum, frame):
            self.signalled = True
            self.interrupted = self.world.size == 1
            signal.signal(signum, before[signum])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _diverged(self, what, stage, step, optimizer, summary):
        """The InputError of a divergence, whose last good checkpoint --resume goes on from at a lower rate.

        Nothing is saved if there is one: the weights as of now are those that went wrong.
        """
        doubt = ""
        if not self.world.once(has_checkpoint, self.options.output_dir):
            self._save(replace(stage, score=None), step, optimizer, summary)
            doubt = "; if it fails there again, start anew: there was no earlier checkpoint"
        name, saved = self.world.once(note_divergence, self.options, what)
        where = f"step {saved}" if name == stage.name else f"{name} step {saved}"
        return InputError(f"{what}; saved as of {where}, from where --resume goes on with it{doubt}")

    def _optimizer(self):
        return optimizer_of(self.parameters, weight_decay=self.options.weight_decay)

    def _train_stage(self, stage, optimizer, start, summary):
        options, total = self.options, stage.steps(self.options)
        order, bar = stage.batches(options, start), progress(stage.name, total, start)
        sums = Sums(self.world, options.device)
        began, last_loss = time.perf_counter(), math.nan
        window_time, window_examples, window_steps = began, 0, 0
        for step in range(start, total):
            index = next(order)
            rate = stage.learning_rate * linear_schedule(step, total, int(part_of(options.warmup, total)))
            try:
                terms, grads, notes = sums.step(lambda: self._gradients(stage, index, step), self.signalled)  # noqa: B023
                norm = optimizer.update(grads, rate, options.clip_norm, self.workers)
                stage.project(self.parameters)
                logged = (step + 1) % options.log_every == 0 or step + 1 == total
                saved = stage.saves_after(step + 1, options)
                self.interrupted = stopping = self.interrupted or sums.interrupted
                if logged or saved or stopping:
                    optimizer.check()
            except Diverged as error:
                raise self._diverged(
                    f"stage {stage.name}, step {step + 1}: {error}", stage, step, optimizer, summary
                ) from None
            window_examples, window_steps = window_examples + len(index), window_steps + 1
            if logged:
                values = {name: float(v) for name, v in terms.items()}
                last_loss, now = sum(values.values()), time.perf_counter()
                line = {
                    "stage": stage.name,
                    "step": step + 1,
                    "loss": last_loss,
                    "learning_rate": rate,
                    "step_ms": 1000 * (now - window_time) / window_steps,
                    "examples_per_second": window_examples / (now - window_time),
                    "gradient_norm": float(norm),
                    **{f"loss_{name}": v for name, v in values.items()},
                    **notes(),
                    **sums.figures(window_steps),
                }
                self._log(finite(line))
                bar.show(step + 1, line)
                window_time, window_examples, window_steps = time.perf_counter(), 0, 0
            if saved and step + 1 < total:
                self._save(stage, step + 1, optimizer, summary)
            del terms, grads, notes  # else this step's activations live through the next one
            if stopping and step + 1 < total:
                self._save(stage, step + 1, optimizer, summary)
                self._stop(stage, step + 1)
        bar.close()
        result = {"steps": total, "loss": last_loss, "seconds": round(time.perf_counter() - began, 1)}
        self._save(stage, total, optimizer, summary | {stage.name: result})
        return result

    def _gradients(self, stage, index, step):
        """Stage.gradients of this rank's part of the batch `index`."""
        batches, totals = self._parts(stage, index)
        seed = (self.options.seed, STAGE_SEEDS[stage.name], step, self.first_part)
        return stage.gradients(batches, seed, totals)

    def _parts(self, stage, index):
        """This rank's share of the examples `index` as one batch for each worker, and the totals of all ranks."""
        lengths = stage.data.lengths[index]
        mine = self.world.mine(lengths)
        slices = shares(lengths[mine], self.workers.size) if len(lengths[mine]) else []
        padded = [stage.padded(int(lengths[mine][s].max())) for s in slices]
        parts = [
            collate(stage.data, index[mine][s], self.options.device, length)
            for s, length in zip(slices, padded, strict=True)
        ]
        return parts, Totals.of_lengths(lengths)

    def _log(self, line):
        if self.world.rank:
            return
        with open(self.log_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({k: _rounded(v) for k, v in line.items()}, allow_nan=False) + "\n")

    def _save(self, stage, step, optimizer, summary):
        """A checkpoint, by rank 0, of what is the same on all ranks; from here on they all know of a Ctrl-C."""
        self.world.require_same(self.parameters)
        self.world.once(self._write, stage, step, optimizer, summary)
        self.interrupted = self.world.any(self.signalled)

    def _write(self, stage, step, optimizer, summary):
        score = None if stage.score is None else stage.score()
        position = Position(stage.name, step, summary, self.worker_counts, score)
        write_checkpoint(self.options, self.parameters, optimizer, position)

    def take_best(self):
        """The weights of the checkpoint with the best score become the parameters."""
        state, weights = read_best(self.options.output_dir)
        restore_weights(self.parameters, weights)
        print(f"kept {state['stage']} step {state['step']}, score {state['score']:.4f}", file=sys.stderr)

    def _restore(self):
        """(position, summary, optimizer) of the last checkpoint, whose weights become the parameters."""
        state, weights, moments = self.world.once(read_checkpoint, self.options)
        optimizer = self._optimizer()
        restore(self.parameters, optimizer, state, weights, moments)
        print(f"resuming {state['stage']} after step {state['step']}", file=sys.stderr)
        then, now = state["options"], plain(self.options)
        if "workers" in state:  # as counted then; what an older version wrote has the option only
            then, now = then | {"workers": state["workers"]}, now | {"workers": self.worker_counts}
        asked = ("device", "workers", *(["graphs"] if "graphs" in now and now["device"] == "cuda" else []))
        if other := [flag(n) for n in asked if now[n] != then.get(n, False)]:
            effect = "rounds sums in another order and draws other dropout"
            warnings.warn(f"{', '.join(other)}: another than before, which {effect}", stacklevel=2)
        return state, state["summary"], optimizer


def _rounded(value):
    return float(f"{value:.6g}") if isinstance(value, float) else value
