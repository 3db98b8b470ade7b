"""A student's directory as a Student: with float weights, to train and to look at, or packed, to compute with."""

import math
from pathlib import Path

import numpy as np

from ..arrays.backend import float_dtype, library, to_device
from ..arrays.tree import nest
from ..config.errors import InputError
from ..config.models import StudentConfig, read_config
from ..files.model_files import (
    fit_tensors,
    packed_names,
    placed,
    read_json,
    read_model_tensors,
    require_depth,
)
from ..files.tensors import Packed, require_directory
from . import equilibrium, recurrence, settling
from .held import FileRows, PackedRows
from .quantise import low_bit_names
from .student import ONLY_FOR_TRAINING, Student, fresh_distill_map


def load_student(directory, device="cpu", dtype="float32"):
    """The student that `python -m nanospike.distill` wrote to `directory`. InputError names what does not fit."""
    return _loaded(directory, device, dtype, lambda tensors, low_bit: placed(tensors, device, dtype, copy=False))


def load_held(directory, device="cpu", dtype="float32"):
    """load_student(...).held(), but what is packed in the file is at no time float in memory."""

    def hold(tensors, low_bit):
        packed = {n: t for n, t in tensors.items() if n in low_bit and isinstance(t, Packed)}
        if packed:
            tensors = {n: t for n, t in tensors.items() if n not in ONLY_FOR_TRAINING}
        arrays = placed({n: t for n, t in tensors.items() if n not in packed}, device, dtype, copy=False)
        return arrays | {n: _packed_rows(n, t, device, dtype) for n, t in packed.items()}

    return _loaded(directory, device, dtype, hold).held()


def _packed_rows(name, stored, device, dtype):
    if name.startswith("embeddings."):
        codes, scale = stored.bytes()
        return FileRows(to_device(codes, device), to_device(scale.astype(dtype), device), stored.kind, stored.shape)
    pattern, scale = stored.parts()
    return PackedRows(to_device(pattern, device), to_device(scale.astype(dtype), device), stored.kind)


def _loaded(directory, device, dtype, place):
    """place({name: array, tensors.Stored or tensors.Packed}, names of low-bit weights) -> {name: what is held}."""
    directory = Path(directory)
    float_dtype(dtype)
    library(device)
    require_directory(directory)
    raw = read_json(directory / "config.json")
    if raw.get("model_type") != "nanospike":
        found = raw.get("model_type")
        raise InputError(f"{directory / 'config.json'}: model_type: found {found!r}, expected 'nanospike' (a student)")
    config = read_config(StudentConfig, raw, directory / "config.json")
    tensors = read_model_tensors(directory)
    require_depth(config, tensors, directory)
    small = {n: np.atleast_1d(t) for n, t in tensors.items() if n.startswith("thresholds.") and t.ndim == 0}
    tensors |= small
    shapes = equilibrium.parameter_shapes(config) | settling.threshold_shapes(config, tensors)
    low_bit = low_bit_names(config).keys()
    tensors = fit_tensors(tensors, shapes, ONLY_FOR_TRAINING, directory)
    for name in ONLY_FOR_TRAINING:
        if name not in tensors:
            if math.prod(shapes[name]) > max(math.prod(t.shape) for t in tensors.values()):
                raise InputError(f"{directory}: missing tensors: {name}, which config.json makes {shapes[name]}")
            tensors[name] = fresh_distill_map(shapes[name], config)
    for name, tensor in tensors.items():
        if name.startswith("thresholds.") and not (np.asarray(tensor) > 0).all():
            raise InputError(f"{directory}: {name}: found {np.min(tensor)}, expected positive thresholds")
        if name == "lateral.weight" and not recurrence.is_inhibition(np.asarray(tensor)):
            raise InputError(f"{directory}: {name}: expected numbers of at least 0, and 0 in the diagonal")
    return Student(config, nest(place(tensors, low_bit)), device, directory, raw, low_bit <= packed_names(directory))
