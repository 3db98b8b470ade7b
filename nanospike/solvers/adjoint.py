"""The front door of the solvers: fixed points, and the linear adjoint systems that differentiate through them."""

import numpy as np

from ..config.errors import InputError
from .fixed_point import FORWARD_METHODS, fixed_point
from .krylov import RESTART, gmres
from .library import LIBRARY_METHODS, available, refined
from .linear import LinearSystem, accelerated, dense, one_step, series
from .solution import Code, NotConverged, Solution, conclude
from .spide import TIME_STEPS, spide

__all__ = [
    "ADJOINT_METHODS", "FORWARD_METHODS", "Code", "NotConverged", "Solution", "adjoint_methods", "fixed_point",
    "solve_adjoint",
]  # fmt: skip

OWN_METHODS = ("gmres", "anderson", "broyden", "damped", "neumann", "sweep", "one-step", "dense", "spide")
ADJOINT_METHODS = (*OWN_METHODS, *LIBRARY_METHODS)
APPROXIMATE = ("one-step", "neumann", "spide")  # as good as their number of terms or time steps
MAX_ITERATIONS = 400
TERMS = 8
OPTIONS = {  # option: the methods that have it
    "restart": ("gmres",),
    "terms": ("neumann",),
    "time_steps": ("spide",),
    "start": ("gmres", "anderson", "broyden", "damped", "sweep", *LIBRARY_METHODS),
}


def adjoint_methods(xp):
    """The methods of solve_adjoint that work on arrays of the library xp."""
    return (*OWN_METHODS, *available(xp))


def solve_adjoint(
    vjp, cotangent, method="gmres", rtol=1e-6, throw=False, max_iterations=None, start=None, restart=None, terms=None,
    time_steps=None,
):  # fmt: skip
    """Solve x = cotangent + vjp(x), vjp: v -> J^T v, that is (I - J^T) x = cotangent: a Solution.

    cotangent: float32 or float64; ndim 1 is one system, otherwise axis 0 is the batch of independent systems.
    `converged` is judged by the recomputed residual of the worst example against rtol, which is clamped to 20 eps of
    the dtype. method:

    gmres      one product a step for the whole batch, a Krylov space of at most `restart` (30) vectors and a stop for
               each example; the Solution then has its Ritz estimates of the loop's gain. The default: fewest products
               where the loop gain is high, within one of the fewest where it is low (tools/adjoint_study.py)
    anderson, broyden, damped   the methods of fixed_point, on x -> cotangent + vjp(x)
    sweep      the series c + J^T c + J^T J^T c + ... to rounding: exact where J is nilpotent (no feedback)
    neumann    the same series, cut after `terms` (8) products or at rtol
    one-step   x = cotangent, the series' first term; the residual is the loop's gain along it
    dense      J^T written out; small systems only
    spide      a second spiking run of `time_steps` (250) steps (spide.py)
    library-gmres, bicgstab, lgmres, gcrotmk, tfqmr   scipy's (library-gmres, bicgstab: also cupyx's), the batch as one
               system (library.py)

    start: of cotangent's shape, a guess of x. max_iterations: products, 400 by default; dense and spide take the
    number they need. Where neumann, one-step or spide do what was asked of them without reaching rtol, converged is
    False and code TRUNCATED. Never raises for what it finds unless throw (NotConverged); for options, InputError.
    """
    given = {"restart": restart, "terms": terms, "time_steps": time_steps, "start": start}
    _check(method, cotangent, {name: value for name, value in given.items() if value is not None}, max_iterations)
    rtol = max(rtol, 20 * float(np.finfo(cotangent.dtype).eps))
    with np.errstate(all="ignore"):  # what overflows is found, and said
        system = LinearSystem(vjp, cotangent, start)
        if system.empty.all():
            found = system.found(system.rhs, np.zeros(len(system.rhs)))
        else:
            found = _solve(system, method, rtol, max_iterations, restart or RESTART, terms, time_steps)
        found = system.unscaled(found)
    return conclude(found, cotangent.shape, system.products, rtol, f"adjoint ({method})", throw)


def _check(method, cotangent, given, max_iterations):
    if method not in ADJOINT_METHODS:
        raise InputError(f"adjoint solver: found {method!r}, expected one of {', '.join(ADJOINT_METHODS)}")
    if not hasattr(cotangent, "dtype") or cotangent.dtype not in (np.float32, np.float64) or cotangent.ndim == 0:
        found = f"{getattr(cotangent, 'dtype', type(cotangent).__name__)} of shape {np.shape(cotangent)}"
        raise InputError(f"adjoint: cotangent: found {found}, expected a float32 or float64 array of 1 axis or more")
    for name, value in given.items():
        if method not in OPTIONS[name]:
            raise InputError(
                f"adjoint solver {method}: has no option {name}; those with it: {', '.join(OPTIONS[name])}"
            )
        if name == "start" and value.shape != cotangent.shape:
            raise InputError(f"adjoint: start: found shape {value.shape}, expected the cotangent's {cotangent.shape}")
        if name != "start" and value < 1:
            raise InputError(f"adjoint solver {method}: {name}: found {value}, expected at least 1")
    if max_iterations is not None and max_iterations < 1:
        raise InputError(f"adjoint solver {method}: max_iterations: found {max_iterations}, expected at least 1")


def _solve(system, method, rtol, max_iterations, restart, terms, time_steps):
    limit = max_iterations or MAX_ITERATIONS
    if method == "gmres":
        return gmres(system, rtol, limit, restart)
    if method in FORWARD_METHODS:
        return accelerated(system, method, rtol, limit)
    if method == "sweep":
        return series(system, 20 * system.eps, limit, Code.MAX_STEPS)
    if method == "neumann":
        return series(system, rtol, min(terms or TERMS, limit), Code.TRUNCATED)
    if method == "one-step":
        return one_step(system)
    if method == "dense":
        return dense(system, max_iterations or system.rhs.shape[1] + 1)
    if method == "spide":
        return spide(system, min(time_steps or TIME_STEPS, max_iterations or TIME_STEPS * 400))
    return refined(system, method, rtol, limit)
