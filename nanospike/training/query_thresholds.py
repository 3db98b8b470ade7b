"""Thresholds of spiking queries and keys that fit their currents: a quantile of the teacher's, encoder by encoder.

A score of two rates is bounded by v_q v_k sqrt(D / H), and a neuron whose current is beyond its threshold says no more
than that; too high a threshold makes rates coarse at few time steps.
"""

import numpy as np

from ..arrays import ops
from ..arrays.backend import to_device, to_host
from ..arrays.tree import nest
from ..data.text import Encoded, collate
from ..model.loss import teacher_layers
from ..model.settling import thresholds
from ..model.student import Student

TEXTS, AT_A_TIME = 128, 16  # of the training data, evenly spread
QUANTILE = 0.99  # of the sizes of currents


def with_calibrated_thresholds(student, teacher, data, layer_map=None, quantile=QUANTILE):
    """The student with a threshold (1,) of its own for the queries and for the keys of each encoder, parameters both.

    data: text.Encoded or corpus.TokenStore. InputError and layer_map: see loss.teacher_layers.
    """
    levels = {
        f"encoder.{i}.{kind}": np.quantile(np.concatenate(sizes), quantile)
        for (i, kind), sizes in query_and_key_sizes(student, teacher, some_of(data), layer_map).items()
    }
    like = student.tree["distill_map"]["bias"]
    fresh = {n: to_device(np.full(1, v, like.dtype), student.device) for n, v in levels.items()}
    tree = student.tree | {"thresholds": nest(thresholds(student.tree) | fresh)}
    return Student(student.config, tree, student.device, student.directory, student.raw_config)


def query_and_key_sizes(student, teacher, data, layer_map=None):
    """{(encoder, "query" or "key"): [|current| of real tokens (n,), ...]}, on the host, of the teacher's layers."""
    layers = teacher_layers(student.config.num_hidden_layers, teacher.config.num_hidden_layers, layer_map)
    sizes = {}
    for start in range(0, len(data), AT_A_TIME):
        batch = collate(data, np.arange(start, min(start + AT_A_TIME, len(data))), teacher.device)
        inputs = batch.input_ids, batch.attention_mask, batch.token_type_ids
        hidden = teacher.forward(inputs, differentiable=False)[0].hidden_states
        real = to_host(batch.attention_mask).astype(bool)
        for i, layer in enumerate(layers[1:]):
            these = teacher.tree["encoder"]["layer"][layer - 1]["attention"]["self"]
            for kind in ("query", "key"):
                current, _ = ops.linear(hidden[layer - 1], **these[kind])
                size = np.abs(to_host(current)[real]).reshape(-1)
                sizes.setdefault((i, kind), []).append(size / current_scale(teacher.config, kind))
    return sizes


def current_scale(config, kind):
    """By how much a student's currents are larger than those of the BERT that it computes."""
    if kind == "key" or config.fires_queries or getattr(config, "activation", "ann") == "ann":
        return 1.0
    return config.v_th


def some_of(data):
    """At most TEXTS examples of text.Encoded or a corpus.TokenStore, evenly spread: text.Encoded."""
    count = min(TEXTS, len(data))
    ids, types = zip(*data.examples(np.arange(count) * len(data) // count), strict=True)
    return Encoded(list(ids), list(types))
