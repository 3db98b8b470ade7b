"""Weights of an ONNX file, through the extra `onnx`: its graph is looked at, not run.

An exporter names biases and norms after the model, but turns the matrix of a linear layer round and calls it something
like onnx::MatMul_288. Such a matrix is known by its place: what it makes is added to a bias that has a name.
"""

from pathlib import Path

import numpy as np

from ..config.errors import InputError
from .tensors import all_finite


def read_onnx(path):
    """{name: array} of an ONNX file, matrices (out, in); float16 becomes float32.

    InputError without the extra, and for a file that it cannot read.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise InputError(f"{path}: reading it needs onnx: pip install 'nanospike[onnx]'") from None
    try:
        graph = onnx.load(str(path)).graph
        tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    except Exception as error:  # of protobuf, onnx and NumPy, each its own
        raise InputError(f"{path}: not an ONNX file: {' '.join(str(error).split())}") from None
    for node in graph.node:  # equal tensors are stored once
        if node.op_type == "Identity" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
    tensors |= dict(_matrices(graph, tensors))
    kept = {name: array for name, array in tensors.items() if "::" not in name and array.dtype.kind == "f"}
    if not kept:
        raise InputError(f"{path}: no weights with a name in it")
    where = Path(path)
    return {n: all_finite(_floats(a), f"{where}: {n}") for n, a in kept.items()}


def _floats(array):
    return array.astype(np.float32) if array.dtype == np.float16 else np.array(array)


def _matrices(graph, tensors):
    """(name, (out, in)) of the matrices without a name of their own."""
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in tensors:
            continue
        for reader in readers.get(node.output[0], ()):
            others = [name for name in reader.input if name != node.output[0]]
            if reader.op_type == "Add" and len(others) == 1 and others[0].endswith(".bias") and others[0] in tensors:
                yield others[0].removesuffix("bias") + "weight", tensors[node.input[1]].T
