"""Fixed points, and the linear adjoint systems that differentiate through them. Solvers know no layers.

Axis 0 of an array is the batch: its entries are independent systems, and residuals are per example, so that an
answer does not depend on its neighbours.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import krylov, namespace, to_host
from .config import InputError

ADJOINT_METHODS = ("gmres", "bicgstab", "lgmres", "gcrotmk", "tfqmr", "sweep")
MEMORY = 5  # Anderson: past iterates mixed
RIDGE = 1e-6  # Anderson: relative to the mean diagonal of the Gram matrix
DAMPINGS = (0.5, 0.2)  # fall-back where Anderson fails: x <- x + damping (f(x) - x)
LARGEST = 1e8  # norm of the solution for a right-hand side of norm 1, above which a system counts as singular
STAGNATION = 12  # steps without a new best residual after which a method is given up


class NotConverged(RuntimeError):
    """A solve did not reach its tolerance; the message has the number and the remedy."""


@dataclass(frozen=True)
class Solution:
    """What a solve found, converged or not.

    x: of the right-hand side's shape. residual: relative, worst example; residuals (B,): each example's, on the
    host. iterations: products with the Jacobian, or evaluations of the map. message: "" if converged.
    """

    x: Any
    residual: float
    residuals: np.ndarray
    iterations: int
    converged: bool
    message: str = ""


def _finish(x, residuals, iterations, rtol, what, remedy, throw):
    residual = float(np.max(residuals, initial=0.0)) if np.all(np.isfinite(residuals)) else math.inf
    converged, message = residual <= rtol, ""
    if not converged:
        failed = int(np.sum(~(residuals <= rtol)))
        message = (
            f"{what}: {failed} of {len(residuals)} examples did not converge: relative residual {residual:.1e} after "
            f"{iterations} steps, asked for {rtol:.0e}; {remedy}"
        )
        if throw:
            raise NotConverged(message)
    return Solution(x, residual, residuals, iterations, converged, message)


def _row_norms(rows):
    """Euclidean norms (B,) of rows (B, n) that neither overflow nor underflow, with the array library of `rows`."""
    xp = namespace(rows)
    peak = xp.abs(rows).max(axis=1)
    safe = xp.where(peak > 0, peak, peak.dtype.type(1))
    return safe * xp.sqrt(((rows / safe[:, None]) ** 2).sum(axis=1))


# ---- forward: fixed points ----------------------------------------------------------------------------------


def fixed_point(f, start, *, rtol, max_steps=200, box=None, throw=False):
    """x = f(x) for every example of the batch: Anderson acceleration, then damped iteration where that fails.

    f maps (B, ...) to (B, ...), each example by itself. The residual is |f(x) - x| / |f(x)|. Iterates are
    projected on `box` = (low, high). An example that has converged is frozen; of the others the best iterate is
    kept. Anderson 1965, type II, memory 5, relative ridge.
    """
    state = _Best(f, start, rtol, box)
    for update in (_anderson(), *(_damped(d) for d in DAMPINGS)):
        if state.steps < max_steps and not state.done.all():
            state.run(update, max_steps)
    return _finish(
        state.best.reshape(start.shape),
        state.residuals,
        state.steps,
        rtol,
        "equilibrium",
        "the loop gain is likely above 1: scale the feedback weight down",
        throw,
    )


class _Best:
    """The best iterate of each example so far, whichever method found it."""

    def __init__(self, f, start, rtol, box):
        self.f, self.shape, self.rtol, self.box = f, start.shape, rtol, box
        self.best = start.reshape(start.shape[0], -1)
        self.residuals = np.full(start.shape[0], np.inf)
        self.steps = 0

    @property
    def done(self):
        return self.residuals <= self.rtol

    def run(self, update, max_steps):
        """Iterate x <- update(x, f(x)) from the best iterates until all are done, stuck or out of steps."""
        xp, x, since_best = namespace(self.best), self.best, 0
        while self.steps < max_steps and since_best < STAGNATION:
            fx = self.f(x.reshape(self.shape)).reshape(x.shape)
            self.steps += 1
            size = to_host(_row_norms(fx))
            with np.errstate(invalid="ignore"):
                residuals = to_host(_row_norms(fx - x)) / np.where(size > 0, size, 1)
            better = ~self.done & (residuals < self.residuals)
            self.residuals = np.where(better, residuals, self.residuals)
            self.best = xp.where(xp.asarray(better)[:, None], x, self.best)
            since_best = 0 if better.any() else since_best + 1
            if self.done.all():
                return
            moved = update(x, fx)
            if self.box:
                moved = xp.clip(moved, *self.box)
            x = xp.where(xp.asarray(self.done)[:, None], self.best, moved)


def _damped(damping):
    return lambda x, fx: x + damping * (fx - x)


def _anderson():
    past = []  # (f(x), f(x) - x), newest last

    def update(x, fx):
        xp = namespace(x)
        past.append((fx, fx - x))
        del past[:-MEMORY]
        differences = xp.stack([r for _, r in past], axis=1)  # (B, m, n)
        gram = to_host(differences @ differences.swapaxes(1, 2)).astype(float)
        m = len(past)
        ridge = RIDGE * np.trace(gram, axis1=1, axis2=2)[:, None, None] / m + np.finfo(float).tiny
        with np.errstate(all="ignore"):
            weights = _solve_finite(gram + ridge * np.eye(m))
        weights = xp.asarray(weights.astype(x.dtype))[:, None, :]
        return (weights @ xp.stack([value for value, _ in past], axis=1))[:, 0]

    return update


def _solve_finite(gram):
    """Weights (B, m) that sum to 1 and are least in the norm of each Gram matrix; the newest alone if that fails."""
    batch, m, _ = gram.shape
    newest = np.broadcast_to(np.eye(m)[-1], (batch, m))
    usable = np.isfinite(gram).all(axis=(1, 2))
    gram = np.where(usable[:, None, None], gram, np.eye(m))
    try:
        weights = np.linalg.solve(gram, np.ones((batch, m, 1)))[..., 0]
    except np.linalg.LinAlgError:
        return newest
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.where((usable & np.isfinite(weights).all(axis=1))[:, None], weights, newest)


# ---- backward: the adjoint system ------------------------------------------------------------------------------


def solve_adjoint(vjp, cotangent, method="gmres", rtol=1e-6, throw=False, max_iterations=400):
    """Solve x = cotangent + vjp(x), vjp: v -> J^T v, that is (I - J^T) x = cotangent: a Solution.

    cotangent: ndim 1 is one system; otherwise axis 0 is the batch of independent systems. method: a Krylov solver
    of scipy / cupyx (gmres, bicgstab; on the CPU also lgmres, gcrotmk, tfqmr), or "sweep", the series
    c + J^T c + J^T J^T c + ..., which ends exactly where J is nilpotent (no feedback). `converged` is judged by the
    recomputed residual of the worst example against rtol, which is clamped to 20 eps of the dtype.
    """
    if method not in ADJOINT_METHODS:
        raise InputError(f"adjoint solver: found {method!r}, expected one of {', '.join(ADJOINT_METHODS)}")
    system = _Adjoint(vjp, cotangent)
    rtol = max(rtol, 20 * float(np.finfo(cotangent.dtype).eps))
    if not system.size:
        return _finish(cotangent * 0, np.zeros(len(system.rhs)), 0, rtol, "adjoint", "", throw)
    if not system.finite:
        residuals = np.where(system.bad_rows, np.inf, 0.0)
        return _finish(cotangent * 0, residuals, 0, rtol, "adjoint", "the cotangent is not finite", throw)
    run = _series if method == "sweep" else _refined_krylov
    x, residuals = run(system, method, rtol, max_iterations)
    x = (x * system.scale[:, None]).reshape(cotangent.shape)
    remedy = "raise max_iterations or rtol, or scale the feedback weight down"
    return _finish(x, residuals, system.products, rtol, f"adjoint ({method})", remedy, throw)


class _Adjoint:
    """The system with every right-hand side scaled to norm 1 (an absolute threshold in a solver then is relative)."""

    def __init__(self, vjp, cotangent):
        self.vjp, self.shape, self.dtype, self.products = vjp, cotangent.shape, cotangent.dtype, 0
        self.xp = xp = namespace(cotangent)
        rows = cotangent.reshape(1, -1) if cotangent.ndim == 1 else cotangent.reshape(cotangent.shape[0], -1)
        norms = _row_norms(rows)
        self.scale = xp.where(norms > 0, norms, norms.dtype.type(1)).astype(self.dtype)
        self.bad_rows = ~np.isfinite(to_host(norms))
        self.finite = not self.bad_rows.any()
        self.size = float(norms.max())
        self.rhs = rows / self.scale[:, None]

    def product(self, x):
        """J^T x, (B, n) -> (B, n): always a fresh contiguous array of the dtype, as the libraries' solvers need."""
        self.products += 1
        out = self.vjp(self.xp.array(x, self.dtype).reshape(self.shape))
        return self.xp.array(out, self.dtype).reshape(self.rhs.shape)

    def residual(self, x):
        """(r, its row norms on the host): r = rhs - (I - J^T) x."""
        r = self.rhs - x + self.product(x)
        return r, to_host(_row_norms(r))


def _series(system, method, rtol, max_iterations):
    """x <- c + J^T x until nothing is left to add, or as small as rounding."""
    x, floor = system.rhs, 20 * float(np.finfo(system.dtype).eps)
    best, best_norms = x, None
    while True:
        r, norms = system.residual(x)
        if best_norms is None or norms.max() < best_norms.max():
            best, best_norms = x, norms
        if not norms.max() > floor or system.products >= max_iterations or norms.max() > 1e6:
            return best, best_norms
        x = x + r


def _refined_krylov(system, method, rtol, max_iterations):
    """Krylov rounds on the recomputed residual, each example keeping what is best for it.

    No solver's own word for convergence is taken; one that breaks down or no longer helps gives way to the others. An
    example whose solution explodes (its system is singular) is left out of later rounds, lest it spoil the others.
    """
    xp, x = system.xp, system.rhs
    r, norms = system.residual(x)
    hopeless = ~np.isfinite(norms)
    for name in dict.fromkeys((method, "bicgstab", "gmres")):
        while (active := ~hopeless & ~(norms <= rtol)).any() and system.products + 2 < max_iterations:
            wanted = xp.where(xp.asarray(active)[:, None], r, 0)
            correction = _krylov_round(system, name, wanted, rtol, max_iterations - 1)
            if correction is None:
                break
            exploded = ~(to_host(_row_norms(correction)) <= LARGEST)
            hopeless |= exploded
            tried_r, tried_norms = system.residual(x + correction)
            better = (tried_norms < norms) & ~exploded
            if not better.any() and not exploded.any():
                break
            rows = xp.asarray(better)[:, None]
            x, r = xp.where(rows, x + correction, x), xp.where(rows, tried_r, r)
            norms = np.where(better, tried_norms, norms)
    return x, norms


class _Exhausted(Exception):
    """The products allowed are used up: not every library solver keeps to its own limit."""


def _krylov_round(system, name, r, rtol, max_products):
    """An approximate solution of (I - J^T) d = r by the library's solver, or None where that breaks down."""
    xp, dtype = system.xp, system.dtype
    operator, solvers = krylov(xp)
    if name not in solvers:
        raise InputError(f"adjoint solver {name}: not in cupyx; expected one of {', '.join(solvers)}, sweep")
    budget, size = max_products - system.products, float(_row_norms(r.reshape(1, -1))[0])
    limit = 20 * float(np.finfo(dtype).eps)
    options = {"rtol": max(0.5 * rtol / size, limit), "atol": 0.0, "maxiter": budget}
    last = []  # the solver's latest iterate, in case the products run out
    if name == "gmres":  # one cycle: scipy counts cycles in maxiter, cupyx steps; _refined_krylov restarts it
        restart = max(1, min(r.size, 30 if xp is np else 10, budget - 1))
        options |= {"restart": restart, "maxiter": 1 if xp is np else restart}
    else:
        options["callback"] = lambda x: last.__setitem__(slice(None), [xp.array(x)])

    def product(v):
        if system.products >= max_products:
            raise _Exhausted
        v = v.reshape(r.shape)
        return (v - system.product(v)).reshape(-1)

    matrix = operator((r.size, r.size), matvec=product, dtype=dtype)
    try:
        with np.errstate(all="ignore"):  # what overflows is found below
            d, _ = solvers[name](matrix, (r / size).reshape(-1), **options)
    except np.linalg.LinAlgError:
        return None
    except _Exhausted:
        if not last:
            return None
        d = last[0]
    d = d.reshape(r.shape) * dtype.type(size)
    return d.astype(dtype) if bool(xp.isfinite(d).any()) else None
