"""Every adjoint solver on a student with feedback: sweeps, time, and the error that it leaves in the gradient.

    python tools/adjoint_study.py                          # random students of three feedback weights
    python tools/adjoint_study.py --model DIR --json OUT   # a trained one, on random token ids
    python tools/adjoint_study.py --model DIR --data-dir GLUE/SST-2   # on the first sentences of the task's dev set

Errors are of the gradient of a random linear functional of all outputs, relative to that of gmres at the least residual
that the dtype allows. On text they are of the gradient of the loss of the task's labels, relative to that of the same
student in float64, equilibrium and adjoint solved as far as that goes: what float32 leaves is in them too. gmres then
has a row for each of --rtols. time: the backward pass over that of `one-step`, the best of --repeats. radius: the Ritz
estimate of the loop's spectral radius, worst example. gain: the spectral norm of the random feedback weight.
"""

import argparse
import json
import sys
import time

import numpy as np

import nanospike
from nanospike.arrays.tree import dense_gradients
from nanospike.config.errors import InputError
from nanospike.data.tasks import find_task, read_split
from nanospike.data.text import collate, encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.model import equilibrium, loss
from nanospike.solvers.adjoint import ADJOINT_METHODS

SHAPE = {
    "vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64, "num_labels": 2, "feedback": True,
}  # fmt: skip
COLUMNS = ("gain", "solver", "rtol", "sweeps", "time", "residual", "error", "converged", "radius", "code")


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


def settled_on_text(student, options):
    """(Equilibrium, its vjp, cotangents) on the first sentences of the dev set; the loss is that of their labels."""
    examples = read_split(find_task(options.task), options.data_dir, "dev")
    batch = min(options.batch or 32, len(examples.texts))
    length = min(options.length or 128, student.config.max_position_embeddings)
    data = encode(load_tokenizer(options.model), examples.texts[:batch], length, examples.labels[:batch])
    inputs = collate(data, np.arange(batch))
    network = equilibrium.Network.on(
        student.tree, student.config, inputs.input_ids, inputs.attention_mask, inputs.token_type_ids
    )
    settled, vjp = equilibrium.solve(network)
    _, loss_vjp = loss.label_loss(settled.logits, inputs.labels)
    return settled, vjp, ([None] * len(settled.hidden_states), None, loss_vjp(1.0))


def settled_on_noise(student, options):
    """(Equilibrium, its vjp, cotangents) on random tokens, the last quarter of every second example padded."""
    rng, batch, length = np.random.default_rng(options.seed), options.batch or 16, options.length or 16
    ids = rng.integers(0, student.config.vocab_size, (batch, length))
    mask = np.ones_like(ids)
    mask[1::2, 3 * length // 4 :] = 0
    network = equilibrium.Network.on(student.tree, student.config, ids, mask, np.zeros_like(ids))
    settled, vjp = equilibrium.solve(network)
    dtype = settled.logits.dtype
    dhidden = [
        rng.standard_normal(h.shape).astype(dtype) * mask[:, :, None].astype(dtype) for h in settled.hidden_states
    ]
    return settled, vjp, (dhidden, None, rng.standard_normal(settled.logits.shape).astype(dtype))


def backward(vjp, cotangents, method, rtol):
    """(Solution, gradients as the vjp leaves them)"""
    grads = {}
    return vjp(*cotangents, grads, equilibrium.Loop(adjoint_solver=method, adjoint_rtol=rtol)), grads


def exact_gradient(student, vjp, cotangents):
    """{name: gradient} of gmres at the least residual that the dtype allows."""
    solution, grads = backward(vjp, cotangents, "gmres", 0.1 * np.finfo(cotangents[2].dtype).eps)
    if not solution.converged:
        print(f"the errors are relative to a solve that did not converge: {solution.message}", file=sys.stderr)
    return dense_gradients(grads, student.parameters())


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
    settled = settled_on_text if options.data_dir else settled_on_noise
    student = make(options.dtype)
    equilibrium, vjp, cotangents = settled(student, options)
    if not equilibrium.converged:
        print(equilibrium.message, file=sys.stderr)
    reference = make("float64") if options.data_dir else student
    wanted = exact_gradient(reference, *(settled(reference, options)[1:] if options.data_dir else (vjp, cotangents)))
    _, base = timed(lambda: backward(vjp, cotangents, "one-step", options.rtol), options.repeats)
    for method, rtol in methods:
        (solution, grads), seconds = timed(lambda m=method, r=rtol: backward(vjp, cotangents, m, r), options.repeats)
        error = difference(dense_gradients(grads, student.parameters()), wanted)
        known = solution.radius[np.isfinite(solution.radius)]
        yield {
            "gain": gain, "solver": method, "rtol": rtol, "sweeps": solution.iterations, "time": seconds / base,
            "residual": solution.residual, "error": error, "converged": solution.converged,
            "radius": float(known.max()) if known.size else None, "code": solution.code.name.lower(),
        }  # fmt: skip


def methods_of(options):
    """[(solver, rtol)], a row of the table each."""
    methods = options.solvers or [m for m in ADJOINT_METHODS if m != "dense"]
    rtols = sorted({options.rtol, *options.rtols}, reverse=True) if options.data_dir else [options.rtol]
    return [(m, r) for m in methods for r in (rtols if m == "gmres" else [options.rtol])]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a student directory with feedback (default: random students)")
    parser.add_argument("--gains", type=float, nargs="+", default=[1.0, 3.0, 6.0], help="of the random students")
    parser.add_argument("--solvers", nargs="+", choices=ADJOINT_METHODS, help="(default: all but dense)")
    parser.add_argument("--data-dir", help="data of a task: --model on the texts and labels of its dev set")
    parser.add_argument("--task", default="sst-2", help="of --data-dir")
    parser.add_argument("--batch", type=int, help="examples (default: 16, of --data-dir 32)")
    parser.add_argument("--length", type=int, help="tokens, of --data-dir at most (default: 16, of --data-dir 128)")
    parser.add_argument("--rtol", type=float, default=1e-4)
    parser.add_argument("--rtols", type=float, nargs="+", default=[1e-1, 1e-4, 1e-6], help="of gmres, on --data-dir")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args(arguments)
    if options.data_dir and not options.model:
        parser.error("--data-dir: needs --model, a student that was trained on it")
    try:
        rows = run(options)
    except InputError as error:
        parser.error(str(error))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"options": vars(options), "rows": rows}, file, indent=1)


def run(options):
    """Print the table; its rows."""
    makers = {gain: lambda dtype, gain=gain: random_student(gain, options.seed, dtype) for gain in options.gains}
    if options.model:
        if not nanospike.load_student(options.model).config.recurrent:
            raise InputError(f"--model {options.model}: it has no feedback, so one reverse sweep is its exact adjoint")
        makers = {None: lambda dtype: nanospike.load_student(options.model, dtype=dtype)}
    line = "{:>13} " * len(COLUMNS)
    print(line.format(*COLUMNS))
    rows = []
    for gain, make in makers.items():
        for row in study(make, gain, methods_of(options), options):
            rows.append(row)
            print(line.format(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())), flush=True)
    return rows


if __name__ == "__main__":
    main()
