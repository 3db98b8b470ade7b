"""GMRES for a batch of independent systems: one product for all of them a step, a Krylov space for each.

Saad and Schultz 1986, restarted. The long vectors stay on their device; a step moves one column of every Hessenberg
matrix to the host, where the small least-squares problems are solved in float64.
"""

import math
from dataclasses import replace

import numpy as np

from ..arrays.backend import namespace, to_host
from .solution import Code, row_norms

RESTART = 30  # Krylov vectors kept for each example
TINY = 1e-20  # a product this small of a vector of norm 1 is none


def gmres(system, rtol, limit, restart=RESTART):
    """Found for a linear.LinearSystem, by at most `limit` products, the final residuals included.

    An example is frozen when it has converged or is beyond help; the others go on, each from its best x.
    """
    xp = system.xp
    x, r, norms, active = system.begin()
    codes, steps = np.full(len(norms), Code.MAX_STEPS), np.zeros(len(norms), int)
    radius = real = None
    active &= ~(norms <= rtol)
    while active.any() and system.products + 2 <= limit:
        room = min(restart, limit - system.products - 1)
        before = system.products
        correction, small = _cycle(system, r, np.where(active, norms, 0), rtol, room)
        if radius is None:
            radius, real = small.spectrum()
        usable = active & (to_host(row_norms(correction)) <= system.largest)
        tried = xp.where(xp.asarray(usable)[:, None], x + correction, x)
        tried_r, tried_norms = system.residual(tried)
        better = usable & (tried_norms < norms)
        x = xp.where(xp.asarray(better)[:, None], tried, x)
        r = xp.where(xp.asarray(better)[:, None], tried_r, r)
        helped = better & ((tried_norms < 0.99 * norms) | (small.sizes == room))
        norms = np.where(better, tried_norms, norms)
        steps = np.where(active, before + small.sizes + 1, steps)
        codes[active & ~helped] = Code.STAGNATION
        codes[active & (~usable | small.singular)] = Code.BREAKDOWN
        codes[active & (small.nonfinite | ~np.isfinite(tried_norms))] = Code.NONFINITE_OUTPUT
        codes[active & helped & ~small.nonfinite] = Code.MAX_STEPS
        active = active & ~(norms <= rtol) & helped & ~small.nonfinite
    return replace(system.found(x, norms, codes, steps), radius=radius, max_real=real)


def _cycle(system, r, norms, rtol, room):
    """At most `room` steps of Arnoldi from residuals r, norms (B,), 0 for examples left out: (correction, small)."""
    xp, dtype = system.xp, system.dtype
    basis = xp.empty((len(r), room + 1, r.shape[1]), dtype)
    small = _SmallProblems(norms, room, rtol - min(8 * system.eps, rtol / 2), system.eps)
    basis[:, 0] = _scaled(r, np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0))
    for k in range(1, room + 1):
        v = basis[:, k - 1]
        rest, column = _orthogonalised(basis[:, :k], v - system.product(v))
        basis[:, k] = _scaled(rest, small.add(to_host(column)))
        if not small.active.any():
            break
    weights = xp.asarray(small.solve()[:, :k].astype(dtype))
    return (weights[:, None, :] @ basis[:, :k])[:, 0], small


def _scaled(rows, factors):
    """rows (B, n) times factors (B,) of the host; a factor 0 gives 0, whatever the row holds."""
    xp = namespace(rows)
    factors = xp.asarray(factors.astype(rows.dtype))[:, None]
    return xp.where(factors > 0, rows * factors, 0)


def _orthogonalised(basis, w):
    """(w less its part in the basis (B, k, n), the column (B, k + 1) of the Hessenberg matrices).

    Classical Gram-Schmidt, twice.
    """
    total = 0
    for _ in range(2):
        part = basis @ w[:, :, None]  # (B, k, 1)
        w = w - (basis.swapaxes(1, 2) @ part)[:, :, 0]
        total = total + part[:, :, 0]
    return w, namespace(w).concatenate([total, row_norms(w)[:, None]], axis=1)


class _SmallProblems:
    """For each example: the y with least |norm e1 - H y|, H (k + 1, k) growing by a column a step; on the host.

    H = Q^T R by Givens rotations. sizes (B,): the columns that an example uses; it is no longer active once its
    residual is at `goal`, its space is exhausted, or a column is not finite or makes R singular.
    """

    def __init__(self, norms, room, goal, eps):
        batch = len(norms)
        self.norms, self.goal, self.eps, self.steps = norms, goal, eps, 0
        self.hessenberg = np.zeros((batch, room + 1, room))
        self.triangle = np.zeros((batch, room + 1, room))
        self.rotation = np.tile(np.eye(room + 1), (batch, 1, 1))
        self.sizes = np.zeros(batch, int)
        self.active = norms > 0
        self.singular, self.nonfinite = np.zeros(batch, bool), np.zeros(batch, bool)

    def add(self, column):
        """Take the next column (B, k + 1): the factors (B,) that make the next basis vectors, 0 for none."""
        k, self.steps = self.steps, self.steps + 1
        size = np.linalg.norm(column.astype(float), axis=1)
        self.nonfinite |= self.active & ~np.isfinite(size)
        self.active &= np.isfinite(size)
        column = np.where(self.active[:, None], column, 0).astype(float)
        column[:, -1] = np.where(column[:, -1] > 10 * self.eps * size, column[:, -1], 0)  # else: space exhausted
        self.hessenberg[:, : k + 2, k] = column
        usable = self._rotate(k, column, size)
        self.singular |= self.active & ~usable
        self.active &= usable
        self.sizes[self.active] = k + 1
        self.active &= (self.norms * np.abs(self.rotation[:, k + 1, 0]) > self.goal) & (column[:, -1] > 0)
        return np.where(self.active, 1 / np.where(self.active, column[:, -1], 1), 0)

    def _rotate(self, k, column, size):
        """Make column k of R; False (B,) where it is singular, and then nothing changes but for that column."""
        rotated = (self.rotation[:, : k + 2, : k + 2] @ column[:, :, None])[:, :, 0]
        diagonal = np.hypot(rotated[:, k], rotated[:, k + 1])
        usable = self.active & (diagonal > 10 * self.eps * size) & (size > TINY)
        safe = np.where(usable, diagonal, 1)
        c, s = np.where(usable, rotated[:, k] / safe, 1), np.where(usable, rotated[:, k + 1] / safe, 0)
        self.triangle[:, :k, k], self.triangle[:, k, k] = rotated[:, :k], safe
        upper, lower = self.rotation[:, k].copy(), self.rotation[:, k + 1].copy()
        self.rotation[:, k] = c[:, None] * upper + s[:, None] * lower
        self.rotation[:, k + 1] = c[:, None] * lower - s[:, None] * upper
        return usable

    def solve(self):
        """y (B, room), 0 from each example's size on."""
        y = np.zeros_like(self.triangle[:, 0])
        for i in reversed(range(self.steps)):
            known = self.norms * self.rotation[:, i, 0] - (self.triangle[:, i] * y).sum(axis=1)
            y[:, i] = np.where(i < self.sizes, known / np.where(i < self.sizes, self.triangle[:, i, i], 1), 0)
        return y

    def spectrum(self):
        """(max |lambda|, max Re lambda) (B,) of J by the Ritz values 1 - lambda of I - J; NaN for no column."""
        radius, real = np.full((2, len(self.sizes)), math.nan)
        for size in set(self.sizes.tolist()) - {0}:
            rows = self.sizes == size
            values = 1 - np.linalg.eigvals(self.hessenberg[rows, :size, :size])
            radius[rows], real[rows] = np.abs(values).max(axis=1), values.real.max(axis=1)
        return radius, real
