"""The teacher as an object: load it, call it, save it."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arrays import ops
from ..arrays.backend import float_dtype, library, namespace, to_device, to_host
from ..arrays.tree import child, leaves, nest
from ..config.errors import InputError
from ..config.models import declared_labels
from ..files.model_files import (
    fit_tensors,
    hugging_face_names,
    placed,
    read_json,
    read_model_tensors,
    require_depth,
    write_model,
)
from ..files.tensors import require_directory
from . import bert
from .families import BERT, family_of

OTHER_HEADS = ("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering", "ForNextSentencePrediction")


def checked_inputs(config, xp, input_ids, attention_mask, token_type_ids):
    """The three (B, L) int arrays of one call, on the model's library; InputError where they cannot be used."""
    ids = _ids(xp, input_ids, "input_ids")
    mask = xp.ones_like(ids) if attention_mask is None else _ids(xp, attention_mask, "attention_mask")
    types = ids * 0 if token_type_ids is None else _ids(xp, token_type_ids, "token_type_ids")
    for name, array in (("attention_mask", mask), ("token_type_ids", types)):
        if array.shape != ids.shape:
            raise InputError(f"{name}: found shape {array.shape}, expected that of input_ids, {ids.shape}")
    if ids.shape[1] > config.usable_positions:
        raise InputError(f"input_ids: {ids.shape[1]} tokens, the model has {config.usable_positions} positions")
    extremes = to_host(xp.stack([a for array in (mask, ids, types) for a in (array.min(), array.max())]))  # one wait
    limits = {"attention_mask": 2, "input_ids": config.vocab_size, "token_type_ids": config.type_vocab_size}
    for (name, limit), (low, high) in zip(limits.items(), extremes.reshape(3, 2).tolist(), strict=True):
        if low < 0 or high >= limit:
            raise InputError(f"{name}: found values from {low} to {high}, expected 0 to {limit - 1}")
    return ids, mask, types


def _ids(xp, values, name):
    array = values if hasattr(values, "dtype") and not isinstance(values, np.generic) else np.asarray(values)
    owner = namespace(array)
    if owner is not xp and hasattr(values, "dtype"):
        raise TypeError(f"{name}: an array of {owner.__name__}, the model's arrays are of {xp.__name__}: use to_device")
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iub":
        raise InputError(f"{name}: found {array.dtype} of shape {array.shape}, expected integers of shape (B, L)")
    return xp.asarray(array, np.int64)


def positions_of_real(input_ids, attention_mask, first):
    """Rows of the position table (B, L) of a model that counts real tokens from row `first`, the row of padding + 1.

    What has the id of padding, first - 1, is not counted either.
    """
    real = ((attention_mask != 0) & (input_ids != first - 1)).astype(input_ids.dtype)
    return real.cumsum(axis=1) * real + first - 1


def run(tree, config, inputs, flow, differentiable=True, of=bert.ALL):
    """An ordinary BERT: TeacherOutput and vjp(dhidden, dscores, dlogits, grads), which fills `grads`.

    inputs: input_ids, attention_mask, token_type_ids (B, L). of: see bert.encoders.
    """
    input_ids, attention_mask, token_type_ids = inputs
    first, norm = config.first_position, bert.operators(config).embedding_norm
    positions = positions_of_real(input_ids, attention_mask, first) if first else None
    current, embed_vjp = bert.embeddings(input_ids, token_type_ids, tree["embeddings"], norm, positions)
    current, current_drop = flow.drop(current)
    projected, project_vjp = ops.identity(current)
    if "embeddings_project" in tree:
        projected, project_vjp = ops.linear(current, **tree["embeddings_project"])
    trace = bert.encoders(projected, tree["encoder"]["layer"], config, attention_mask, flow, differentiable, of)
    logits, head_vjp = None, None
    if "classifier" in tree:
        logits, head_vjp = bert.classify(trace.hidden_states[-1], tree, flow.drop, bert.ACTIVATIONS[config.head_act])

    def vjp(dhidden, dscores, dlogits, grads):
        dhidden = list(dhidden) if dhidden else [None] * len(trace.hidden_states)
        if dlogits is not None:
            dlast = head_vjp(dlogits, grads)
            dhidden[-1] = dlast if dhidden[-1] is None else dhidden[-1] + dlast
        dprojected = trace.vjp(dhidden, dscores, grads)
        owed = (child(grads, "embeddings_project"),) if "embeddings_project" in tree else ()
        embed_vjp(current_drop(project_vjp(dprojected, *owed)), child(grads, "embeddings"))

    return bert.TeacherOutput(trace.hidden_states, trace.attention_scores, logits), vjp


class Teacher:
    """A BERT or one of its family. Call it with ids (B, L) for its hidden states, attention scores and logits.

    config: a BertConfig; tree: its parameters, nested, under BERT's names; directory: where its tokenizer is.
    """

    def __init__(self, config, tree, device="cpu", directory=None, raw_config=None, family=BERT):
        self.config, self.tree, self.device, self.directory = config, tree, device, directory
        self.raw_config, self.family = raw_config or {}, family

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None):
        inputs = checked_inputs(self.config, library(self.device), input_ids, attention_mask, token_type_ids)
        return self.forward(inputs, differentiable=False)[0]

    def forward(self, inputs, flow=bert.Flow(), differentiable=True, of=bert.ALL):  # noqa: B008
        """(TeacherOutput, vjp) of arrays that are known to be right; see run."""
        return run(self.tree, self.config, inputs, flow, differentiable, of)

    def parameters(self):
        """{BERT's Hugging Face name: the live array}."""
        return dict(leaves(self.tree))

    def save(self, directory, dtype=None):
        """Write config.json, model.safetensors, under the names of its family, and the tokenizer."""
        config = self.raw_config | self.family.raw_config(self.config, "classifier" in self.tree)
        tensors = self.parameters()
        names = self.family.file_names(tensors)
        write_model(directory, config, {names[n]: t for n, t in tensors.items()}, self.directory, dtype)


def load_teacher(directory, device="cpu", dtype="float32"):
    """The BERT, or one of its family, in a Hugging Face directory (config.json, model.safetensors or its shards, a
    tokenizer).

    Names with or without the prefix of the encoder (`bert.`), LayerNorm gamma/beta or weight/bias, float16 and bfloat16
    tensors; pooler and classifier are used if present. InputError names what is missing or mis-shaped; unexpected
    tensors are a warning.
    """
    directory = Path(directory)
    float_dtype(dtype), library(device)
    require_directory(directory)
    raw = read_json(directory / "config.json")
    family = family_of(raw, directory / "config.json")
    tensors = family.our_tensors(hugging_face_names(read_model_tensors(directory), family.prefix))
    return teacher_of(raw, tensors, directory, device, dtype)


def teacher_of(raw, tensors, directory, device="cpu", dtype="float32"):
    """The Teacher of a config.json's object, in `directory`, and of {BERT's name: tensor}; see load_teacher."""
    kind, config_path = float_dtype(dtype), directory / "config.json"
    family = family_of(raw, config_path)
    config = family.config(raw, declared_labels(raw, config_path) or 2, config_path)
    require_depth(config, tensors, directory)
    classifier = tensors.get("classifier.weight")
    if classifier is not None and (other := other_head(raw)):
        warnings.warn(f"{directory}: the classifier of {other} is left out: it does not tell texts apart", stacklevel=3)
        tensors = {n: t for n, t in tensors.items() if not n.startswith("classifier.")}
        classifier = None
    if classifier is not None:
        config = replace(config, num_labels=_labels(classifier, raw, directory))
    has_pooler = "pooler.dense.weight" in tensors or (family.pooled and classifier is not None)
    shapes = bert.parameter_shapes(config, None if classifier is None else config.num_labels, has_pooler)
    tree = nest(placed(fit_tensors(tensors, shapes, (), directory), device, kind, copy=False))
    return Teacher(config, tree, device, directory, raw, family)


def _labels(classifier, raw, directory):
    """How many labels a classifier has; InputError where config.json says another number."""
    if classifier.ndim != 2:
        raise InputError(f"{directory}: mis-shaped tensors: classifier.weight is {classifier.shape}, expected 2 axes")
    declared, found = declared_labels(raw, directory / "config.json"), classifier.shape[0]
    if declared not in (None, found):
        raise InputError(f"{directory}: classifier.weight has {found} labels, config.json says {declared}")
    return found


def other_head(raw_config):
    """What config.json calls a head whose outputs are not the classes of a text; "" if they are, or it names none."""
    if raw_config.get("problem_type") == "multi_label_classification":
        return "problem_type multi_label_classification"
    names = raw_config.get("architectures")
    names = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
    return ", ".join(n for n in names if n.endswith(OTHER_HEADS))


def with_classifier(teacher, labels, seed):
    """The teacher with a fresh classifier of `labels` outputs, unless it has one of that size already.

    Where its family's classifiers have two layers, both are there afterwards.
    """
    tree, d, rng = dict(teacher.tree), teacher.config.hidden_size, np.random.default_rng(seed)
    like = tree["embeddings"]["LayerNorm"]["weight"]

    def fresh(out):
        weight = (teacher.config.initializer_range * rng.standard_normal((out, d))).astype(like.dtype)
        bias = np.zeros(out, like.dtype)
        return {"weight": to_device(weight, teacher.device), "bias": to_device(bias, teacher.device)}

    if "classifier" not in tree or tree["classifier"]["weight"].shape[0] != labels:
        tree["classifier"] = fresh(labels)
    if teacher.family.pooled and "pooler" not in tree:
        tree["pooler"] = {"dense": fresh(d)}
    config = replace(teacher.config, num_labels=labels)
    return Teacher(config, tree, teacher.device, teacher.directory, teacher.raw_config, teacher.family)
