"""The distillation losses: gradients, and values against the formula written out with loops."""

import numpy as np
import pytest
from check import check_vjp
from hypothesis import given
from hypothesis import strategies as st

from nanospike.config.errors import InputError
from nanospike.model import loss
from nanospike.model.bert import TeacherOutput

SEEDS = st.integers(0, 2**31)
LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def mask_of(lengths):
    return (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)


def scalar(f):
    """Adapt value, vjp(cotangent, grads) of a scalar loss to check_vjp, which wants arrays."""

    def adapted(x, p):
        value, vjp = f(x, p)
        return np.array([value]), lambda d, *grads: vjp(d[0], *grads)

    return adapted


@given(seed=SEEDS, lengths=LENGTHS)
def test_hidden_gradient(seed, lengths):
    rng, mask = np.random.default_rng(seed), mask_of(lengths)
    params = {"weight": rng.standard_normal((5, 3)), "bias": rng.standard_normal(5)}
    target = rng.standard_normal((*mask.shape, 5))
    check_vjp(
        scalar(lambda x, p: loss.hidden_loss(x, target, mask, p)), rng.standard_normal((*mask.shape, 3)), params, rng
    )


@given(seed=SEEDS, lengths=LENGTHS)
def test_attention_gradient(seed, lengths):
    rng, mask = np.random.default_rng(seed), mask_of(lengths)
    shape = (len(lengths), 2, max(lengths), max(lengths))
    target = rng.standard_normal(shape)
    check_vjp(scalar(lambda x, p: loss.attention_loss(x, target, mask)), rng.standard_normal(shape), {}, rng)


@given(seed=SEEDS, batch=st.integers(1, 4), labels=st.integers(1, 4), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_logit_and_label_gradients(seed, batch, labels, temperature):
    rng = np.random.default_rng(seed)
    x, target = rng.standard_normal((2, batch, labels))
    check_vjp(scalar(lambda x, p: loss.logits_loss(x, target, temperature)), x.copy(), {}, rng)
    classes = rng.integers(0, labels, batch)
    check_vjp(scalar(lambda x, p: loss.label_loss(x, classes)), x.copy(), {}, rng)


@given(seed=SEEDS, lengths=LENGTHS, temperature=st.sampled_from([1.0, 2.0]), explicit=st.booleans())
def test_the_sum_is_the_formula(seed, lengths, temperature, explicit):
    """Student of 1 encoder and width 3, teacher of 2 and width 5, against nested loops over real tokens."""
    rng, mask = np.random.default_rng(seed), mask_of(lengths)
    b, length = mask.shape
    a, t = (
        [rng.standard_normal((b, length, 3)) for _ in range(2)],
        [rng.standard_normal((b, length, 5)) for _ in range(3)],
    )
    s, ts = (
        [rng.standard_normal((b, 2, length, length))],
        [rng.standard_normal((b, 2, length, length)) for _ in range(2)],
    )
    z, tz, labels = rng.standard_normal((b, 4)), rng.standard_normal((b, 4)), rng.integers(0, 4, b)
    w_td = {"weight": rng.standard_normal((5, 3)), "bias": rng.standard_normal(5)}
    layers = [0, 1] if explicit else [0, 2]
    expected = 0.0
    for level, layer in enumerate(layers):
        terms = [
            (a[level][i, j] @ w_td["weight"].T + w_td["bias"] - t[layer][i, j]) ** 2
            for i in range(b)
            for j in range(lengths[i])
        ]
        expected += 0.7 * np.mean(terms)
    pairs = [
        (s[0][i, h, j, k] - ts[layers[1] - 1][i, h, j, k]) ** 2
        for i in range(b)
        for h in range(2)
        for j in range(lengths[i])
        for k in range(lengths[i])
    ]
    expected += 0.4 * np.mean(pairs)
    soft = lambda v: np.exp(v) / np.exp(v).sum()  # noqa: E731
    expected += 1.3 * np.mean([-soft(tz[i] / temperature) @ np.log(soft(z[i] / temperature)) for i in range(b)])
    expected += np.mean([-np.log(soft(z[i])[labels[i]]) for i in range(b)])
    weights = loss.LossWeights(
        hidden=0.7, attention=0.4, logits=1.3, temperature=temperature, layer_map=[1] if explicit else None
    )
    targets = loss.Targets(TeacherOutput(t, ts, tz), labels)
    terms, _ = loss.distillation((a, s, z), targets, mask, w_td, weights)
    np.testing.assert_allclose(sum(terms.values()), expected, rtol=1e-12)


def test_padding_does_not_matter():
    rng, mask = np.random.default_rng(0), mask_of([2, 4])
    x, target = rng.standard_normal((2, 2, 4, 3))
    same = {"weight": np.eye(3), "bias": np.zeros(3)}
    before = loss.hidden_loss(x, target, mask, same)[0]
    x[0, 2:] = 1e3
    value, vjp = loss.hidden_loss(x, target, mask, same)
    assert value == before and not vjp(1.0)[0, 2:].any()


def test_missing_parts_and_zero_weights_are_left_out():
    rng, mask = np.random.default_rng(0), mask_of([2, 3])
    hidden, scores = [rng.standard_normal((2, 3, 4)) for _ in range(2)], [rng.standard_normal((2, 2, 3, 3))]
    logits, same = rng.standard_normal((2, 3)), {"weight": np.eye(4), "bias": np.zeros(4)}

    def run(out, **weights):
        states = hidden, scores, logits
        return loss.distillation(states, loss.Targets(out), mask, same, loss.LossWeights(**weights))

    terms, vjp = run(TeacherOutput(hidden, None, None))
    assert terms.keys() == {"hidden"}
    grads = {}
    dhidden, dscores, dlogits = vjp(grads)
    assert dscores == [None] and dlogits is None and len(dhidden) == 2 and grads.keys() == {"distill_map"}
    terms, vjp = run(TeacherOutput(hidden, scores, logits), hidden=0, attention=0)
    assert terms.keys() == {"logits"} and vjp({})[0] == [None, None]


@pytest.mark.parametrize(
    "encoders, theirs, layer_map, expected",
    [(2, 4, None, [0, 2, 4]), (3, 3, None, [0, 1, 2, 3]), (2, 5, [2, 5], [0, 2, 5]), (2, 5, [1, 2, 5], [1, 2, 5])],
)
def test_layer_map(encoders, theirs, layer_map, expected):
    assert loss.teacher_layers(encoders, theirs, layer_map) == expected


@pytest.mark.parametrize(
    "encoders, theirs, layer_map, said",
    [
        (4, 6, None, "do not divide"),
        (2, 4, [1, 5], "between 1 and 4"),
        (2, 4, [4], "expected 2"),
        (2, 4, [0, 4], "layer 0"),
    ],
)
def test_bad_layer_maps_are_named(encoders, theirs, layer_map, said):
    with pytest.raises(InputError, match=said):
        loss.teacher_layers(encoders, theirs, layer_map)


def test_different_heads_cannot_match_attention():
    with pytest.raises(InputError, match="2 heads, teacher 3"):
        loss.attention_loss(np.zeros((1, 2, 3, 3)), np.zeros((1, 3, 3, 3)), np.ones((1, 3)))
