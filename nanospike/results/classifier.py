"""A student to hold and to ask: loaded once, called with texts, from any number of threads."""

import math
import threading
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arrays.backend import to_host
from ..arrays.workers import Workers
from ..config.errors import InputError
from ..data.text import collate, encode, label_names, require_segments
from ..data.tokenizer import load_tokenizer
from ..files.tensors import all_finite
from ..model.loading import load_held, load_student
from ..model.simulate import SpikingRun
from .inference import AT_A_TIME, batches_of, require_head

PREDICT_STEPS = 32  # of a student that recommends none
ANYTIME_STEPS = 16  # the most of anytime inference
MOST_STEPS = 2**20
ANYTIME_DECAY = 1  # at time step t a lead of margin / t is enough: so does the error of a rate fall
AUTO = "auto"


class Classifier:
    """A student, its tokenizer and worker threads, held from one call to the next.

    Call it with a text, a pair of texts (a tuple of two strings) or a list of either: {label, score, time_steps}, or a
    list of these. score is the softmax of the label, or the output of a regression, whose label is None. Any number of
    threads may call it at the same time. It prints nothing; a text longer than the model's positions is cut, with a
    warning if quiet is False. A pickled one is loaded anew from its directory.

    time_steps: an int; None: what the student recommends, else PREDICT_STEPS; "auto": anytime inference, each text runs
    until its decision is clear, at most ANYTIME_STEPS. workers: threads that share a list's texts; 0: one per core.
    arithmetic: "integer": whole numbers only, of students with shift operators and ternary or binary weights. packed:
    low-bit weights stay so in memory; False: they are floats, for the same answers somewhat faster where texts come
    one by one.
    """

    def __init__(
        self, directory, time_steps=None, device="cpu", workers=0, batch_size=0, quiet=True, arithmetic="float",
        packed=True,
    ):  # fmt: skip
        self._given = (directory, time_steps, device, workers, batch_size, quiet, arithmetic, packed)
        self.quiet = quiet
        self.student = load_held(directory, device) if packed else load_student(directory, device).computing()
        require_head(self.student)
        self.batch_size = batch_size or AT_A_TIME[self.student.device]
        if self.student.config.activation == "ann":
            raise InputError(f"{directory}: an ordinary BERT (activation ann): it has no spikes to run")
        how = _how(time_steps, self.student.raw_config, Path(directory) / "config.json")
        self.how = replace(how, arithmetic=arithmetic, logits_alone=True)
        self._run = self.student.prepared(self.how)
        self.names = label_names(directory)
        self.workers = Workers(workers, device)
        self._tokenizer = load_tokenizer(directory, self.student.config.vocab_size)
        self._tokenizing = threading.Lock()  # a tokenizer is told how to cut, one caller at a time

    def __reduce__(self):
        return Classifier, self._given

    def __call__(self, texts):
        if isinstance(texts, (str, tuple)):
            return self.answers([texts])[0]
        return self.answers(texts)

    @property
    def state_bytes(self):
        """Bytes of memory that the student's weights take."""
        return sum(array.nbytes for array in self.student.parameters().values())

    def answers(self, texts):
        """[{label, score, time_steps}] of a list of texts and pairs, in its order."""
        texts = checked_texts(texts, "Classifier")
        if not texts:
            return []
        with self._tokenizing:
            data = encode(self._tokenizer, texts, self.student.config.usable_positions, quiet=self.quiet)
        require_segments(data, self.student.config, self.student.directory)
        batches = batches_of(data, self.batch_size, self.student.device)
        with self.workers.one_blas_thread():
            found = self.workers.map(lambda index: self._batch(collate(data, index, self.student.device)), batches)
        by_text = {i: answer for some in found for i, answer in some}
        return [by_text[i] for i in range(len(texts))]

    def _batch(self, batch):
        """[(number of the text, its answer)] of one batch."""
        run = self._run((batch.input_ids, batch.attention_mask, batch.token_type_ids))
        logits = to_host(run.logits[self.how.time_steps])
        all_finite(logits, f"{self.student.directory}: the answers of the model, whose weights are too large")
        rows = zip(batch.index, logits, run.steps, strict=True)
        return [(i, self._answer(logits) | {"time_steps": int(steps)}) for i, logits, steps in rows]

    def _answer(self, logits):
        if logits.size == 1:
            return {"label": None, "score": float(logits[0])}
        odds = np.exp(logits - logits.max())
        best = int(logits.argmax())
        return {"label": self.names.get(best, str(best)), "score": float(odds[best] / odds.sum())}


def predict(directory, texts, time_steps=None, device="cpu", batch_size=0, workers=0, arithmetic="float"):
    """[{label, score, time_steps}] of a list of texts and pairs of texts: a Classifier that is asked once."""
    texts = checked_texts(texts, "predict")
    return Classifier(directory, time_steps, device, workers, batch_size, False, arithmetic).answers(texts)


def checked_texts(texts, where):
    """The texts as a list of strings and pairs of strings; InputError, which begins with `where`, for anything else."""
    if isinstance(texts, (str, bytes, Mapping, Set)) or not hasattr(texts, "__iter__"):
        raise InputError(f"{where}: found {texts!r}, expected a list of texts")
    texts = list(texts)
    for i, text in enumerate(texts):
        pair = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(p, str) for p in text)
        if not pair and not isinstance(text, str):
            raise InputError(f"{where}: text {i}: found {text!r}, expected a string or a pair of strings")
    return texts


def _how(time_steps, raw_config, path):
    """The SpikingRun of what was asked for and of what the student's config.json, at path, says."""
    steps, margin = raw_config.get("recommended_time_steps", PREDICT_STEPS), raw_config.get("anytime_margin")
    if time_steps == AUTO:
        if margin is None:
            found = f"{path} has no anytime_margin; distill calibrates one where texts have classes"
            raise InputError(f"time steps auto: {found}")
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < math.inf:
            raise InputError(f"{path}: anytime_margin: found {margin!r}, expected a number of at least 0")
        every = tuple(range(1, ANYTIME_STEPS + 1))
        return SpikingRun(time_steps=ANYTIME_STEPS, record=every, margin=margin, margin_decay=ANYTIME_DECAY)
    if time_steps is not None:
        if not _count(time_steps):
            raise InputError(f"time steps: found {time_steps!r}, expected a whole number of at least 1, or {AUTO!r}")
        return SpikingRun(time_steps=int(time_steps))
    if not _count(steps):
        raise InputError(f"{path}: recommended_time_steps: found {steps!r}, expected a whole number of at least 1")
    return SpikingRun(time_steps=steps)


def _count(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= value <= MOST_STEPS
