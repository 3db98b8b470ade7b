"""Small random models for tests."""

from dataclasses import asdict, replace

import numpy as np

import nanospike
from nanospike.arrays.backend import to_device
from nanospike.arrays.tree import nest
from nanospike.config.models import BertConfig
from nanospike.model import bert
from nanospike.model.teacher import Teacher

SHAPE = BertConfig(
    vocab_size=40,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
    num_labels=3,
)


LOOPS = {
    "full": {"feedback": True},
    "low rank": {"feedback": True, "feedback_rank": 3},
    "cls": {"feedback": True, "feedback_from": "cls"},
    "cls, low rank": {"feedback": True, "feedback_from": "cls", "feedback_rank": 2},
    "looped": {"looped": True},
    "looped, one encoder": {"looped": True, "num_hidden_layers": 1},
    "lateral": {"lateral": True},
    "lateral and full": {"lateral": True, "feedback": True},
    "lateral and cls": {"lateral": True, "feedback": True, "feedback_from": "cls"},
    "lateral and looped": {"lateral": True, "looped": True, "num_hidden_layers": 1},
}


def random_tensors(shapes, rng, spread=0.5):
    """Weights large enough that every part of a model matters."""
    return {
        n: spread * rng.standard_normal(s) + ("LayerNorm.weight" in n or n == "distill_map.weight") * np.ones(s)
        for n, s in shapes.items()
    }


def random_teacher(seed=0, labels=3, device="cpu", dtype="float64", **changes):
    config = replace(SHAPE, num_labels=labels or 2, **changes)
    tensors = random_tensors(bert.parameter_shapes(config, labels, bool(labels)), np.random.default_rng(seed))
    return Teacher(config, nest({n: to_device(t.astype(dtype), device) for n, t in tensors.items()}), device)


def random_student(seed=0, device="cpu", dtype="float64", feedback_gain=0.3, thresholds=(), **changes):
    """thresholds: populations that get one of their own for each neuron."""
    config = asdict(SHAPE) | changes
    student = nanospike.init_student(config, seed=seed, device=device, dtype=dtype)
    rng = np.random.default_rng(seed + 1)
    live = student.parameters()
    for name, tensor in random_tensors({n: p.shape for n, p in live.items()}, rng).items():
        if name.startswith(("feedback.", "lateral.")):
            tensor = returning(name, 2 * tensor, feedback_gain)
        live[name][...] = to_device(tensor.astype(dtype), device)
    widths = {p: SHAPE.intermediate_size if p.endswith("intermediate") else SHAPE.hidden_size for p in thresholds}
    own = {f"thresholds.{p}": rng.uniform(0.5, 2, w).astype(dtype) for p, w in widths.items()}
    student.tree |= nest({n: to_device(v, device) for n, v in own.items()})
    return student


def returning(name, normal, gain):
    """Weights of a return path from normal numbers of its shape."""
    if name == "feedback.scale":
        return gain * (1 + 0.3 * normal)
    if name == "feedback.down":
        return normal / np.sqrt(normal.shape[1])
    if name == "lateral.weight":
        return 4 * gain * abs(normal) * (1 - np.eye(len(normal))) / len(normal)
    return gain * normal / np.sqrt(normal.shape[1])


def random_batch(seed=0, lengths=(5, 3, 4), vocabulary=40, device="cpu"):
    """(input_ids, attention_mask, token_type_ids), padded to the longest."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocabulary, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return tuple(to_device(a, device) for a in (ids * mask, mask, rng.integers(0, 2, ids.shape)))
