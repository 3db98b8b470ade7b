"""Every adjoint solver on a student with feedback: sweeps, time, and the error that it leaves in the gradient.

    python tools/adjoint_study.py                          # random students of three feedback weights
    python tools/adjoint_study.py --model DIR --json OUT   # a trained one, on random token ids

Errors are of the gradient of a random linear functional of all outputs, relative to that of gmres at the least residual
that the dtype allows. time: the whole backward pass over that of `one-step`, the best of --repeats. radius: the Ritz
estimate of the loop's spectral radius, worst example. gain: the spectral norm of the random feedback weight.
"""

import argparse
import json
import time

import numpy as np

import nanospike
from nanospike import spiking_bert
from nanospike.config import InputError
from nanospike.solve import ADJOINT_METHODS
from nanospike.tree import dense_gradients

SHAPE = {
    "vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64, "num_labels": 2, "feedback": True,
}  # fmt: skip
COLUMNS = ("gain", "solver", "sweeps", "time", "residual", "error", "converged", "radius", "code")


def random_student(gain, seed, dtype):
    """Weights of standard deviation 0.5 / sqrt(D) and more; a feedback weight of spectral norm `gain`."""
    student = nanospike.init_student(SHAPE, seed=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    for name, p in student.parameters().items():
        spread = 1 if p.ndim == 1 or "embeddings" in name else 3 / p.shape[1] ** 0.5
        p[...] = 0.5 * spread * rng.standard_normal(p.shape) + ("LayerNorm.weight" in name)
    feedback = student.parameters()["feedback.weight"]
    feedback *= gain / np.linalg.norm(feedback, 2)
    return student


def settled(student, batch, length, seed):
    """(Equilibrium, its vjp, cotangents) on random tokens, the last quarter of every second example padded."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, student.config.vocab_size, (batch, length))
    mask = np.ones_like(ids)
    mask[1::2, 3 * length // 4 :] = 0
    network = spiking_bert.Network.on(student.tree, student.config, ids, mask, np.zeros_like(ids))
    equilibrium, vjp = spiking_bert.solve(network)
    dtype = equilibrium.logits.dtype
    dhidden = [
        rng.standard_normal(h.shape).astype(dtype) * mask[:, :, None].astype(dtype) for h in equilibrium.hidden_states
    ]
    return equilibrium, vjp, (dhidden, None, rng.standard_normal(equilibrium.logits.shape).astype(dtype))


def gradient(student, vjp, cotangents, method, rtol):
    """(Solution, {name: gradient})"""
    grads = {}
    solution = vjp(*cotangents, grads, method, rtol)
    return solution, dense_gradients(grads, student.parameters())


def difference(found, wanted):
    """Relative Euclidean norm of the difference of two gradients."""
    square = sum(np.linalg.norm(found[n].astype(float) - g) ** 2 for n, g in wanted.items())
    return float((square / sum(np.linalg.norm(g) ** 2 for g in wanted.values())) ** 0.5)


def timed(function, repeats):
    """(result, best seconds)"""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return result, best


def study(make, gain, methods, options):
    """Rows of the table for one student: make(dtype) -> Student."""
    student = make(options.dtype)
    equilibrium, vjp, cotangents = settled(student, options.batch, options.length, options.seed)
    if not equilibrium.converged:
        print(equilibrium.message)
    wanted = gradient(student, vjp, cotangents, "gmres", 0.1 * np.finfo(options.dtype).eps)[1]
    _, base = timed(lambda: gradient(student, vjp, cotangents, "one-step", options.rtol), options.repeats)
    for method in methods:
        (solution, found), seconds = timed(
            lambda m=method: gradient(student, vjp, cotangents, m, options.rtol), options.repeats
        )
        known = solution.radius[np.isfinite(solution.radius)]
        yield {
            "gain": gain, "solver": method, "sweeps": solution.iterations, "time": seconds / base,
            "residual": solution.residual, "error": difference(found, wanted), "converged": solution.converged,
            "radius": float(known.max()) if known.size else None, "code": solution.code.name.lower(),
        }  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a student directory with feedback (default: random students)")
    parser.add_argument("--gains", type=float, nargs="+", default=[1.0, 3.0, 6.0], help="of the random students")
    parser.add_argument("--solvers", nargs="+", choices=ADJOINT_METHODS, help="(default: all but dense)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--rtol", type=float, default=1e-4)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args(arguments)
    methods = options.solvers or [m for m in ADJOINT_METHODS if m != "dense"]
    makers = {gain: lambda dtype, gain=gain: random_student(gain, options.seed, dtype) for gain in options.gains}
    if options.model:
        try:
            recurrent = nanospike.load_student(options.model).config.recurrent
        except InputError as error:
            parser.error(str(error))
        if not recurrent:
            parser.error(f"--model {options.model}: it has no feedback, so one reverse sweep is its exact adjoint")
        makers = {None: lambda dtype: nanospike.load_student(options.model, dtype=dtype)}
    print(("{:>8} " * len(COLUMNS)).format(*COLUMNS))
    rows = []
    for gain, make in makers.items():
        for row in study(make, gain, methods, options):
            rows.append(row)
            cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()]
            print(("{:>8} " * len(cells)).format(*cells), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"options": vars(options), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
