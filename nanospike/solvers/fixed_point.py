"""Fixed points x = f(x) by Anderson acceleration, Broyden's method or damped iteration. They know no layers."""

import math

import numpy as np

from ..arrays.backend import namespace, to_host
from ..config.errors import InputError
from .solution import Code, Found, conclude, row_norms

FORWARD_METHODS = ("anderson", "broyden", "damped")
MEMORY = 5  # Anderson: past iterates mixed
RIDGE = 1e-6  # Anderson: relative to the mean diagonal of the Gram matrix
BROYDEN_MEMORY = 20  # rank-one updates kept; the oldest goes first
DAMPINGS = (0.5, 0.2)  # where acceleration fails: x <- x + damping (f(x) - x)
STAGNATION = 12  # steps without a new best residual after which an example gives a method up


def fixed_point(f, start, *, rtol, method="anderson", max_steps=200, box=None, throw=False):
    """x = f(x) for every example of the batch: a Solution.

    f maps (B, ...) to (B, ...), each example by itself; start (B, ...), the nearer the better. The residual is
    |f(x) - x| / |f(x)|. method: "anderson" (Anderson 1965, type II, memory 5, relative ridge), "broyden" (Broyden
    1965, the "good" update of the inverse, limited memory) or "damped". An example that a method does not help any
    longer goes on from its best iterate with damping 0.5, then 0.2. Iterates are projected on `box` = (low, high).
    What has converged is frozen; of the others the best iterate is kept.
    """
    if method not in FORWARD_METHODS:
        raise InputError(f"forward solver: found {method!r}, expected one of {', '.join(FORWARD_METHODS)}")
    rows = start.reshape(start.shape[0], math.prod(start.shape[1:]))
    with np.errstate(all="ignore"):  # what overflows is found, and said
        found, evaluations = iterate(
            lambda x: f(x.reshape(start.shape)).reshape(x.shape), rows, accelerator(method), rtol, max_steps, box
        )
    return conclude(found, start.shape, evaluations, rtol, "equilibrium", throw)


def accelerator(method):
    """update(x, f(x)) -> the next x of rows (B, n), with a memory of its own; None for "damped"."""
    return {"anderson": anderson, "broyden": broyden, "damped": lambda: None}[method]()


def iterate(f, start, update, rtol, max_steps, box=None, relative=True):
    """(Found, evaluations) of x = f(x) on rows (B, n); residuals |f(x) - x|, relative to |f(x)| or absolute."""
    xp, batch = namespace(start), len(start)
    finite = to_host(xp.isfinite(start).all(axis=1))
    best = x = xp.where(xp.asarray(finite)[:, None], start, 0)
    residuals, steps = np.full(batch, np.inf), np.zeros(batch, int)
    stage, idle = np.full(batch, 0 if update else 1), np.zeros(batch, int)  # stage: which of update, *DAMPINGS
    held = ~finite
    evaluations = 0
    while evaluations < max_steps and not held.all():
        fx = f(x)
        evaluations += 1
        norms = _residuals(x, fx, relative)
        better = ~held & (norms < residuals)
        residuals, best = np.where(better, norms, residuals), xp.where(xp.asarray(better)[:, None], x, best)
        steps[~held] = evaluations
        idle = np.where(better, 0, idle + 1)
        stuck = idle >= STAGNATION
        stage, idle = stage + stuck, np.where(stuck, 0, idle)
        held = held | (residuals <= rtol) | (stage > len(DAMPINGS))
        if held.all():
            break
        moved = _moved(x, fx, update, stage)
        if box:
            moved = xp.clip(moved, *box)
        x = xp.where(xp.asarray(held | stuck)[:, None], best, moved)
    codes = np.where(stage > len(DAMPINGS), Code.STAGNATION, Code.MAX_STEPS)
    codes = np.where(np.isfinite(residuals) | (evaluations == 0), codes, Code.NONFINITE_OUTPUT)
    return Found(best, residuals, np.where(finite, codes, Code.NONFINITE_INPUT), steps), evaluations


def _residuals(x, fx, relative):
    """|f(x) - x| (B,), relative to |f(x)| unless that is 0, on the host by one copy."""
    xp = namespace(x)
    norms = to_host(xp.stack([row_norms(fx - x), row_norms(fx)])).astype(float)
    sizes = np.where((norms[1] > 0) & relative, norms[1], 1)
    return norms[0] / sizes


def _moved(x, fx, update, stage):
    """The next iterates: accelerated at stage 0, else damped."""
    xp = namespace(x)
    factors = np.array((0.0, *DAMPINGS))[np.minimum(stage, len(DAMPINGS))].astype(x.dtype)
    damped = x + xp.asarray(factors)[:, None] * (fx - x)
    if not (stage == 0).any():
        return damped
    return xp.where(xp.asarray(stage == 0)[:, None], update(x, fx), damped)


# ---- Anderson -------------------------------------------------------------------------------------------------------


def anderson():
    """The mix of the last MEMORY values f(x) whose mixed residual is least, weights summing to 1."""
    past = []  # (f(x), f(x) - x), newest last

    def update(x, fx):
        xp = namespace(x)
        past.append((fx, fx - x))
        del past[:-MEMORY]
        differences = xp.stack([r for _, r in past], axis=1)  # (B, m, n)
        gram = to_host(differences @ differences.swapaxes(1, 2)).astype(float)
        m = len(past)
        ridge = RIDGE * np.trace(gram, axis1=1, axis2=2)[:, None, None] / m + np.finfo(float).tiny
        weights = _least_weights(gram + ridge * np.eye(m))
        values = xp.stack([value for value, _ in past], axis=1)
        mixed = (xp.asarray(weights.astype(x.dtype))[:, None, :] @ values)[:, 0]
        return xp.where(xp.isfinite(mixed).all(axis=1)[:, None], mixed, fx)  # 0 times a past infinity is NaN

    return update


def _least_weights(gram):
    """Weights (B, m) that sum to 1 and are least in the norm of each Gram matrix; the newest alone if that fails."""
    batch, m, _ = gram.shape
    newest = np.broadcast_to(np.eye(m)[-1], (batch, m))
    usable = np.isfinite(gram).all(axis=(1, 2))
    gram = np.where(usable[:, None, None], gram, np.eye(m))
    weights = solve_each(gram, np.ones((batch, m)))
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.where((usable & np.isfinite(weights).all(axis=1))[:, None], weights, newest)


def solve_each(matrices, rhs):
    """Solutions (B, n) of matrices (B, n, n) and rhs (B, n) on the host; NaN where a matrix is singular."""
    try:
        return np.linalg.solve(matrices, rhs[..., None])[..., 0]
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full_like(rhs, np.nan)
        return np.concatenate([solve_each(matrices[i : i + 1], rhs[i : i + 1]) for i in range(len(rhs))])


# ---- Broyden --------------------------------------------------------------------------------------------------------


def broyden():
    """x - H g with g = f(x) - x and H its inverse Jacobian, H = -I + sum of u v^T from the steps taken.

    H <- H + (dx - H dg) (dx^T H) / (dx^T H dg), dx and dg (B, n) the change of x and of g. An update whose denominator
    vanishes, or that is not finite, is left out for its example.
    """
    pairs, last = [], []

    def update(x, fx):
        xp, g = namespace(x), fx - x
        if last:
            dx, dg = x - last[0], g - last[1]
            del pairs[: max(0, len(pairs) - BROYDEN_MEMORY + 1)]
            moved, v = _apply(pairs, dg), _apply([(v, u) for u, v in pairs], dx)
            below = (dx * moved).sum(axis=1)
            usable = xp.abs(below) > 1e-10 * row_norms(dx) * row_norms(moved)
            u = (dx - moved) / xp.where(usable, below, 1)[:, None]
            usable = (usable & xp.isfinite(u).all(axis=1) & xp.isfinite(v).all(axis=1))[:, None]
            pairs.append((xp.where(usable, u, 0), xp.where(usable, v, 0)))
        last[:] = x, g
        return x - _apply(pairs, g)

    return update


def _apply(pairs, y):
    """(-I + sum of u v^T) y for rows y (B, n)."""
    result = -y
    for u, v in pairs:
        result = result + u * (v * y).sum(axis=1)[:, None]
    return result
