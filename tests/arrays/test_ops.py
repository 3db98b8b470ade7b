"""Every op against finite differences, by random projection in float64."""

import inspect

import numpy as np
import pytest
from check import check_vjp
from hypothesis import given
from hypothesis import strategies as st

from nanospike.arrays import ops
from nanospike.arrays.backend import to_device, to_host

SEEDS = st.integers(0, 2**31)
LEADS = st.lists(st.integers(1, 4), min_size=0, max_size=2)


def affine(rng, out, inputs):
    return {"weight": rng.standard_normal((out, inputs)), "bias": rng.standard_normal(out)}


@given(seed=SEEDS, lead=LEADS, sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)), biased=st.booleans())
def check_linear(seed, lead, sizes, biased):
    rng = np.random.default_rng(seed)
    params = affine(rng, *sizes) if biased else {"weight": rng.standard_normal(sizes)}
    check_vjp(lambda x, p: ops.linear(x, **p), rng.standard_normal((*lead, sizes[1])), params, rng)


@given(seed=SEEDS, shape=st.lists(st.integers(1, 4), min_size=1, max_size=2))
def check_embedding(seed, shape):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, 5, shape)  # repeated indices must add up
    params = {"weight": rng.standard_normal((5, 3))}
    check_vjp(lambda x, p: ops.embedding(indices, **p), None, params, rng)


@given(seed=SEEDS, lead=LEADS, width=st.integers(1, 7))
def check_affine(seed, lead, width):
    rng = np.random.default_rng(seed)
    params = {"weight": rng.standard_normal(width), "bias": rng.standard_normal(width)}
    check_vjp(lambda x, p: ops.affine(x, **p), rng.standard_normal((*lead, width)), params, rng)


@given(seed=SEEDS, lead=LEADS, width=st.integers(2, 7), eps=st.sampled_from([1e-12, 1e-5, 0.1]))
def check_layer_norm(seed, lead, width, eps):
    rng = np.random.default_rng(seed)
    params = {"weight": rng.standard_normal(width), "bias": rng.standard_normal(width)}
    x = 3 * rng.standard_normal((*lead, width))
    check_vjp(lambda x, p: ops.layer_norm(x, **p, eps=eps), x, params, rng, rtol=1e-5)


@given(seed=SEEDS, shape=LEADS)
def check_elementwise(function, seed, shape):
    rng = np.random.default_rng(seed)
    check_vjp(lambda x, p: function(x), 2 * rng.standard_normal((*shape, 3)), {}, rng)


@given(seed=SEEDS, shape=LEADS)
def check_dropout(seed, shape):
    rng = np.random.default_rng(seed)
    check_vjp(lambda x, p: ops.dropout(x, 0.4, np.random.default_rng(seed)), rng.standard_normal((*shape, 3)), {}, rng)


@given(seed=SEEDS, heads=st.integers(1, 3), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def check_attention(seed, heads, lengths):
    """All three inputs, both outputs, with padding."""
    rng = np.random.default_rng(seed)
    batch, length, width = len(lengths), max(lengths), 2 * heads
    mask = np.arange(length) < np.array(lengths)[:, None]
    bias = ops.mask_bias(mask.astype(int), np.float64)

    def both(x, p):
        context, scores, vjp = ops.attention(*x, bias, heads)
        flat = np.concatenate([context.reshape(-1), scores.reshape(-1)])

        def pull(d):
            split = context.size
            return np.stack(vjp(d[:split].reshape(context.shape), d[split:].reshape(scores.shape)))

        return flat, pull

    check_vjp(both, rng.standard_normal((3, batch, length, width)), {}, rng)

    def context_only(x, p):
        context, _, vjp = ops.attention(*x, bias, heads)
        return context, lambda d: np.stack(vjp(d))

    check_vjp(context_only, rng.standard_normal((3, batch, length, width)), {}, rng)


CHECKS = {
    "identity": lambda: check_elementwise(lambda x: ops.identity(x + 0)),
    "linear": check_linear,
    "embedding": check_embedding,
    "affine": check_affine,
    "layer_norm": check_layer_norm,
    "gelu": lambda: check_elementwise(ops.gelu),
    "gelu_tanh": lambda: check_elementwise(ops.gelu_tanh),
    "silu": lambda: check_elementwise(ops.silu),
    "relu": lambda: check_elementwise(ops.relu),
    "tanh": lambda: check_elementwise(ops.tanh),
    "softmax": lambda: check_elementwise(ops.softmax),
    "dropout": check_dropout,
    "scaled": lambda: check_elementwise(lambda x: ops.scaled(x, np.cos(np.arange(x.size)).reshape(x.shape))),
    "attention": check_attention,
}
HELPERS = {"split_heads", "merge_heads", "mask_bias", "dropout_scale", "of_first_alone"}  # without a vjp of their own


@pytest.mark.parametrize("name", CHECKS)
def test_gradient(name):
    CHECKS[name]()


def test_every_op_has_a_gradient_test():
    public = {n for n, f in inspect.getmembers(ops, inspect.isfunction) if f.__module__ == ops.__name__ and n[0] != "_"}
    assert public == CHECKS.keys() | HELPERS


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", ["linear", "layer_norm", "gelu", "gelu_tanh", "silu", "relu", "tanh", "softmax", "attention", "dropout"]
)
def test_values_and_cotangents_keep_dtype_and_library(name, dtype, xp, device):
    """Against NumPy in float64: the same numbers to the dtype's accuracy, on the same library, in the same dtype."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 4))
    bias = rng.standard_normal(4)

    def run(place):
        args = [place(a) for a in (x, weight, bias)]
        if name == "linear":
            return ops.linear(*args)
        if name == "layer_norm":
            return ops.layer_norm(args[0], args[2], args[2])
        if name == "attention":
            mask = to_device(np.array([[1, 1, 1], [1, 1, 0]]), "cpu" if place is to_host else device)
            context, _, vjp = ops.attention(args[0], args[0], args[0], ops.mask_bias(mask, args[0].dtype), 2)
            return context, lambda d: vjp(d)[0]
        if name == "dropout":
            keep_all = type("Ones", (), {"random": lambda self, shape, dtype: args[0] * 0 + 1})()
            return ops.dropout(args[0], 0.25, keep_all)
        return getattr(ops, name)(args[0])

    value, vjp = run(lambda a: to_device(a.astype(dtype), device))
    expected, expected_vjp = run(to_host)
    d = rng.standard_normal(expected.shape)
    back = vjp(to_device(d.astype(dtype), device))
    for found, wanted in ((value, expected), (back, expected_vjp(d))):
        assert type(found) is type(xp.zeros(1)) and found.dtype == dtype
        tolerance = {"float32": 3e-6, "float64": 1e-12}[dtype]
        np.testing.assert_allclose(to_host(found), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("where", ["first", "second", "last", "nowhere"])
def test_cotangents_of_few_tokens_alone(where, length):
    """A linear layer leaves out the tokens that add nothing; the gradients are those of the whole product."""
    rng = np.random.default_rng(length)
    x, weight, bias = rng.standard_normal((3, length, 4)), rng.standard_normal((6, 4)), rng.standard_normal(6)
    dy = np.zeros((3, length, 6))
    token = {"first": 0, "second": min(1, length - 1), "last": -1}.get(where)
    if token is not None:
        dy[:, token] = rng.standard_normal((3, 6))
    assert ops.of_first_alone(dy) == (length > 1 and (where in ("first", "nowhere")))
    grads = {}
    dx = ops.linear(x, weight, bias)[1](dy, grads)
    np.testing.assert_allclose(dx, dy @ weight, atol=1e-13)
    np.testing.assert_allclose(grads["weight"], np.einsum("blo,bli->oi", dy, x), atol=1e-13)
    np.testing.assert_allclose(grads["bias"], dy.sum(axis=(0, 1)), atol=1e-13)


def test_a_cotangent_that_is_not_finite_is_seen():
    x, dy = np.ones((2, 3, 4)), np.zeros((2, 3, 4))
    dy[1, 2, 3] = np.nan
    assert np.isnan(ops.linear(x, np.eye(4))[1](dy)).any()


def test_padding_gets_no_attention():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 4, 6))
    bias = ops.mask_bias(np.array([[1, 1, 0, 0]]), np.float64)
    context, scores, vjp = ops.attention(q, k, v, bias, 2)
    k[:, 2:], v[:, 2:] = 100, 100
    np.testing.assert_array_equal(ops.attention(q, k, v, bias, 2)[0], context)
    _, dk, dv = vjp(rng.standard_normal(context.shape))
    assert not dk[:, 2:].any() and not dv[:, 2:].any()


def test_dropout_keeps_the_mean():
    x = np.ones((400, 400), np.float32)
    y, _ = ops.dropout(x, 0.3, np.random.default_rng(0))
    assert abs(y.mean() - 1) < 0.01 and abs((y == 0).mean() - 0.3) < 0.01


def test_activations_by_hand():
    x = np.array([-800.0, -3.0, -0.5, 0.0, 0.5, 3.0, 800.0])
    with np.errstate(all="raise", under="ignore"):
        silu, tanh = ops.silu(x)[0], ops.gelu_tanh(x)[0]
    np.testing.assert_allclose(silu[1:-1], [v / (1 + np.exp(-v)) for v in x[1:-1]], rtol=1e-12)
    assert silu[[0, -1]].tolist() == [0, 800] and tanh[[0, -1]].tolist() == [0, 800]
    np.testing.assert_allclose(tanh, ops.gelu(x)[0], atol=1e-3)  # an approximation, but not the same
    assert abs(tanh - ops.gelu(x)[0]).max() > 1e-5
