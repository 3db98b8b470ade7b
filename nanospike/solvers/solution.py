"""What a solve returns: the answer, how good each example's is, and why one that failed did.

Solvers work on rows (B, n): axis 0 is the batch, its entries are independent systems, and residuals, steps and codes
are per example, so that an answer does not depend on its neighbours.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from ..arrays.backend import namespace


class Code(IntEnum):
    """How a solve ended for an example, from good to bad; of a batch: the worst."""

    OK = 0
    TRUNCATED = 1
    MAX_STEPS = 2
    STAGNATION = 3
    DIVERGED = 4
    BREAKDOWN = 5
    NONFINITE_OUTPUT = 6
    NONFINITE_INPUT = 7


WORDS = {  # code: (cause, remedy)
    Code.TRUNCATED: ("cut short as asked", "ask for more terms or time steps, or use gmres"),
    Code.MAX_STEPS: ("out of steps", "allow more steps or raise rtol"),
    Code.STAGNATION: (
        "no more progress",
        "raise rtol, or scale the feedback weight down: the gain may be above 1",
    ),
    Code.DIVERGED: ("diverged", "the loop gain is above 1: use gmres, or scale the feedback weight down"),
    Code.BREAKDOWN: ("singular", "the loop gain touches 1: scale the feedback weight down"),
    Code.NONFINITE_OUTPUT: ("not finite", "a product or value of the map is not finite: look for NaN in the weights"),
    Code.NONFINITE_INPUT: ("not finite from the start", "the cotangent or start is not finite: look at the loss"),
}


class NotConverged(RuntimeError):
    """A solve did not reach its tolerance; the message has the cause, the number and the remedy."""


@dataclass(frozen=True)
class Solution:
    """What a solve found, converged or not.

    x: of the right-hand side's shape. residual: relative, worst example. residuals (B,): each example's, on the
    host, as are the rest. iterations: products with the Jacobian, or evaluations of the map. message: "" if
    converged. code: the worst of `codes` (B,), see Code. steps (B,): iterations after which each example was done.
    radius, max_real (B,): the loop's spectral radius max |lambda| and max Re lambda, estimated from the Ritz values of
    gmres, or those of the matrices of dense; NaN where nothing is known. saturated: neurons times steps that
    spide's range was too small for.
    """

    x: Any
    residual: float
    residuals: np.ndarray
    iterations: int
    converged: bool
    message: str
    code: Code
    codes: np.ndarray
    steps: np.ndarray
    radius: np.ndarray
    max_real: np.ndarray
    saturated: int = 0


@dataclass
class Found:
    """What a method hands back about rows (B, n): see Solution. codes: of examples that do not converge."""

    x: Any
    residuals: np.ndarray
    codes: np.ndarray
    steps: np.ndarray
    radius: np.ndarray | None = None
    max_real: np.ndarray | None = None
    saturated: int = 0


def conclude(found, shape, iterations, rtol, what, throw):
    """The Solution of x of `shape`: what converged is judged here, by the residuals and nothing else."""
    residuals = np.where(np.isfinite(found.residuals), found.residuals, np.inf)
    codes = np.where(residuals <= rtol, Code.OK, found.codes).astype(np.int8)
    code, residual = Code(int(codes.max(initial=0))), float(residuals.max(initial=0.0))
    message = "" if code is Code.OK else _message(codes, residual, iterations, rtol, what)
    if throw and message:
        raise NotConverged(message)
    unknown = np.full(len(residuals), math.nan)
    return Solution(
        found.x.reshape(shape),
        residual,
        residuals,
        iterations,
        code is Code.OK,
        message,
        code,
        codes,
        found.steps,
        unknown if found.radius is None else found.radius,
        unknown if found.max_real is None else found.max_real,
        found.saturated,
    )


def _message(codes, residual, iterations, rtol, what):
    counts = {Code(int(c)): int((codes == c).sum()) for c in np.unique(codes) if c}
    causes = ", ".join(f"{n} {WORDS[c][0]}" for c, n in counts.items())
    return (
        f"{what}: {sum(counts.values())} of {len(codes)} examples did not converge ({causes}): relative residual "
        f"{residual:.1e} after {iterations} steps, asked for {rtol:.0e}; {WORDS[max(counts)][1]}"
    )


def row_norms(rows):
    """Euclidean norms (B,) of rows (B, n) that neither overflow nor underflow, with the array library of `rows`."""
    xp = namespace(rows)
    if not rows.size:
        return rows.sum(axis=1)
    peak = xp.abs(rows).max(axis=1)
    safe = xp.where(peak > 0, peak, peak.dtype.type(1))
    return safe * xp.sqrt(((rows / safe[:, None]) ** 2).sum(axis=1))
