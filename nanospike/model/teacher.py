"""The teacher as an object: load it, call it, save it."""

import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..arrays.backend import float_dtype, library, namespace, to_device
from ..arrays.tree import leaves, nest
from ..config.errors import InputError
from ..config.models import BertConfig, declared_labels, read_config
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

OTHER_HEADS = ("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering", "ForNextSentencePrediction")


def checked_inputs(config, xp, input_ids, attention_mask, token_type_ids):
    """The three (B, L) int arrays of one call, on the model's library; InputError where they cannot be used."""
    ids = _ids(xp, input_ids, "input_ids")
    mask = xp.ones_like(ids) if attention_mask is None else _ids(xp, attention_mask, "attention_mask")
    types = ids * 0 if token_type_ids is None else _ids(xp, token_type_ids, "token_type_ids")
    for name, array in (("attention_mask", mask), ("token_type_ids", types)):
        if array.shape != ids.shape:
            raise InputError(f"{name}: found shape {array.shape}, expected that of input_ids, {ids.shape}")
    if ids.shape[1] > config.max_position_embeddings:
        raise InputError(f"input_ids: {ids.shape[1]} tokens, the model has {config.max_position_embeddings} positions")
    for name, array, limit in (
        ("attention_mask", mask, 2),
        ("input_ids", ids, config.vocab_size),
        ("token_type_ids", types, config.type_vocab_size),
    ):
        low, high = int(array.min()), int(array.max())
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


class Teacher:
    """An ordinary BERT. Call it with ids (B, L) for its hidden states, attention scores and logits.

    config: a BertConfig; tree: its parameters, nested; directory: where its tokenizer is.
    """

    def __init__(self, config, tree, device="cpu", directory=None, raw_config=None):
        self.config, self.tree, self.device, self.directory = config, tree, device, directory
        self.raw_config = raw_config or {}

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None):
        inputs = checked_inputs(self.config, library(self.device), input_ids, attention_mask, token_type_ids)
        return self.forward(inputs, differentiable=False)[0]

    def forward(self, inputs, flow=bert.Flow(), differentiable=True):  # noqa: B008
        """(TeacherOutput, vjp) of arrays that are known to be right; see bert.teacher."""
        return bert.teacher(self.tree, self.config, inputs, flow, differentiable)

    def parameters(self):
        """{Hugging Face name: the live array}."""
        return dict(leaves(self.tree))

    def save(self, directory, dtype=None):
        config = self.raw_config | asdict(self.config) | {"model_type": "bert"}
        write_model(directory, config, self.parameters(), self.directory, dtype)


def load_teacher(directory, device="cpu", dtype="float32"):
    """The BERT in a Hugging Face directory (config.json, model.safetensors or its shards, a tokenizer).

    Names with or without `bert.`, LayerNorm gamma/beta or weight/bias, float16 and bfloat16 tensors; pooler and
    classifier are used if present. InputError names what is missing or mis-shaped; unexpected tensors are a warning.
    """
    directory, kind = Path(directory), float_dtype(dtype)
    library(device)
    require_directory(directory)
    raw = read_json(directory / "config.json")
    if raw.get("model_type", "bert") != "bert":
        raise InputError(f"{directory / 'config.json'}: model_type: found {raw['model_type']!r}, expected 'bert'")
    tensors = hugging_face_names(read_model_tensors(directory))
    classifier = tensors.get("classifier.weight")
    if classifier is not None and (other := other_head(raw)):
        warnings.warn(f"{directory}: the classifier of {other} is left out: it does not tell texts apart", stacklevel=2)
        tensors = {n: t for n, t in tensors.items() if not n.startswith("classifier.")}
        classifier = None
    if classifier is not None and classifier.ndim != 2:
        raise InputError(f"{directory}: mis-shaped tensors: classifier.weight is {classifier.shape}, expected 2 axes")
    labels = None if classifier is None else classifier.shape[0]
    declared = declared_labels(raw, directory / "config.json")
    if labels is not None and declared not in (None, labels):
        raise InputError(f"{directory}: classifier.weight has {labels} labels, config.json says {declared}")
    config = read_config(BertConfig, raw | {"num_labels": labels or declared or 2}, directory / "config.json")
    require_depth(config, tensors, directory)
    has_pooler = "pooler.dense.weight" in tensors
    shapes = bert.parameter_shapes(config, labels, has_pooler)
    tree = nest(placed(fit_tensors(tensors, shapes, (), directory), device, kind, copy=False))
    return Teacher(config, tree, device, directory, raw)


def other_head(raw_config):
    """What config.json calls a head whose outputs are not the classes of a text; "" if they are, or it names none."""
    if raw_config.get("problem_type") == "multi_label_classification":
        return "problem_type multi_label_classification"
    names = raw_config.get("architectures")
    names = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
    return ", ".join(n for n in names if n.endswith(OTHER_HEADS))


def with_classifier(teacher, labels, seed):
    """The teacher with a fresh classifier of `labels` outputs, unless it has one of that size already."""
    tree, d = dict(teacher.tree), teacher.config.hidden_size
    if "classifier" not in tree or tree["classifier"]["weight"].shape[0] != labels:
        like = tree["embeddings"]["LayerNorm"]["weight"]
        rng = np.random.default_rng(seed)
        weight = (teacher.config.initializer_range * rng.standard_normal((labels, d))).astype(like.dtype)
        tree["classifier"] = {
            "weight": to_device(weight, teacher.device),
            "bias": to_device(np.zeros(labels, like.dtype), teacher.device),
        }
    config = read_config(BertConfig, asdict(teacher.config) | {"num_labels": labels}, "classifier")
    return Teacher(config, tree, teacher.device, teacher.directory, teacher.raw_config)
