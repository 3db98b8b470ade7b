"""A close look at a student on a few texts: one sentence's spikes and attention, rates and gaps of every population."""

from dataclasses import dataclass

import numpy as np

from ..arrays.backend import to_host
from ..config.errors import InputError
from ..data.text import collate
from ..data.tokenizer import load_tokenizer
from ..model import bert
from ..model.probes import Probe
from ..model.simulate import SpikingRun, gap
from .costs import PRESETS
from .energy import energies
from .inference import population_rates

TIME_STEPS = (1, 2, 4, 8, 16)  # after which the texts are looked at, where nothing else is wanted
SENTENCE = 20  # tokens of a sentence that is good to look at
SHOWN = 16  # time steps of the spikes that are drawn, at most


@dataclass(frozen=True)
class Look:
    """tokens (L,) of the sentence. spikes (T, L, W) int8 of the neurons of `population`.

    attention: {"teacher" (None: there is none), "student": (L, L)} of the last encoder, the mean over heads, at
    equilibrium. Over all texts, gaps: {population: {T: mean |ASR - equilibrium|}}, rates: {population: {rate, dead,
    saturated}}, and costs: as energy.json.
    """

    tokens: list
    population: str
    spikes: np.ndarray
    attention: dict
    gaps: dict
    rates: dict
    costs: dict
    texts: int


def look_at(student, data, teacher=None, population=None, time_steps=TIME_STEPS):
    """The Look at the texts of `data` (text.Encoded), of which the one that is nearest to SENTENCE tokens is drawn.

    population: whose spikes; None: the last encoder's output.
    """
    names = bert.populations(student.config)
    population = population or names[-1]
    if population not in names:
        raise InputError(f"--population: found {population!r}, expected one of {', '.join(names)}")
    order = sorted(range(len(data)), key=lambda i: abs(len(data.examples([i])[0][0]) - SENTENCE))
    batch = collate(data, np.array(order), student.device)
    inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    length, tokens = int(batch.attention_mask[0].sum()), int(batch.attention_mask.sum())
    tokenizer = load_tokenizer(student.directory, student.config.vocab_size)
    settled, steps = student.equilibrium(*inputs), sorted(time_steps)
    probe = Probe(population, "spikes", examples=[0])
    how = SpikingRun(time_steps=steps[-1], record=tuple(steps), count=True, probes=(probe,)).resolved(student.config)
    run = student.run(inputs, how)
    lengths = batch.attention_mask.sum(axis=1)
    gaps = {name: {} for name in names}
    for t in steps:
        rates = run.rates if t == steps[-1] else student.run(inputs, SpikingRun(time_steps=t)).rates
        for name in names:
            mean = (gap(rates[name], settled.rates[name], batch.attention_mask) * lengths).sum() / tokens
            gaps[name][t] = float(mean)
    results = {"task": "the texts of this page", "examples": len(data), "equilibrium_gap": gaps[names[-1]]}
    results |= {"drive": how.drive, "spikes": how.spikes}
    return Look(
        [tokenizer.id_to_token(int(i)) or "?" for i in batch.input_ids[0, :length]],
        population,
        run.probes[population]["spikes"][:SHOWN, 0, :length],
        attention_of(student, settled, teacher, inputs, length),
        gaps,
        population_rates(settled, batch.attention_mask),
        energies(student, how, run.counts, results, PRESETS["float32"], (teacher and (teacher, None), None)),
        len(data),
    )


def attention_of(student, settled, teacher, inputs, length):
    """{"teacher", "student": (L, L)} attention of the first text's last encoder, each row a token that looks."""
    scores = {"student": (student.config, settled.attention_scores[-1])}
    if teacher is not None:
        out, _ = teacher.forward(inputs, differentiable=False)
        scores["teacher"] = teacher.config, out.attention_scores[-1]
    found = {"teacher": None}
    for name, (config, own) in scores.items():
        weights, _ = bert.operators(config).softmax(own[:1, :, :length, :length])
        found[name] = to_host(weights[0]).mean(axis=0)
    return found
