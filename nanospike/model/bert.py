"""The graph of a post-LayerNorm BERT (Devlin et al. 2019): value and vjp.

The teacher and the student are this one graph. They differ in `fire(population, current)`, which turns the
current of a population into what its neurons send on: nothing but the current for the teacher (`pass_on`), an
equilibrium rate, or the spikes of one time step. Like every op it returns (value, vjp); its vjp(dy, grads=None) adds
the gradients of what parameters the neurons have into `grads`, that of all neurons of the model.

Axes: B examples, L tokens, D hidden, H heads, N encoders, C labels.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays import ops, ops_shift
from ..arrays.backend import namespace
from ..arrays.tree import child
from . import twins
from .neuron import POPULATIONS

ACTIVATIONS = {  # by the names of config.json; tanh: of heads
    **dict.fromkeys(("gelu", "gelu_python"), ops.gelu),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), ops.gelu_tanh),
    **dict.fromkeys(("silu", "swish"), ops.silu),
    "relu": ops.relu,
    "tanh": ops.tanh,
}


ALL, FIRST = slice(None), slice(0, 1)  # tokens


def pass_on(population, current):
    return current, lambda dy, grads=None: dy


pass_on.bounds = lambda population: None  # see neuron.bounds


def populations(config):
    """The names of all populations, in the order in which a sweep visits them."""
    kinds = (("query",) if config.fires_queries else ()) + POPULATIONS
    return ["embedding"] + [f"encoder.{i}.{p}" for i in range(config.num_hidden_layers) for p in kinds]


def parameter_shapes(config, labels=None, pooler=False):
    """{Hugging Face name: shape} of the tensors, matrices (out, in)."""
    d, e = config.hidden_size, config.embedding_size
    shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, e),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, e),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, e),
        "embeddings.LayerNorm.weight": (e,),
        "embeddings.LayerNorm.bias": (e,),
    }
    if not config.segments:
        del shapes["embeddings.token_type_embeddings.weight"]
    if e != d:
        shapes |= {"embeddings_project.weight": (d, e), "embeddings_project.bias": (d,)}
    for i, f in enumerate(config.intermediate_widths):
        affine = {
            "attention.self.query": (d, d),
            "attention.self.key": (d, d),
            "attention.self.value": (d, d),
            "attention.output.dense": (d, d),
            "attention.output.LayerNorm": (d,),
            "intermediate.dense": (f, d),
            "output.dense": (d, f),
            "output.LayerNorm": (d,),
        }
        for name, shape in affine.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
    if pooler:
        shapes |= {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}
    if labels:
        shapes |= {"classifier.weight": (labels, d), "classifier.bias": (labels,)}
    return shapes


@dataclass(frozen=True)
class Operators:
    """The operators that may be shifts, each (value, vjp): softmax(x), norm(x, weight, bias) of an encoder and of the
    embedding, activation(x) between the two matrices of the feed-forward block."""

    softmax: Callable
    norm: Callable
    embedding_norm: Callable
    activation: Callable


@functools.cache
def operators(config):
    """The Operators of a model. Without GELU, the clip of the intermediate neurons is all there is between matrices."""
    layer_norm = functools.partial(ops.layer_norm, eps=config.layer_norm_eps)
    shift_norm = functools.partial(ops_shift.shift_norm, half_steps=getattr(config, "half_steps", False))
    bare = ops.relu if getattr(config, "activation", "ann") == "ann" else ops.identity
    return Operators(
        ops_shift.shift_softmax if "softmax" in config.shifts else ops.softmax,
        shift_norm if "norm" in config.shifts else layer_norm,
        shift_norm if "embedding-norm" in config.shifts else layer_norm,
        bare if "relu" in config.shifts else ACTIVATIONS[config.hidden_act],
    )


def embeddings(input_ids, token_type_ids, p, norm, positions=None):
    """norm(word + position + segment).   ids (B, L), p = tree["embeddings"]  ->  (B, L, E)

    positions (B, L): rows of the position table; None: 0, 1, ... A model may have no segments. Its vjp(dy, grads) adds
    parameter gradients and returns nothing.
    """
    if twin := twins.embeddings(p, norm, positions):
        return twin(input_ids, token_type_ids, p, norm.keywords["eps"])
    length, table = input_ids.shape[1], p["position_embeddings"]["weight"]
    word, word_vjp = ops.embedding(input_ids, p["word_embeddings"]["weight"])
    rows = namespace(input_ids).arange(length) if positions is None else positions
    position, position_vjp = ops.embedding(rows, table)
    total, segment_vjp = word + position, None
    if "token_type_embeddings" in p:
        segment, segment_vjp = ops.embedding(token_type_ids, p["token_type_embeddings"]["weight"])
        total = total + segment
    y, norm_vjp = twins.norm(norm, total)(total, **p["LayerNorm"])

    def vjp(dy, grads):
        dx = norm_vjp(dy, child(grads, "LayerNorm"))
        position_vjp(dx.sum(axis=0) if positions is None else dx, child(grads, "position_embeddings"))
        if segment_vjp:
            segment_vjp(dx, child(grads, "token_type_embeddings"))
        word_vjp(dx, child(grads, "word_embeddings"))

    return y, vjp


def unchanged(query):
    return query, lambda dy, neurons=None, drates=None: dy


def as_it_is(name, query):
    """The queries of an encoder that are not scaled on their way to its scores."""
    return query, lambda dy, grads=None: dy


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What is done to activity on its way: fire(population, current), drop(x) of what a block gives out,
    drop_attention(weights), and scale_query(name of the encoder, query), which is for spiking queries. Each returns
    (value, vjp); the vjps of fire and scale_query are vjp(dy, grads=None) with the gradients of the neurons' own."""

    fire: Callable = pass_on
    drop: Callable = ops.identity
    drop_attention: Callable = ops.identity
    scale_query: Callable = as_it_is


def firing(flow, name):
    """fire(kind, current) of the populations of the encoder `name`. Its vjp(dy, neurons, drates) -> dcurrent also takes
    in what drates, {population: cotangent} or None, holds of the population itself."""

    def fire(kind, current):
        population = f"{name}.{kind}"
        value, fire_vjp = flow.fire(population, current)

        def vjp(dy, neurons=None, drates=None):
            own = drates.get(population) if drates else None
            return fire_vjp(dy if own is None else dy + own, neurons)

        return value, vjp

    return fire


def attention_block(x, p, config, bias, flow, name, of=ALL):
    """Queries, keys and values, attention, and the norm of its output and x: the first half of an encoder.

    The same shapes and vjp as those of `encoder`; of: the tokens (a slice) whose output is wanted, all by default.
    """
    fire, these = firing(flow, name), operators(config)
    this, output, wanted = p["self"], p["output"], x[:, of]
    query, query_vjp = ops.linear(wanted, **this["query"])
    query, query_fire = fire("query", query) if config.fires_queries else unchanged(query)
    query, query_scale = flow.scale_query(name, query)
    key_current, key_vjp = ops.linear(x, **this["key"])
    key, key_fire = fire("key", key_current)
    value_current, value_vjp = ops.linear(x, **this["value"])
    value, value_fire = fire("value", value_current)
    context_current, scores, attend_vjp = ops.attention(
        query, key, value, bias, config.num_attention_heads, flow.drop_attention, these.softmax
    )
    context, context_fire = fire("attention", context_current)
    mixed, mix_vjp = ops.linear(context, **output["dense"])
    mixed, mix_drop = flow.drop(mixed)
    y_current, y_norm = these.norm(mixed + wanted, **output["LayerNorm"])
    y, y_fire = fire("attention_output", y_current)

    def vjp(dy, dscores=None, grads=None, neurons=None, drates=None):
        at = lambda *path: child(grads, *path)  # noqa: E731
        dsum = y_norm(y_fire(dy, neurons, drates), at("output", "LayerNorm"))
        dcontext = mix_vjp(mix_drop(dsum), at("output", "dense"))
        dquery, dkey, dvalue = attend_vjp(context_fire(dcontext, neurons, drates), dscores)
        dquery = query_fire(query_scale(dquery, neurons), neurons, drates)
        dx = value_vjp(value_fire(dvalue, neurons, drates), at("self", "value"))
        dx += key_vjp(key_fire(dkey, neurons, drates), at("self", "key"))
        dx[:, of] += query_vjp(dquery, at("self", "query"))
        dx[:, of] += dsum
        return dx

    return y, scores, vjp


def feed_forward_block(x, p, config, flow, name):
    """Two matrices with the intermediate neurons between them, and the norm of what they give and x.

    x (B, L, D), p = tree["encoder"]["layer"][i]  ->  y (B, L, D), vjp(dy, grads=None, neurons=None, drates=None) -> dx.
    """
    fire, these, output = firing(flow, name), operators(config), p["output"]
    wide, up_vjp = ops.linear(x, **p["intermediate"]["dense"])
    inner_current, activation_vjp = these.activation(wide)
    inner, inner_fire = fire("intermediate", inner_current)
    narrow, down_vjp = ops.linear(inner, **output["dense"])
    narrow, down_drop = flow.drop(narrow)
    y_current, y_norm = these.norm(narrow + x, **output["LayerNorm"])
    y, y_fire = fire("output", y_current)

    def vjp(dy, grads=None, neurons=None, drates=None):
        dsum = y_norm(y_fire(dy, neurons, drates), child(grads, "output", "LayerNorm"))
        dinner = down_vjp(down_drop(dsum), child(grads, "output", "dense"))
        dwide = activation_vjp(inner_fire(dinner, neurons, drates))
        return up_vjp(dwide, child(grads, "intermediate", "dense")) + dsum

    return y, vjp


def encoder(x, p, config, bias, flow, name, of=ALL):
    """One encoder: attention and feed-forward block, each with residual and norm; of: see attention_block.

    x (B, L, D), p = tree["encoder"]["layer"][i], bias = ops.mask_bias(...)  ->  y (B, L, D), attention
    scores (B, H, L, L), vjp(dy, dscores=None, grads=None, neurons=None, drates=None) -> dx; `neurons`: gradients of the
    neurons'; drates: cotangents of its populations, {name: array}.
    """
    middle, scores, attention_vjp = attention_block(x, p["attention"], config, bias, flow, name, of)
    y, feed_forward_vjp = feed_forward_block(middle, p, config, flow, name)

    def vjp(dy, dscores=None, grads=None, neurons=None, drates=None):
        dmiddle = feed_forward_vjp(dy, grads, neurons, drates)
        return attention_vjp(dmiddle, dscores, child(grads, "attention"), neurons, drates)

    return y, scores, vjp


@dataclass(frozen=True)
class Trace:
    """One sweep: hidden_states, N+1 arrays (B, L, D), embedding first; attention_scores, N of (B, H, L, L).

    `vjp(dhidden, dscores=None, grads=None, drates=None)` -> cotangent of the embedding current (B, L, D). `dhidden` has
    N+1 entries and `dscores` N, each an array or None; `grads` is that of the whole model; drates: {population:
    cotangent} of those inside the encoders.
    """

    hidden_states: list
    attention_scores: list
    vjp: Callable


def encoders(current, layers, config, attention_mask, flow, differentiable, of=ALL):
    """The embedding neurons, driven by `current` (B, L, D), and all encoders on top of them: a Trace.

    differentiable=False: the trace's vjp is None, and what an encoder computed is freed as soon as it is done. of: the
    tokens of which the last encoder's output is wanted.
    """
    bias = functools.cache(lambda: ops.mask_bias(attention_mask, current.dtype))  # no twin needs it
    x, x_fire = flow.fire("embedding", current)
    hidden, scores, vjps = [x], [], []
    for i, p in enumerate(layers):
        name, some = f"encoder.{i}", of if i == len(layers) - 1 else ALL
        twin = twins.encoder(x, p, config, flow, name) if some == ALL else None
        if twin:
            step = functools.partial(twin, mask=attention_mask)
        else:
            step = functools.partial(encoder, bias=bias(), of=some)
        x, s, encoder_vjp = step(x, p, config, flow=flow, name=name)
        hidden.append(x)
        scores.append(s)
        if differentiable:
            vjps.append(encoder_vjp)

    def vjp(dhidden, dscores=None, grads=None, drates=None):
        neurons, inner = child(grads, "thresholds"), (drates,) if drates else ()
        dx = dhidden[-1] if dhidden[-1] is not None else hidden[-1] * 0
        for i in reversed(range(len(vjps))):
            dx = vjps[i](dx, dscores and dscores[i], child(grads, "encoder", "layer", i), neurons, *inner)
            if dhidden[i] is not None:
                dx += dhidden[i]
        return x_fire(dx, neurons)

    return Trace(hidden, scores, vjp if differentiable else None)


def classify(hidden, tree, drop=ops.identity, activation=ops.tanh):
    """Logits from the [CLS] state of the last hidden state, through the pooler and its activation if the tree has one.

    hidden (B, L, D)  ->  logits (B, C), vjp(dlogits, grads=None) -> dhidden (B, L, D).
    """
    first, pool_vjp = hidden[:, 0], None
    if "pooler" in tree:
        dense, dense_vjp = ops.linear(first, **tree["pooler"]["dense"])
        first, pool_vjp = activation(dense)
    first, drop_vjp = drop(first)
    logits, linear_vjp = ops.linear(first, **tree["classifier"])

    def vjp(dlogits, grads=None):
        dfirst = drop_vjp(linear_vjp(dlogits, child(grads, "classifier")))
        if pool_vjp:
            dfirst = dense_vjp(pool_vjp(dfirst), child(grads, "pooler", "dense"))
        dhidden = hidden * 0
        dhidden[:, 0] = dfirst
        return dhidden

    return logits, vjp


@dataclass(frozen=True)
class TeacherOutput:
    """hidden_states, attention_scores as in Trace; logits (B, C), or None without a classifier."""

    hidden_states: list
    attention_scores: list
    logits: Any
