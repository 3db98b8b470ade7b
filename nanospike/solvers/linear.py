"""The adjoint system x = c + J^T x as the methods see it, and the methods that are a few lines each."""

import math
from dataclasses import replace

import numpy as np

from ..arrays.backend import namespace, to_host
from ..config.errors import InputError
from .fixed_point import accelerator, iterate, solve_each
from .solution import Code, Found, row_norms

DENSE_LIMIT = 2048  # numbers per example up to which the Jacobian is written out
PATIENCE = 20  # products without a better residual, near the rounding errors, before a series counts as summed
DENSE_TOTAL = 2**26  # and in the matrices of the whole batch: 0.5 GB of float64
EIGENVALUES_LIMIT = 256
EXPLODED = 1e6  # relative residual above which a series has diverged
LARGEST = 1e8  # norm of x for a right-hand side of norm 1 above which a system counts as singular; 0.1 / eps if less
LINEAR_GAIN = 0.9  # above it a gradient cut short misleads


class LinearSystem:
    """Rows (B, n) of x = rhs + J^T x, every right-hand side scaled to norm 1 (an absolute threshold then is relative).

    A row that is not finite is left out: it counts as 0, and finite (B,) has it. products: vjp calls so far.
    """

    def __init__(self, vjp, cotangent, start=None):
        self.vjp, self.shape, self.dtype, self.products = vjp, cotangent.shape, cotangent.dtype, 0
        self.xp = xp = namespace(cotangent)
        self.eps = float(np.finfo(self.dtype).eps)
        self.largest = min(LARGEST, 0.1 / self.eps)
        batch = 1 if cotangent.ndim == 1 else cotangent.shape[0]
        rows = cotangent.reshape(batch, cotangent.size // max(batch, 1))
        norms = row_norms(rows)
        self.finite = np.isfinite(to_host(norms))
        usable = xp.asarray(self.finite) & (norms > 0)
        self.scale = xp.where(usable, norms, norms.dtype.type(1)).astype(self.dtype)
        self.rhs = xp.where(usable[:, None], rows / self.scale[:, None], 0).astype(self.dtype)
        self.empty = ~to_host(usable)  # nothing to solve: x = 0
        self.start = None
        if start is not None:
            start = xp.where(usable[:, None], start.reshape(rows.shape) / self.scale[:, None], 0)
            self.start = xp.where(xp.isfinite(start).all(axis=1)[:, None], start, 0).astype(self.dtype)

    def product(self, x):
        """J^T x, (B, n) -> (B, n): always a fresh contiguous array of the dtype, as the libraries' solvers need."""
        self.products += 1
        out = self.vjp(self.xp.array(x, self.dtype).reshape(self.shape))
        if out.shape != self.shape:
            raise InputError(f"adjoint: vjp returned an array of shape {out.shape}, expected {self.shape}")
        return self.xp.array(out, self.dtype).reshape(self.rhs.shape)

    def residual(self, x):
        """(r, its row norms on the host): r = rhs - (I - J^T) x. Where there is nothing to solve the norm is 0."""
        r = self.rhs - x + self.product(x)
        return r, np.where(self.empty, 0, to_host(row_norms(r)).astype(float))

    def begin(self):
        """(x, r, norms, active): the start, or 0, whose residual needs no product."""
        if self.start is not None:
            x, (r, norms) = self.start, self.residual(self.start)
            worse = self.xp.asarray(~(norms < 1))[:, None]  # 0 is the better start
            x, r, norms = self.xp.where(worse, 0, x), self.xp.where(worse, self.rhs, r), np.where(norms < 1, norms, 1)
        else:
            x, r, norms = self.rhs * 0, self.rhs, np.ones(len(self.rhs))
        return x, r, np.where(self.empty, 0.0, norms), ~self.empty

    def found(self, x, norms, codes=Code.STAGNATION, steps=None):
        """Found. An x so large that the right-hand side is lost in its rounding errors is none: 0 takes its place."""
        exploded = ~self.empty & ~(to_host(row_norms(x)) <= self.largest)
        x = self.xp.where(self.xp.asarray(exploded)[:, None], 0, x)
        codes = np.where(np.isfinite(norms), np.where(exploded, Code.BREAKDOWN, codes), Code.NONFINITE_OUTPUT)
        norms = np.where(exploded & np.isfinite(norms), 1.0, norms)
        steps = np.where(self.empty, 0, self.products if steps is None else steps)
        return Found(x, norms, codes, steps)

    def unscaled(self, found):
        """The same of the cotangents as they were given: not those that are not finite, nor answers that overflow."""
        x = found.x * self.scale[:, None]
        fits = self.xp.isfinite(x).all(axis=1)
        found.x, fits = self.xp.where(fits[:, None], x, 0), to_host(fits)
        found.residuals = np.where(self.finite & fits, found.residuals, np.inf)
        found.codes = np.where(fits, found.codes, Code.NONFINITE_OUTPUT)
        found.codes = np.where(self.finite, found.codes, Code.NONFINITE_INPUT)
        return found


def series(system, stop, limit, code):
    """x = c + J^T c + J^T J^T c + ... until the residual is at `stop`, after `limit` products, or as it diverges.

    The residual of a partial sum is its next term. Exact, if J is nilpotent (no feedback).
    """
    xp, x = system.xp, system.rhs if system.start is None else system.start
    best, least = x, np.full(len(x), np.inf)
    active, codes, steps = ~system.empty, np.full(len(x), code), np.zeros(len(x), int)
    stale = np.zeros(len(x), int)  # products since the best residual: with complex eigenvalues it goes up and down
    while active.any() and system.products < limit:
        r, norms = system.residual(x)
        steps[active] = system.products
        better = active & (norms < least)
        stale = np.where(better, 0, stale + 1)
        best, least = xp.where(xp.asarray(better)[:, None], x, best), np.where(better, norms, least)
        lost = active & ~(norms < EXPLODED)
        codes[lost] = Code.DIVERGED
        stagnant = active & (stale >= PATIENCE) & (norms < 10 * stop)  # rounding
        active = active & (norms > stop) & ~lost & ~stagnant
        x = xp.where(xp.asarray(active)[:, None], x + r, x)
    codes = np.where(active & ~(least < LINEAR_GAIN), Code.DIVERGED, codes)
    return system.found(best, np.where(system.empty, 0, least), codes, steps)


def one_step(system):
    """x = c: every term of the series but the first left out (Jacobian-free; its error is J^T c and what follows).

    In a student's reduced system this is one term more than Jacobian-free backpropagation, whose x is 0. The
    residual, |J^T c| / |c|, is the loop's gain along c; above 0.9 the code says diverged.
    """
    _, norms = system.residual(system.rhs)
    return system.found(system.rhs, norms, np.where(norms < LINEAR_GAIN, Code.TRUNCATED, Code.DIVERGED))


def accelerated(system, method, rtol, limit):
    """The fixed-point methods on x -> c + J^T x."""
    start = system.rhs if system.start is None else system.start

    def step(x):
        return system.rhs + system.product(x)

    found, _ = iterate(step, start, accelerator(method), rtol, limit, relative=False)
    return system.found(found.x, np.where(system.empty, 0, found.residuals), found.codes, found.steps)


def dense(system, limit):
    """J^T of every example written out, one product for each of its n columns, and solved on the host in float64."""
    xp, (batch, n) = system.xp, system.rhs.shape
    if n > DENSE_LIMIT or batch * n * n > DENSE_TOTAL:
        raise InputError(
            f"adjoint solver dense: found {batch} systems of {n} unknowns, expected at most {DENSE_LIMIT} unknowns "
            f"and {DENSE_TOTAL} matrix elements; use gmres"
        )
    if limit < n + 1:
        return system.found(system.rhs * 0, np.where(system.empty, 0.0, 1.0), Code.MAX_STEPS)
    matrices = np.empty((batch, n, n))
    for j in range(n):
        unit = xp.zeros((batch, n), system.dtype)
        unit[:, j] = 1
        matrices[:, :, j] = to_host(system.product(unit))
    host = solve_each(np.eye(n) - matrices, to_host(system.rhs).astype(float))
    x = xp.asarray(host.astype(system.dtype))
    solved = np.isfinite(host).all(axis=1) & ~system.empty
    x = xp.where(xp.asarray(solved)[:, None], x, 0)
    _, norms = system.residual(x)
    finite = np.isfinite(matrices).all(axis=(1, 2))
    radius, real = _eigenvalues(np.where(finite[:, None, None], matrices, 0))
    known = finite & ~system.empty
    found = system.found(x, norms, np.where(finite, Code.BREAKDOWN, Code.NONFINITE_OUTPUT))
    return replace(found, radius=np.where(known, radius, math.nan), max_real=np.where(known, real, math.nan))


def _eigenvalues(matrices):
    """(max |lambda|, max Re lambda) (B,) of matrices (B, n, n); NaN where that would take longer than the solve."""
    if matrices.shape[1] > EIGENVALUES_LIMIT:
        return np.full((2, len(matrices)), math.nan)
    values = np.linalg.eigvals(matrices)
    return np.abs(values).max(axis=1, initial=0), values.real.max(axis=1, initial=-np.inf)
