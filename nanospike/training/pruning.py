"""Removing intermediate neurons that hardly fire, before the last stage of a run: it trains what is left.

While that stage runs, what was removed is there with weights of 0: a neuron whose bias and row are 0 sends nothing, and
what reads it is 0 too. So checkpoints keep their shapes; what is saved in the end is smaller.
"""

import sys
from dataclasses import replace

import numpy as np

from ..arrays.backend import to_device, to_host
from ..arrays.tree import nest
from ..arrays.workers import ALONE
from ..data.text import Encoded, collate, in_length_order
from ..model.quantise import low_bit, low_bit_names
from ..model.recurrence import project
from ..model.settling import thresholds
from ..model.student import Student

TEXTS, AT_A_TIME = 512, 16  # of the training data, evenly spread


class Pruning:
    """Of the last stage of a run: `begin` before its first update, or where --resume goes on, `project` after each."""

    def __init__(self, student, data, below, workers=ALONE):
        """data: text.Encoded or corpus.TokenStore; below: the least mean |rate| of a neuron that stays."""
        self.student, self.data, self.below, self.workers = student, data, below, workers
        self.silent = None

    def begin(self, start):
        """start: the number of updates that were done."""
        if start == 0:
            rates = intermediate_rates(self.student, self.data, self.workers)
            self.silent = [(r < self.below) & (r < r.max()) for r in rates]  # the one that fires most always stays
            counts = ", ".join(f"{int(s.sum())} of {len(s)}" for s in self.silent)
            print(f"pruned intermediate neurons, encoder by encoder: {counts}", file=sys.stderr)
            self.project(self.student.parameters())
        else:
            self.silent = silent(self.student)

    def project(self, parameters):
        """Keep what was removed at 0, and {name: live array} in its sets as ever (recurrence.project)."""
        project(parameters)
        for layer, gone in zip(self.student.tree["encoder"]["layer"], self.silent, strict=True):
            index = to_device(np.flatnonzero(gone), self.student.device)
            up = layer["intermediate"]["dense"]
            up["weight"][index], up["bias"][index] = 0, 0
            layer["output"]["dense"]["weight"][:, index] = 0


def intermediate_rates(student, data, workers=ALONE):
    """[(F,) mean |rate| of each intermediate neuron at real tokens] of every encoder, at the equilibrium."""
    ids, types = zip(*data.examples(spread(len(data))), strict=True)
    some = Encoded(list(ids), list(types))

    def sums(index):
        batch = collate(some, index, student.device)
        rates = student.equilibrium(batch.input_ids, batch.attention_mask, batch.token_type_ids).rates
        real = to_host(batch.attention_mask).astype(bool)
        names = [f"encoder.{i}.intermediate" for i in range(student.config.num_hidden_layers)]
        return [np.abs(to_host(rates[n])[real]).sum(axis=0, dtype=np.float64) for n in names], int(real.sum())

    found = workers.map(sums, in_length_order(some, AT_A_TIME))
    tokens = sum(n for _, n in found)
    return [sum(layer) / tokens for layer in zip(*(rows for rows, _ in found), strict=True)]


def spread(count):
    """The indices of at most TEXTS of `count` examples, evenly spread."""
    return np.arange(min(TEXTS, count)) * count // min(TEXTS, count)


def silent(student):
    """[(F,) bool on the host] of every encoder: the intermediate neurons whose row and bias are 0."""
    dense = [layer["intermediate"]["dense"] for layer in student.tree["encoder"]["layer"]]
    return [~(to_host(abs(d["weight"]).max(axis=1)).astype(bool) | to_host(d["bias"]).astype(bool)) for d in dense]


def without_silent(student):
    """The student without those neurons. Low-bit weights are made so before: their scales are of whole rows."""
    tensors, kinds = student.parameters(), low_bit_names(student.config)
    tensors = {n: low_bit(t, kinds[n]) if n in kinds else t for n, t in tensors.items()}
    stays, own = [], thresholds(student.tree)
    for i, gone in enumerate(silent(student)):
        kept = np.flatnonzero(~gone) if not gone.all() else np.arange(1)
        stays.append(len(kept))
        index, layer = to_device(kept, student.device), f"encoder.layer.{i}."
        for name in ("intermediate.dense.weight", "intermediate.dense.bias"):
            tensors[layer + name] = tensors[layer + name][index]
        tensors[f"{layer}output.dense.weight"] = tensors[f"{layer}output.dense.weight"][:, index].copy()
        name = f"encoder.{i}.intermediate"
        if name in own and own[name].size > 1:
            tensors[f"thresholds.{name}"] = own[name][index]
    config = replace(student.config, intermediate_sizes=tuple(stays))
    return Student(config, nest(tensors), student.device, student.directory, student.raw_config, low_bit=bool(kinds))
