"""Where a student's weights start: from a teacher's layers at any threshold, or from random numbers."""

import warnings
from dataclasses import replace

import numpy as np

from ..arrays.backend import float_dtype, to_device
from ..arrays.tree import nest
from ..config.errors import InputError
from ..config.models import StudentConfig, read_config
from ..files.model_files import placed
from . import bert, equilibrium, loss, recurrence
from .families import student_embeddings, student_shape
from .settling import thresholds
from .student import Student, fresh_distill_map

# Powers of v_th with which a teacher's weights and biases become a student's: its neurons send I / v_th instead of I.
# Query: a score is of the current of the query and a rate of the key; of spiking queries, of two rates and the
# thresholds of both (settling.score_scale). The two dense outputs are added to the rates of the layer before, and
# normalised: both at the scale 1 / v_th. All others read rates, and make currents of the teacher's scale.
AT_THRESHOLD = {
    "attention.self.query": (2, 1),
    "attention.self.key": (1, 0),
    "attention.self.value": (1, 0),
    "attention.output.dense": (1, -1),
    "intermediate.dense": (1, 0),
    "output.dense": (0, -1),
    "classifier": (1, 0),
}


def init_student(config, teacher=None, seed=0, device="cpu", dtype="float32", layer_map=None):
    """A fresh student. config: a dict with BERT's keys and those of StudentConfig.

    With a teacher of the same sizes it starts from the teacher's embeddings and layers (encoder l from layer l M / N,
    or layer_map's); without one, or with a warning if the sizes differ, from normal numbers of initializer_range, as
    BERT does. Where no rate is clipped it computes what these layers do, at any v_th. distill_map, as wide as the
    teacher, starts as v_th times the identity, what returns at the scale feedback_gain.
    """
    kind, values = float_dtype(dtype), dict(config)
    if teacher is not None and values.get("teacher_hidden_size") is None:
        values["teacher_hidden_size"] = teacher.config.hidden_size
    settings = read_config(StudentConfig, values, "student config")
    rng = np.random.default_rng(seed)
    tensors = {
        name: _fresh(name, shape, settings, rng) for name, shape in equilibrium.parameter_shapes(settings).items()
    }
    if teacher is not None and (differences := _size_differences(settings, teacher.config)):
        warnings.warn(f"random weights to start with, for the teacher has other sizes: {differences}", stacklevel=2)
    elif teacher is not None:
        tensors |= _from_teacher(settings, teacher, layer_map)
    tree = nest(placed(tensors, device, kind))
    return Student(settings, tree, device, teacher.directory if teacher is not None else None, {})


def with_thresholds(student):
    """The student with a threshold of its own for every population, a parameter (1,) that starts where it was."""
    tree = dict(student.tree)
    own = thresholds(tree)
    like = tree["distill_map"]["bias"]
    fresh = {n: like[:1] * 0 + student.config.v_th for n in bert.populations(student.config)}
    tree["thresholds"] = nest(fresh | own)
    return Student(student.config, tree, student.device, student.directory, student.raw_config)


def with_classifier(student, teacher, seed=0):
    """The student with a classifier of the teacher's labels in place of its own.

    It starts as the teacher's behind distill_map, which makes the teacher's hidden states of the student's; untrained
    where the teacher has a pooler between the two.
    """
    config, rng = replace(student.config, num_labels=teacher.config.num_labels), np.random.default_rng(seed)
    like, own = student.tree["distill_map"]["bias"], student.tree["distill_map"]
    if "pooler" in teacher.tree:
        shapes = {n: s for n, s in equilibrium.parameter_shapes(config).items() if n.startswith("classifier.")}
        tensors = placed({n: _fresh(n, s, config, rng) for n, s in shapes.items()}, student.device, like.dtype)
    else:
        theirs = {n: v.astype(like.dtype) for n, v in teacher.tree["classifier"].items()}
        weight, bias = theirs["weight"] @ own["weight"], theirs["weight"] @ own["bias"] + theirs["bias"]
        tensors = {"classifier.weight": weight, "classifier.bias": bias}
    return Student(config, student.tree | nest(tensors), student.device, student.directory, student.raw_config)


def _fresh(name, shape, config, rng):
    if name.startswith("distill_map."):
        return fresh_distill_map(shape, config)
    if name.startswith(("feedback.", "lateral.")):
        return recurrence.fresh(name, shape, config.feedback_gain, rng)
    if name.endswith("bias"):
        return np.zeros(shape)
    return np.ones(shape) if "LayerNorm" in name else config.initializer_range * rng.standard_normal(shape)


def _size_differences(config, theirs):
    """What keeps a student from starting with a teacher's weights, in words; "" if nothing does."""
    found = []
    for name in ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads"):
        if getattr(config, name) != getattr(theirs, name):
            found.append(f"{name} {getattr(config, name)} for {getattr(theirs, name)}")
    if set(theirs.intermediate_widths) - {theirs.intermediate_size} or config.intermediate_sizes:
        found.append("intermediate_sizes, for neurons were removed")
    most = student_shape(theirs)
    for name in ("max_position_embeddings", "type_vocab_size"):
        if getattr(config, name) > most[name]:
            found.append(f"{name} {getattr(config, name)} for {most[name]}")
    return ", ".join(found)


def _from_teacher(config, teacher, layer_map):
    """The teacher's tensors that a student of this config starts from, under the student's names."""
    theirs = teacher.config
    layers = loss.teacher_layers(config.num_hidden_layers, theirs.num_hidden_layers, layer_map)
    tensors = student_embeddings(teacher)
    for name, value in teacher.parameters().items():
        for i, layer in enumerate(layers[1:]):
            if name.startswith(f"encoder.layer.{layer - 1}."):
                tensors[name.replace(f"layer.{layer - 1}.", f"layer.{i}.", 1)] = value
    positions = "embeddings.position_embeddings.weight"
    tensors[positions] = tensors[positions][: config.max_position_embeddings]
    segments = "embeddings.token_type_embeddings.weight"
    tensors[segments] = tensors[segments][: config.type_vocab_size]
    if "pooler" not in teacher.tree and "classifier" in teacher.tree and theirs.num_labels == config.num_labels:
        tensors |= {n: v for n, v in teacher.parameters().items() if n.startswith("classifier.")}
    if thresholds(teacher.tree):
        raise InputError(f"{teacher.directory}: a student with thresholds of its own; start from it with --init DIR")
    return {n: _at_threshold(n, to_device(v, "cpu"), config, theirs) for n, v in tensors.items()}


def _threshold(config):
    """v_th where there are neurons: 1 of an ordinary BERT."""
    return 1 if getattr(config, "activation", "ann") == "ann" else config.v_th


def threshold_powers(name, config):
    """The power of v_th with which a teacher's tensor becomes that of a student of this configuration."""
    layer, _, kind = name.rpartition(".")
    layer = layer.split(".", 3)[3] if layer.startswith("encoder.") else layer
    weight, bias = AT_THRESHOLD.get(layer, (0, 0))
    if layer == "attention.self.query" and "query" in config.shifts:
        weight, bias = AT_THRESHOLD["attention.self.key"]
    return weight if kind == "weight" else bias


def _at_threshold(name, tensor, config, theirs):
    """The tensor of a student that computes what the teacher's layers do, wherever no rate is clipped."""
    factor = _factor(name, config) / _factor(name, theirs)
    return tensor if factor == 1 else tensor * tensor.dtype.type(factor)


def _factor(name, config):
    return _threshold(config) ** threshold_powers(name, config)


def with_operators(student, changes):
    """The student with `changes`, {field: value}, in its configuration: operators, weights. It keeps its float masters.

    Of queries that become spikes, or currents again, the weights change such that no score does where nothing is
    clipped (see AT_THRESHOLD).
    """
    config = replace(student.config, **changes)
    tree, was, will = student.tree, student.config.fires_queries, config.fires_queries
    if was != will and config.activation != "ann":
        own, layers = thresholds(tree), []
        for i, layer in enumerate(tree["encoder"]["layer"]):
            v_k = own.get(f"encoder.{i}.key", config.v_th)
            if getattr(v_k, "size", 1) > 1:
                raise InputError(f"thresholds.encoder.{i}.key: found {v_k.size}, expected one with spiking queries")
            this = layer["attention"]["self"]
            query = {n: w / v_k if will else w * v_k for n, w in this["query"].items()}
            layers.append(layer | {"attention": layer["attention"] | {"self": this | {"query": query}}})
        tree = tree | {"encoder": tree["encoder"] | {"layer": layers}}
    return Student(config, tree, student.device, student.directory, student.raw_config)
