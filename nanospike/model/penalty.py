"""A penalty on the Jacobian of a student's loop, by first-order passes only."""

import numpy as np

from ..arrays.backend import namespace

PROBE = {"float32": 1e-2, "float64": 1e-4}  # length of a step along a random direction, in rates


def jacobian_penalty(network, last, seed, totals):
    """R = |F(z + eps v) - F(z)|^2 / (eps^2 n), v normal: the loop's squared Jacobian norm by first-order passes only.

    In the mean over v it is |K|_F^2 / n, K = dF/dz, and n the numbers in z of the whole batch, of whose real tokens
    and examples totals knows: the terms of its parts add up. network: a equilibrium.Network with a loop; last
    (B, L, D): the last encoder's rates. z and v count as constants. (value, vjp): vjp(cotangent, grads) adds to grads.
    """
    xp, z = namespace(last), network.state(last)
    eps, sources = PROBE[str(last.dtype)], totals.examples if z.shape[1] < last.shape[1] else totals.tokens
    n = float(sources) * last.shape[-1]
    v = xp.asarray(np.random.default_rng(seed).standard_normal(z.shape).astype(last.dtype))
    moved = z + eps * network.state(v)
    fire = network.rate_neurons()
    here, there = network.sweep(fire, z), network.sweep(fire, moved)
    change = network.state(there.hidden_states[-1] - here.hidden_states[-1]) / eps

    def vjp(cotangent, grads):
        nowhere = [None] * (len(here.hidden_states) - 1)
        dlast = network.state_vjp(change * (2 * cotangent / (eps * n)))
        network.pull_back(there, [*nowhere, dlast], None, grads)
        network.pull_back(here, [*nowhere, -dlast], None, grads)

    return (change * change).sum() / n, vjp
