"""A student's equilibrium as an ONNX graph of ordinary nodes: it then runs where there is no Python.

The functions follow those of model.bert and arrays.ops line by line. Low-bit weights are int8 patterns and a scale a
row; powers of two are Pow(2, whole number). Needs the extra `onnx`. Axes: as there.
"""

import json
import math

import numpy as np

from ..arrays import ops_shift
from ..arrays.backend import to_host
from ..arrays.ops import MASKED
from ..config.errors import InputError
from ..files.model_files import replacing
from ..model import neuron
from ..model.equilibrium import thresholds
from ..model.quantise import low_bit, low_bit_names, split

OPSET, IR = 17, 8  # what was there in 2022: LayerNormalization is one node since then
MOST_BYTES = 2**31 - 2**20  # of a file in this format
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
GELU_CUBIC = 0.044715


def write_onnx(student, out):
    """Write the graph to the file `out`: ids, mask and segments (B, L) -> logits (B, C), rates (B, L, D).

    Numbers are of the student's dtype. InputError for a student whose equilibrium is no chain of layers.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("export --format onnx: needs onnx: pip install 'nanospike[onnx]'") from None
    _require_chain(student.config)
    if out.exists():
        raise InputError(f"{out}: exists already, expected a file to be made")
    model = onnx_model(student, onnx)
    if model.ByteSize() > MOST_BYTES:
        raise InputError(f"{out}: {model.ByteSize()} bytes, an ONNX file holds at most {MOST_BYTES}")
    onnx.checker.check_model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _require_chain(config):
    if config.recurrent:
        raise InputError("export --format onnx: a student with a loop settles by iteration, which the graph has not")
    if config.reset == "hard":
        raise InputError("export --format onnx: under a hard reset there is no equilibrium to write")
    if config.activation_bits:
        raise InputError("export --format onnx: not for ordinary BERTs whose activations are rounded")


class Graph:
    """Nodes and constants as they are made. Its methods take and return names of tensors."""

    def __init__(self, student, onnx):
        self.onnx, self.nodes, self.constants, self.made = onnx, [], [], {}
        self.tensors = {name: to_host(t) for name, t in student.parameters().items()}
        self.dtype = self.tensors["classifier.weight"].dtype
        self.low = low_bit_names(student.config)

    def node(self, kind, *inputs, **attributes):
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value, dtype=None):
        """Of a number or a list; equal ones are stored once."""
        array = np.asarray(value, dtype or self.dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.made:
            self.made[key] = self._store(f"constant_{len(self.made)}", array)
        return self.made[key]

    def _store(self, name, array):
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def integers(self, *values):
        return self.constant(list(values), np.int64)

    def number(self, x):
        """x as a floating-point number."""
        return self.node("Cast", x, to=self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype))

    def parameter(self, name):
        """A weight with which the student computes, as it is stored: float."""
        key = ("parameter", name)
        if key not in self.made:
            self.made[key] = self._store(name, self.tensors[name])
        return self.made[key]

    def matrix(self, name):
        """(in, out) of a weight (out, in)."""
        if name not in self.low:
            return self._store(name, self.tensors[name].T)
        pattern, scale = split(low_bit(self.tensors[name], self.low[name]))
        return self.node("Mul", self.number(self._store(name, pattern.T)), self._store(f"{name}.scale", scale))

    def rows(self, name, indices):
        """Rows of a table."""
        if name not in self.low:
            return self.node("Gather", self.parameter(name), indices)
        pattern, scale = split(low_bit(self.tensors[name], self.low[name]))
        picked = self.number(self.node("Gather", self._store(name, pattern), indices))
        return self.node("Mul", picked, self.node("Gather", self._store(f"{name}.scale", scale[:, None]), indices))

    def linear(self, x, name):
        product = self.node("MatMul", x, self.matrix(f"{name}.weight"))
        return self.node("Add", product, self.parameter(f"{name}.bias"))

    def greater(self, x, value):
        """1 where x > value, else 0."""
        return self.number(self.node("Greater", x, self.constant(value)))

    def times(self, x, value):
        return self.node("Mul", x, self.constant(value))

    def plus(self, x, value):
        return self.node("Add", x, self.constant(value))


# ---- operators ------------------------------------------------------------------------------------------------------


def power_of_two(g, exponent):
    return g.node("Pow", g.constant(2), exponent)


def nearest_exponent(g, x):
    """rint(log2 x) as ops_shift has it: x / 2^k in [sqrt(1/2), sqrt(2)), whatever the logarithm rounds."""
    k = g.node("Floor", g.plus(g.times(g.node("Log", x), 1 / math.log(2)), 0.5))
    ratio = g.node("Mul", x, power_of_two(g, g.node("Neg", k)))
    below = g.plus(g.times(g.greater(ratio, np.nextafter(g.dtype.type(math.sqrt(0.5)), g.dtype.type(0))), -1), 1)
    above = g.greater(ratio, np.nextafter(g.dtype.type(math.sqrt(2)), g.dtype.type(0)))
    return g.node("Sub", g.node("Add", k, above), below)


def shift_softmax(g, x):
    best = g.node("ReduceMax", x, axes=[-1])
    d = g.node("Round", g.times(g.node("Sub", x, best), ops_shift.LOG2_E))
    seen = g.node("Less", d, g.constant(ops_shift.LEAST_POWER))
    least = g.constant(ops_shift.LEAST_POWER)
    powers = g.node("Where", seen, g.constant(0), power_of_two(g, g.node("Max", d, least)))
    total = g.node("ReduceSum", powers, g.integers(-1))
    return g.node("Mul", powers, power_of_two(g, g.node("Neg", nearest_exponent(g, total))))


def shift_norm(g, x, name, half_steps):
    size = g.times(g.node("ReduceMean", g.node("Abs", x), axes=[-1]), ops_shift.SPREAD)
    size = g.node("Max", size, g.constant(2.0**ops_shift.LEAST_EXPONENT))
    gain = power_of_two(g, g.node("Neg", nearest_exponent(g, size)))
    if half_steps:
        ratio = g.node("Mul", size, gain)
        small = g.number(g.node("Less", ratio, g.constant(math.sqrt(2 / 3))))
        gain = g.node("Mul", gain, g.plus(g.times(small, 0.5), 1))
        gain = g.node("Mul", gain, g.plus(g.times(g.greater(ratio, math.sqrt(4 / 3)), -0.25), 1))
    scaled = g.node("Mul", g.node("Mul", x, gain), g.parameter(f"{name}.weight"))
    return g.node("Add", scaled, g.parameter(f"{name}.bias"))


def gelu(g, x):
    return g.node("Mul", x, g.times(g.plus(g.node("Erf", g.times(x, math.sqrt(0.5))), 1), 0.5))


def gelu_tanh(g, x):
    inner = g.plus(g.times(g.node("Mul", x, x), GELU_CUBIC), 1)
    t = g.node("Tanh", g.node("Mul", g.times(x, math.sqrt(2 / math.pi)), inner))
    return g.node("Mul", g.times(x, 0.5), g.plus(t, 1))


def relu(g, x):
    """Not the node Relu: onnxruntime fuses it with a Clip, which it cannot do in float64."""
    return g.node("Max", x, g.constant(0))


def silu(g, x):
    return g.node("Mul", x, g.node("Sigmoid", x))


ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), gelu),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), gelu_tanh),
    **dict.fromkeys(("silu", "swish"), silu),
    "relu": relu,
}


# ---- the student ----------------------------------------------------------------------------------------------------


class Writer:
    """The student's graph, block by block; g: the Graph that it writes to."""

    def __init__(self, g, student):
        self.g, self.config, self.thresholds = g, student.config, thresholds(student.tree)

    def fire(self, population, current):
        if self.config.activation == "ann":
            return current
        v_th = self.thresholds.get(population, self.config.v_th)
        if hasattr(v_th, "shape") or v_th != 1:
            current = self.g.node("Div", current, self.g.constant(to_host(v_th) if hasattr(v_th, "shape") else v_th))
        signed = neuron.spikes_of(population, self.config.spikes, self.config) == "signed"
        return self.g.node("Clip", current, self.g.constant(-1 if signed else 0), self.g.constant(1))

    def norm(self, x, name, operator="norm"):
        if operator in self.config.shifts:
            return shift_norm(self.g, x, name, self.config.half_steps)
        scale, shift = (self.g.parameter(f"{name}.{kind}") for kind in ("weight", "bias"))
        return self.g.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=self.config.layer_norm_eps)

    def embedding(self):
        g = self.g
        length = g.node("Gather", g.node("Shape", "input_ids"), g.constant(1, np.int64))
        positions = g.node("Range", g.constant(0, np.int64), length, g.constant(1, np.int64))
        total = g.rows("embeddings.word_embeddings.weight", "input_ids")
        total = g.node("Add", total, g.rows("embeddings.position_embeddings.weight", positions))
        total = g.node("Add", total, g.rows("embeddings.token_type_embeddings.weight", "token_type_ids"))
        return self.fire("embedding", self.norm(total, "embeddings.LayerNorm", "embedding-norm"))

    def heads(self, x):
        """(B, L, D) -> (B, H, L, D/H)."""
        h, d = self.config.num_attention_heads, self.config.hidden_size
        return self.g.node("Transpose", self.g.node("Reshape", x, self.g.integers(0, 0, h, d // h)), perm=[0, 2, 1, 3])

    def attention(self, x, i, bias):
        g, config, name = self.g, self.config, f"encoder.layer.{i}.attention.self"
        query = g.linear(x, f"{name}.query")
        if "query" in config.shifts:
            query = self.fire(f"encoder.{i}.query", query)
            both = [self.thresholds.get(f"encoder.{i}.{kind}", config.v_th) for kind in ("query", "key")]
            query = g.times(query, np.prod([np.asarray(to_host(v)).item() if hasattr(v, "shape") else v for v in both]))
        key, value = (self.fire(f"encoder.{i}.{kind}", g.linear(x, f"{name}.{kind}")) for kind in ("key", "value"))
        turned = g.node("Transpose", self.heads(key), perm=[0, 1, 3, 2])
        scores = g.times(g.node("MatMul", self.heads(query), turned), 1 / math.sqrt(self.width))
        scores = g.node("Add", scores, bias)
        weights = shift_softmax(g, scores) if "softmax" in config.shifts else g.node("Softmax", scores, axis=-1)
        mixed = g.node("Transpose", g.node("MatMul", weights, self.heads(value)), perm=[0, 2, 1, 3])
        return self.fire(f"encoder.{i}.attention", g.node("Reshape", mixed, g.integers(0, 0, config.hidden_size)))

    @property
    def width(self):
        return self.config.hidden_size // self.config.num_attention_heads

    def encoder(self, x, i, bias):
        g, name = self.g, f"encoder.layer.{i}"
        mixed = g.linear(self.attention(x, i, bias), f"{name}.attention.output.dense")
        middle = self.norm(g.node("Add", mixed, x), f"{name}.attention.output.LayerNorm")
        middle = self.fire(f"encoder.{i}.attention_output", middle)
        inner = self.activation(g.linear(middle, f"{name}.intermediate.dense"))
        inner = self.fire(f"encoder.{i}.intermediate", inner)
        y = self.norm(g.node("Add", g.linear(inner, f"{name}.output.dense"), middle), f"{name}.output.LayerNorm")
        return self.fire(f"encoder.{i}.output", y)

    def activation(self, x):
        if "relu" not in self.config.shifts:
            return ACTIVATIONS[self.config.hidden_act](self.g, x)
        return relu(self.g, x) if self.config.activation == "ann" else x

    def run(self):
        """(logits, rates of the last encoder)."""
        g = self.g
        padded = g.number(g.node("Equal", "attention_mask", g.constant(0, np.int64)))
        bias = g.node("Unsqueeze", g.times(padded, MASKED), g.integers(1, 2))
        x = self.embedding()
        for i in range(self.config.num_hidden_layers):
            x = self.encoder(x, i, bias)
        return g.linear(g.node("Gather", x, g.constant(0, np.int64), axis=1), "classifier"), x


def onnx_model(student, onnx):
    """The ModelProto of a student's equilibrium; the names of its classes are in the metadata."""
    g, helper = Graph(student, onnx), onnx.helper
    found = Writer(g, student).run()
    for name, made in zip(("logits", "rates"), found, strict=True):
        g.nodes.append(helper.make_node("Identity", [made], [name]))
    kind, config = helper.np_dtype_to_tensor_dtype(g.dtype), student.config
    axes = {"logits": ["batch", config.num_labels], "rates": ["batch", "length", config.hidden_size]}
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.INT64, ["batch", "length"]) for n in INPUTS]
    outputs = [helper.make_tensor_value_info(n, kind, shape) for n, shape in axes.items()]
    graph = helper.make_graph(g.nodes, "nanospike", inputs, outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    model.producer_name = "nanospike"
    helper.set_model_props(model, {"id2label": json.dumps(student.raw_config.get("id2label") or {})})
    return model
