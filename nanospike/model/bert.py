"""The graph of a post-LayerNorm BERT (Devlin et al. 2019): value and vjp.

The teacher and the student are this one graph. They differ in `fire(population, current)`, which turns the
current of a population into what its neurons send on: nothing but the current for the teacher (`pass_on`), an
equilibrium rate, or the spikes of one time step. Like every op it returns (value, vjp); its vjp(dy, grads=None) adds
the gradients of what parameters the neurons have into `grads`, that of all neurons of the model.

Axes: B examples, L tokens, D hidden, H heads, N encoders, C labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays import ops
from ..arrays.backend import namespace
from ..arrays.tree import RowSum, child

POPULATIONS = ("key", "value", "attention", "attention_output", "intermediate", "output")


def pass_on(population, current):
    return current, lambda dy, grads=None: dy


def populations(encoders):
    """The names of all populations, in the order in which a sweep visits them."""
    return ["embedding"] + [f"encoder.{i}.{p}" for i in range(encoders) for p in POPULATIONS]


def parameter_shapes(config, labels=None, pooler=False):
    """{Hugging Face name: shape} of the tensors, matrices (out, in)."""
    d, f = config.hidden_size, config.intermediate_size
    shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, d),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, d),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
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
    for i in range(config.num_hidden_layers):
        for name, shape in affine.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
    if pooler:
        shapes |= {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}
    if labels:
        shapes |= {"classifier.weight": (labels, d), "classifier.bias": (labels,)}
    return shapes


def embeddings(input_ids, token_type_ids, p, eps):
    """LayerNorm(word + position + segment).   ids (B, L), p = tree["embeddings"]  ->  (B, L, D)

    Its vjp(dy, grads) adds parameter gradients and returns nothing.
    """
    word, word_vjp = ops.embedding(input_ids, p["word_embeddings"]["weight"])
    segment, segment_vjp = ops.embedding(token_type_ids, p["token_type_embeddings"]["weight"])
    length = input_ids.shape[1]
    positions = p["position_embeddings"]["weight"]
    y, norm_vjp = ops.layer_norm(word + positions[:length] + segment, **p["LayerNorm"], eps=eps)

    def vjp(dy, grads):
        dx = norm_vjp(dy, child(grads, "LayerNorm"))
        table = child(grads, "position_embeddings")
        rows = table.setdefault("weight", RowSum(positions.shape))
        rows.add(namespace(dx).arange(length), dx.sum(axis=0))
        segment_vjp(dx, child(grads, "token_type_embeddings"))
        word_vjp(dx, child(grads, "word_embeddings"))

    return y, vjp


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What is done to activity on its way: fire(population, current), drop(x) of what a block gives out, and
    drop_attention(weights). Each returns (value, vjp)."""

    fire: Callable = pass_on
    drop: Callable = ops.identity
    drop_attention: Callable = ops.identity


def encoder(x, p, config, bias, flow, name):
    """One encoder: attention and feed-forward block, each with residual and LayerNorm.

    x (B, L, D), p = tree["encoder"]["layer"][i], bias = ops.mask_bias(...)  ->  y (B, L, D), attention
    scores (B, H, L, L), vjp(dy, dscores=None, grads=None, neurons=None) -> dx; `neurons`: gradients of the neurons'.
    """
    fire, drop, eps = flow.fire, flow.drop, config.layer_norm_eps
    this, output = p["attention"]["self"], p["attention"]["output"]
    query, query_vjp = ops.linear(x, **this["query"])
    key_current, key_vjp = ops.linear(x, **this["key"])
    key, key_fire = fire(f"{name}.key", key_current)
    value_current, value_vjp = ops.linear(x, **this["value"])
    value, value_fire = fire(f"{name}.value", value_current)
    context_current, scores, attend_vjp = ops.attention(
        query, key, value, bias, config.num_attention_heads, flow.drop_attention
    )
    context, context_fire = fire(f"{name}.attention", context_current)
    mixed, mix_vjp = ops.linear(context, **output["dense"])
    mixed, mix_drop = drop(mixed)
    middle_current, middle_norm = ops.layer_norm(mixed + x, **output["LayerNorm"], eps=eps)
    middle, middle_fire = fire(f"{name}.attention_output", middle_current)
    wide, up_vjp = ops.linear(middle, **p["intermediate"]["dense"])
    inner_current, gelu_vjp = ops.gelu(wide)
    inner, inner_fire = fire(f"{name}.intermediate", inner_current)
    narrow, down_vjp = ops.linear(inner, **p["output"]["dense"])
    narrow, down_drop = drop(narrow)
    y_current, y_norm = ops.layer_norm(narrow + middle, **p["output"]["LayerNorm"], eps=eps)
    y, y_fire = fire(f"{name}.output", y_current)

    def vjp(dy, dscores=None, grads=None, neurons=None):
        at = lambda *path: child(grads, *path)  # noqa: E731
        dsum = y_norm(y_fire(dy, neurons), at("output", "LayerNorm"))
        dinner = down_vjp(down_drop(dsum), at("output", "dense"))
        dwide = gelu_vjp(inner_fire(dinner, neurons))
        dmiddle = up_vjp(dwide, at("intermediate", "dense")) + dsum
        dsum = middle_norm(middle_fire(dmiddle, neurons), at("attention", "output", "LayerNorm"))
        dcontext = mix_vjp(mix_drop(dsum), at("attention", "output", "dense"))
        dquery, dkey, dvalue = attend_vjp(context_fire(dcontext, neurons), dscores)
        dx = value_vjp(value_fire(dvalue, neurons), at("attention", "self", "value"))
        dx += key_vjp(key_fire(dkey, neurons), at("attention", "self", "key"))
        dx += query_vjp(dquery, at("attention", "self", "query"))
        dx += dsum
        return dx

    return y, scores, vjp


@dataclass(frozen=True)
class Trace:
    """One sweep: hidden_states, N+1 arrays (B, L, D), embedding first; attention_scores, N of (B, H, L, L).

    `vjp(dhidden, dscores=None, grads=None)` -> cotangent of the embedding current (B, L, D). `dhidden` has N+1
    entries and `dscores` N, each an array or None; `grads` is that of the whole model.
    """

    hidden_states: list
    attention_scores: list
    vjp: Callable


def encoders(current, layers, config, attention_mask, flow, differentiable=True):
    """The embedding neurons, driven by `current` (B, L, D), and all encoders on top of them: a Trace.

    differentiable=False: the trace's vjp is None, and what an encoder computed is freed as soon as it is done.
    """
    bias = ops.mask_bias(attention_mask, current.dtype)
    x, x_fire = flow.fire("embedding", current)
    hidden, scores, vjps = [x], [], []
    for i, p in enumerate(layers):
        x, s, encoder_vjp = encoder(x, p, config, bias, flow, f"encoder.{i}")
        hidden.append(x)
        scores.append(s)
        if differentiable:
            vjps.append(encoder_vjp)

    def vjp(dhidden, dscores=None, grads=None):
        neurons = child(grads, "thresholds")
        dx = dhidden[-1] if dhidden[-1] is not None else hidden[-1] * 0
        for i in reversed(range(len(vjps))):
            dx = vjps[i](dx, dscores and dscores[i], child(grads, "encoder", "layer", i), neurons)
            if dhidden[i] is not None:
                dx += dhidden[i]
        return x_fire(dx, neurons)

    return Trace(hidden, scores, vjp if differentiable else None)


def classify(hidden, tree, drop=ops.identity):
    """Logits from the [CLS] state of the last hidden state, through the pooler if the tree has one.

    hidden (B, L, D)  ->  logits (B, C), vjp(dlogits, grads=None) -> dhidden (B, L, D).
    """
    first, pool_vjp = hidden[:, 0], None
    if "pooler" in tree:
        dense, dense_vjp = ops.linear(first, **tree["pooler"]["dense"])
        first, pool_vjp = ops.tanh(dense)
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


def teacher(tree, config, inputs, flow, differentiable=True):
    """An ordinary BERT: TeacherOutput and vjp(dhidden, dscores, dlogits, grads), which fills `grads`.

    inputs: input_ids, attention_mask, token_type_ids (B, L).
    """
    input_ids, attention_mask, token_type_ids = inputs
    current, embed_vjp = embeddings(input_ids, token_type_ids, tree["embeddings"], config.layer_norm_eps)
    current, current_drop = flow.drop(current)
    trace = encoders(current, tree["encoder"]["layer"], config, attention_mask, flow, differentiable)
    logits, head_vjp = classify(trace.hidden_states[-1], tree, flow.drop) if "classifier" in tree else (None, None)

    def vjp(dhidden, dscores, dlogits, grads):
        dhidden = list(dhidden) if dhidden else [None] * len(trace.hidden_states)
        if dlogits is not None:
            dlast = head_vjp(dlogits, grads)
            dhidden[-1] = dlast if dhidden[-1] is None else dhidden[-1] + dlast
        embed_vjp(current_drop(trace.vjp(dhidden, dscores, grads)), child(grads, "embeddings"))

    return TeacherOutput(trace.hidden_states, trace.attention_scores, logits), vjp
