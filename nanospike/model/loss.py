"""The distillation losses, each with its vjp.

Axes: B examples, L tokens, D student width, E teacher width, H heads, C labels. Padding is left out, not zero-filled.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import ops
from ..arrays.backend import namespace
from ..arrays.tree import child
from ..config.errors import InputError
from . import twins


@dataclass(frozen=True)
class Totals:
    """What the means divide by: the examples, real tokens and pairs of real tokens of a whole batch.

    A loss may be given a part of that batch only (a shard): the terms and the gradients of all the parts then add up to
    those of the whole.
    """

    examples: Any
    tokens: Any
    pairs: Any

    @classmethod
    def of(cls, attention_mask):
        """The totals of a batch, from its mask (B, L)."""
        return cls.of_lengths(attention_mask.sum(axis=1))

    @classmethod
    def of_lengths(cls, lengths):
        """The totals of a batch, from the lengths (B,) of its examples, of any integer type."""
        lengths = lengths.astype("int64", copy=False)  # the squares of a short type would wrap
        return cls(len(lengths), lengths.sum(), (lengths * lengths).sum())


def hidden_loss(a, target, attention_mask, distill_map, totals=None):
    """Mean over real tokens and width of (a W_td^T + b_td - target)^2.   a (B, L, D), target (B, L, E)

    vjp(cotangent, grads=None) -> da; grads is that of distill_map. totals: of the whole batch, None: this is it.
    """
    mapped, map_vjp = ops.linear(a, **distill_map)
    difference, squares = difference_of(mapped, target, attention_mask)
    count = _number(totals or Totals.of(attention_mask), "tokens", mapped) * target.shape[-1]

    def vjp(cotangent, grads=None):
        return map_vjp(difference * (2 * cotangent / count), grads)

    return squares / count, vjp


def attention_loss(scores, target, attention_mask, totals=None):
    """Mean over heads and pairs of real tokens of (S - target)^2.   (B, H, L, L);  vjp(cotangent) -> dS"""
    if scores.shape[1] != target.shape[1]:
        raise InputError(
            f"attention loss: student has {scores.shape[1]} heads, teacher {target.shape[1]}; set its weight to 0"
        )
    difference, squares = difference_of(scores, target, attention_mask)
    count = _number(totals or Totals.of(attention_mask), "pairs", scores) * scores.shape[1]
    return squares / count, lambda cotangent: difference * (2 * cotangent / count)


def difference_of(a, target, attention_mask):
    """(a - target, 0 at padding, and the sum of its squares); a (B, L, D), or (B, H, L, L), where both tokens count."""
    if twin := twins.difference(a, target):
        return twin(a, target, attention_mask)
    real = attention_mask.astype(a.dtype)
    real = real[:, :, None] if a.ndim == 3 else (real[:, :, None] * real[:, None, :])[:, None]
    difference = namespace(a).where(real != 0, a - target, 0)
    return difference, (difference * difference).sum()


def _number(totals, name, like):
    """One of the totals as something by which dividing `like` promotes nothing and takes no copy to a device."""
    number, xp = getattr(totals, name), namespace(like)
    return xp.asarray(number, like.dtype) if xp is np or hasattr(number, "get") else float(number)


def logits_loss(logits, target, temperature=1.0, totals=None):
    """Mean over the batch of -sum_c softmax(target / T)_c log_softmax(logits / T)_c.   (B, C);  vjp -> dlogits

    With one output the model is a regression: squared error instead.
    """
    if logits.shape[1] == 1:
        return squared_error(logits, target[:, 0], totals)
    examples = totals.examples if totals else logits.shape[0]
    wanted, _ = ops.softmax(target / temperature)
    log_given = _log_softmax(logits / temperature)
    scale = 1 / (examples * temperature)
    slope = namespace(logits).exp(log_given) - wanted
    return -(wanted * log_given).sum() / examples, lambda cotangent: slope * (cotangent * scale)


def label_loss(logits, labels, totals=None, class_weights=None):
    """Mean cross-entropy of logits (B, C) and int labels (B,); with C = 1 mean squared error. vjp -> dlogits

    class_weights: (C,) factors on the examples of each class; the mean still divides by their number.
    """
    if logits.shape[1] == 1:
        return squared_error(logits, labels.astype(logits.dtype), totals)
    examples = totals.examples if totals else logits.shape[0]
    xp = namespace(logits, labels)
    one_hot = (labels[:, None] == xp.arange(logits.shape[1])).astype(logits.dtype)
    log_given = _log_softmax(logits)
    slope = (xp.exp(log_given) - one_hot) / examples
    if class_weights is not None:
        weights = class_weights.astype(logits.dtype)[labels][:, None]
        slope, one_hot = slope * weights, one_hot * weights
    return -(one_hot * log_given).sum() / examples, lambda cotangent: slope * cotangent


def squared_error(logits, target, totals=None):
    """Mean squared error of logits (B, 1) and target (B,)."""
    examples = totals.examples if totals else logits.shape[0]
    difference = logits - target[:, None]
    return (difference * difference).sum() / examples, lambda cotangent: difference * (cotangent * (2 / examples))


def spike_penalty(rates, attention_mask, weight, totals=None):
    """weight times the sum over populations of the mean |rate| of their neurons at real tokens.

    rates: {population: (B, L, W)}. vjp(shares=None) -> {population: cotangent}; shares: see distillation.
    """
    value, signs = 0, {}
    for name, a in rates.items():
        real = attention_mask.astype(a.real.dtype)[:, :, None]
        sign = namespace(a).sign(a.real) * real
        scale = weight / (_number(totals or Totals.of(attention_mask), "tokens", a.real) * a.shape[-1])
        value = value + (a * sign).sum() * scale
        signs[name] = sign * scale

    def vjp(shares=None):
        return signs if shares is None else {n: s * shares[:, None, None] for n, s in signs.items()}

    return value, vjp


def _log_softmax(x):
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - namespace(x).log(namespace(x).exp(shifted).sum(axis=-1, keepdims=True))


def teacher_layers(encoders, teacher_encoders, layer_map=None):
    """The teacher's layer for each of the student's 0..N; 0 is the embedding.

    layer_map: N layers (1..M) for the student's 1..N, or N+1 with the embedding's first; None: l M / N.
    """
    if layer_map is None or len(layer_map) == 0:
        if teacher_encoders % encoders:
            raise InputError(
                f"layer map: {encoders} encoders do not divide the teacher's {teacher_encoders}; give --layer-map with "
                f"{encoders} of its layers"
            )
        return [i * teacher_encoders // encoders for i in range(encoders + 1)]
    layers = [int(i) for i in layer_map]
    layers = layers if len(layers) == encoders + 1 else [0, *layers]
    if len(layers) != encoders + 1 or not all(0 <= i <= teacher_encoders for i in layers):
        raise InputError(
            f"layer map: found {list(layer_map)}, expected {encoders} layers between 1 and {teacher_encoders}"
        )
    if 0 in layers[1:]:
        raise InputError(f"layer map: found {list(layer_map)}; layer 0, the embedding, has no attention scores")
    return layers


def _depth(teacher_out, otherwise):
    """The teacher's number of encoders, from whichever of its parts is there."""
    if teacher_out.attention_scores is not None:
        return len(teacher_out.attention_scores)
    return len(teacher_out.hidden_states) - 1 if teacher_out.hidden_states is not None else otherwise


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weights of the distillation loss's terms. layer_map: see teacher_layers; classes: (C,), see label_loss.

    spikes: of spike_penalty, which is no part of `distillation`.
    """

    hidden: float = 1.0
    attention: float = 1.0
    logits: float = 1.0
    labels: float = 1.0
    temperature: float = 1.0
    layer_map: Any = None
    classes: Any = None
    spikes: float = 0.0

    def shared(self, parts):
        """The weights of one of several parts that are alike."""
        if parts == 1:
            return self
        names = ("hidden", "attention", "logits", "labels", "spikes")
        return replace(self, **{n: getattr(self, n) / parts for n in names})


@dataclass(frozen=True)
class Targets:
    """What the loss compares a student with: a bert.TeacherOutput, and labels (B,) if they count.

    totals: those of the whole batch where this is a part of it.
    """

    teacher: Any
    labels: Any = None
    totals: Totals | None = None


def distillation(states, targets, attention_mask, distill_map, weights):
    """The weighted sum of the distillation terms. A term whose teacher part is None or whose weight is 0 is left out.

    states: the student's hidden states (N+1 of (B, L, D)), attention scores (N of (B, H, L, L)) and logits (B, C).
    targets: a Targets. weights: a LossWeights.

    Returns (terms, vjp): terms is {name: 0-d array}, already weighted, whose sum is the loss; vjp(grads, shares) ->
    (dhidden, dscores, dlogits), lists with None where nothing flows, and adds distill_map's gradient to its tree.
    shares (B,): factors on what each example contributes to the gradient; None: 1.
    """
    hidden_states, scores, student_logits = states
    teacher_out, hidden, attention = targets.teacher, weights.hidden, weights.attention
    terms, hidden_vjps, score_vjps, logit_vjps = {}, {}, {}, []
    totals = targets.totals or Totals.of(attention_mask)
    if hidden or attention:
        layers = teacher_layers(len(scores), _depth(teacher_out, len(scores)), weights.layer_map)
    if hidden and teacher_out.hidden_states is not None:
        for i, a in enumerate(hidden_states):
            target = teacher_out.hidden_states[layers[i]]
            value, hidden_vjps[i] = hidden_loss(a, target, attention_mask, distill_map, totals)
            terms["hidden"] = terms.get("hidden", 0) + hidden * value
    if attention and teacher_out.attention_scores is not None:
        for i, s in enumerate(scores):
            target = teacher_out.attention_scores[layers[i + 1] - 1]
            value, score_vjps[i] = attention_loss(s, target, attention_mask, totals)
            terms["attention"] = terms.get("attention", 0) + attention * value
    if weights.logits and teacher_out.logits is not None:
        value, vjp = logits_loss(student_logits, teacher_out.logits, weights.temperature, totals)
        terms["logits"], logit_vjps = weights.logits * value, [(vjp, weights.logits)]
    if targets.labels is not None and weights.labels:
        value, vjp = label_loss(student_logits, targets.labels, totals, weights.classes)
        terms["labels"] = weights.labels * value
        logit_vjps.append((vjp, weights.labels))

    def vjp(grads=None, shares=None):
        def of(weight, axes):
            return weight if shares is None else weight * shares.reshape(-1, *(1,) * (axes - 1))

        dhidden = [
            hidden_vjps[i](of(hidden, 3), child(grads, "distill_map")) if i in hidden_vjps else None
            for i in range(len(hidden_states))
        ]
        dscores = [score_vjps[i](of(attention, 4)) if i in score_vjps else None for i in range(len(scores))]
        logit_parts = [vjp(of(weight, 2)) for vjp, weight in logit_vjps]
        dlogits = sum(logit_parts[1:], logit_parts[0]) if logit_parts else None
        return dhidden, dscores, dlogits

    return terms, vjp
