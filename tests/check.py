"""Gradient checks by random projection, in float64."""

import numpy as np

from nanospike.arrays.tree import dense_gradients, leaves

EPS = 1e-6
STEP = 1e-30  # complex step: no subtraction, so no rounding


def check_vjp(f, x, params, rng, rtol=1e-6):
    """<vjp(v), u> equals a central difference along u: for the input x (if not None) and every parameter.

    f(x, params) -> (y, vjp); params: nested. The vjp is called twice and must give the same bits.
    """
    y, vjp = f(x, params)
    v = rng.standard_normal(y.shape)
    grads = {}
    dx = vjp(v, grads) if params else vjp(v)
    if x is not None:
        again = vjp(v)
        assert np.array_equal(again, dx), "a vjp must be re-callable"
        assert dx.shape == x.shape and dx.dtype == x.dtype
    named = dict(leaves(params))
    gradients = dense_gradients(grads, named)

    def slope(array, u):
        array += EPS * u
        up = f(x, params)[0].copy()  # identity returns x itself
        array -= 2 * EPS * u
        down = f(x, params)[0]
        array += EPS * u
        return np.vdot(v, (up - down) / (2 * EPS))

    targets = [(n, a, gradients[n]) for n, a in named.items()]
    for name, array, grad in targets + ([("x", x, dx)] if x is not None else []):
        assert grad.shape == array.shape, name
        u = rng.standard_normal(array.shape)
        np.testing.assert_allclose(np.vdot(grad, u), slope(array, u), rtol=rtol, atol=1e-8, err_msg=name)


def complex_step(loss, parameters, direction):
    """d loss(parameters + h direction) / dh at 0, exact to rounding: loss must be analytic around the point."""
    moved = {n: p + 1j * STEP * direction[n] for n, p in parameters.items()}
    return np.imag(loss(moved)) / STEP
