"""Linear systems x = c + A x whose answers are known, one per example."""

import numpy as np

from nanospike import solve_adjoint
from nanospike.arrays.backend import to_device, to_host


def contraction(rng, n, gain):
    """A random matrix (n, n) of spectral radius `gain`."""
    a = rng.standard_normal((n, n))
    return gain * a / np.abs(np.linalg.eigvals(a)).max()


def contractions(rng, n, gains):
    return np.stack([contraction(rng, n, gain) for gain in gains])


def exact(matrices, cotangent):
    """x (B, n) for A (B, n, n), c (B, n)."""
    return np.linalg.solve(np.eye(cotangent.shape[1]) - matrices, cotangent[..., None])[..., 0]


def solved(matrices, cotangent, dtype="float64", device="cpu", **options):
    """solve_adjoint of x = c + A x per example: (Solution, x on the host)."""
    a = to_device(matrices.astype(dtype), device)
    solution = solve_adjoint(
        lambda v: (a @ v[..., None])[..., 0], to_device(cotangent.astype(dtype), device), **options
    )
    return solution, to_host(solution.x)


def relative_residuals(matrices, cotangent, x):
    """|c - x + A x| / |c| (B,), in float64."""
    r = cotangent - x + (matrices @ x[..., None])[..., 0]
    return np.linalg.norm(r, axis=1) / np.linalg.norm(cotangent, axis=1)
