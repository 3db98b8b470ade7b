"""The Krylov solvers of scipy and cupyx on the whole batch as one system, guarded against what they do wrong.

They know no batch: one Krylov space has to serve all examples, and an easy one goes on until the hardest is done.
"""

import numpy as np

from ..arrays.backend import krylov, to_host
from ..config.errors import InputError
from .solution import Code, row_norms

LIBRARY_METHODS = {
    n if n != "gmres" else "library-gmres": n for n in ("gmres", "bicgstab", "lgmres", "gcrotmk", "tfqmr")
}


def available(xp):
    """The names of LIBRARY_METHODS that the library has: cupyx lacks lgmres, gcrotmk and tfqmr."""
    solvers = krylov(xp)[1]
    return tuple(name for name, solver in LIBRARY_METHODS.items() if solver in solvers)


def refined(system, method, rtol, limit):
    """Rounds of the solver on the recomputed residual, each example keeping what is best for it: Found.

    No solver's own word for convergence is taken; one that breaks down or no longer helps gives way to the others. An
    example whose solution explodes (its system is singular) is left out of later rounds, lest it spoil the others.
    """
    if method not in available(system.xp):
        raise InputError(f"adjoint solver {method}: not in cupyx; there: {', '.join(available(system.xp))}")
    xp = system.xp
    x, r, norms, active = system.begin()
    codes, lost = np.full(len(norms), Code.MAX_STEPS), np.zeros(len(norms), bool)
    for name in dict.fromkeys((LIBRARY_METHODS[method], "bicgstab", "gmres")):
        while (active := active & ~(norms <= rtol)).any() and system.products + 2 < limit:
            correction = _round(system, name, xp.where(xp.asarray(active)[:, None], r, 0), rtol, limit - 1, lost)
            codes[lost], active = Code.NONFINITE_OUTPUT, active & ~lost
            if correction is None:
                break
            sizes = to_host(row_norms(correction))
            exploded = active & ~(sizes <= system.largest)
            codes[exploded] = np.where(np.isfinite(sizes[exploded]), Code.BREAKDOWN, Code.NONFINITE_OUTPUT)
            active &= ~exploded
            tried_r, tried_norms = system.residual(xp.where(xp.asarray(exploded)[:, None], x, x + correction))
            better = active & (tried_norms < norms)
            if not better.any() and not exploded.any():
                break
            rows = xp.asarray(better)[:, None]
            x, r = xp.where(rows, x + correction, x), xp.where(rows, tried_r, r)
            norms = np.where(better, tried_norms, norms)
    if system.products + 2 < limit:
        codes[active] = Code.STAGNATION
    return system.found(x, norms, codes)


class _Exhausted(Exception):
    """The products allowed are used up: not every library solver keeps to its own limit."""


def _round(system, name, r, rtol, most, lost):
    """An approximate solution of (I - J^T) d = r by the library's solver, or None where that breaks down.

    Examples whose products are not finite would spoil all the others: they count as 0, and `lost` (B,) has them.
    """
    xp, dtype = system.xp, system.dtype
    operator, solvers = krylov(xp)
    budget, size = most - system.products, float(row_norms(r.reshape(1, -1))[0])
    options = {"rtol": max(0.5 * rtol / size, 20 * system.eps), "atol": 0.0, "maxiter": budget}
    last = []  # the solver's latest iterate, in case the products run out
    if name == "gmres":  # one cycle: scipy counts cycles in maxiter, cupyx steps; `refined` restarts it
        restart = max(1, min(r.size, 30 if xp is np else 10, budget - 1))
        options |= {"restart": restart, "maxiter": 1 if xp is np else restart}
    else:
        options["callback"] = lambda x: last.__setitem__(slice(None), [xp.array(x)])

    def product(v):
        if system.products >= most:
            raise _Exhausted
        v = v.reshape(r.shape)
        out = system.product(v)
        finite = xp.isfinite(out).all(axis=1)
        lost[...] |= ~to_host(finite)
        return (v - xp.where(finite[:, None], out, 0)).reshape(-1)

    matrix = operator((r.size, r.size), matvec=product, dtype=dtype)
    try:
        d, _ = solvers[name](matrix, (r / size).reshape(-1), **options)
    except np.linalg.LinAlgError:
        return None
    except _Exhausted:
        if not last:
            return None
        d = last[0]
    d = d.reshape(r.shape) * dtype.type(size)
    return d.astype(dtype) if bool(xp.isfinite(d).any()) else None
