"""One program for a GPU that is there for a few minutes: are the fused blocks right, and how fast is a step?

    python tools/gpu_check.py [--output FILE.json] [--only equal,update,step,simulation,peer] [--tiny] [--seconds 200]

Random weights and made-up word pieces with the lengths of SST-2's sentences (5 to 40, on average 13): it needs no data.
After every part it prints one line of JSON, so that what was measured is known if the time runs out.

equal        loss and every gradient of a distillation step, fused against portable on the GPU, both in float32, and
             against NumPy in float64 for a small student; largest difference over the largest number of each tensor
update       AdamW, fused against portable, over some updates; the same gradients twice give the same bits
step         milliseconds of a training step (3 x 384, teacher 6 x 384 included; batches of 32 and 256): all of it,
             and until the host has asked for it; fused, as one graph, portable; launches, if they can be counted
simulation   milliseconds of a simulated step and of an equilibrium, forward only
peer         the same step in eager PyTorch with fused AdamW (tools/bench_torch.py), if torch can be imported

--tiny: small models, for an emulation of a GPU. --precision tf32 or bfloat16: how products round.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nanospike  # noqa: E402
from nanospike.arrays.backend import library, set_precision, to_device, to_host  # noqa: E402
from nanospike.arrays.recorded import Recorded, can_record  # noqa: E402
from nanospike.arrays.tree import RowSum, dense_gradients, leaves, nest  # noqa: E402
from nanospike.arrays.workers import few_collections  # noqa: E402
from nanospike.config.models import BertConfig, read_config  # noqa: E402
from nanospike.data.text import Encoded, collate  # noqa: E402
from nanospike.files.model_files import write_json  # noqa: E402
from nanospike.model import twins  # noqa: E402
from nanospike.model.bert import parameter_shapes  # noqa: E402
from nanospike.model.loss import LossWeights, Targets, Totals  # noqa: E402
from nanospike.model.simulate import SpikingRun  # noqa: E402
from nanospike.model.teacher import Teacher  # noqa: E402
from nanospike.model.twins import arrange  # noqa: E402
from nanospike.training.optim import AdamW  # noqa: E402
from nanospike.training.optim_device import optimizer_of  # noqa: E402
from nanospike.training.teaching import in_few_lengths, in_places  # noqa: E402

WEIGHTS = LossWeights(hidden=1.0, attention=0.01, logits=0.0, labels=0.0)
SHAPE = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30522}
TINY = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 300}
TERNARY = {"operators": "shift", "weights": "ternary", "embedding_weights": "ternary", "spikes": "signed"}
KINDS = {"hybrid": {}, "ternary": TERNARY, "ternary, few-steps": TERNARY}  # of students
RATE = 1e-4
BATCHES = 12  # different ones, again and again
TIMES = {"repeats": 20, "rounds": 5}  # of what is timed


class Bench:
    """A teacher of 6 encoders, a student of 3, batches, and an optimiser, on a device."""

    def __init__(self, shape, batch_size, device="cuda", dtype="float32", seed=0, kind="hybrid"):
        base = shape | {"max_position_embeddings": 128, "type_vocab_size": 2, "num_labels": 2}
        self.config = read_config(BertConfig, base | {"num_hidden_layers": 6}, "teacher")
        rng = np.random.default_rng(seed)
        tensors = {
            n: (0.05 * rng.standard_normal(s) + n.endswith("LayerNorm.weight")).astype(dtype)
            for n, s in parameter_shapes(self.config, 2, pooler=True).items()
        }
        self.teacher = Teacher(self.config, nest({n: to_device(t, device) for n, t in tensors.items()}), device)
        student = base | {"num_hidden_layers": 3} | KINDS[kind]
        self.student = nanospike.init_student(student, self.teacher, 0, device, dtype)
        self.run = SpikingRun(time_steps=4, record=(1, 2, 4)) if kind == "ternary, few-steps" else None
        arrange(self.student.tree)
        self.optimizer = optimizer_of(self.student.parameters())
        lengths = [np.clip(rng.geometric(0.1, batch_size) + 4, 5, 40) for _ in range(BATCHES)]
        ids = [[rng.integers(0, shape["vocab_size"], n) for n in some] for some in lengths]
        data = [Encoded(some, [row * 0 for row in some]) for some in ids]
        length = [in_few_lengths(int(n.max()), 128) for n in lengths]
        self.batches = [collate(d, np.arange(batch_size), device, n) for d, n in zip(data, length, strict=True)]
        self.totals = [Totals(batch_size, int(n.sum()), int((n * n).sum())) for n in lengths]
        self.at, self.device = 0, device

    def gradients(self, at):
        batch = self.batches[at % BATCHES]
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return self.gradients_of(inputs, self.totals[at % BATCHES])

    def gradients_of(self, inputs, totals=None):
        out = self.teacher.forward(inputs, differentiable=False)[0]
        targets = Targets(out, None, totals)
        return self.student.computing().gradients(inputs, targets, WEIGHTS, simulation=self.run)

    def recorded(self):
        """From here on, gradients are those of graphs: batches are of few lengths, as in training."""
        direct, shared = self.gradients_of, {}

        def gradients(*inputs):
            result = direct(inputs)
            return result.terms, in_places(dict(leaves(result.grads)), shared)

        def recorded(inputs, totals=None):
            terms, grads = graphs(*inputs)
            return SimpleNamespace(terms=terms, grads=grads)

        graphs, self.gradients_of = Recorded(gradients), recorded

    def step(self):
        self.at += 1
        result = self.gradients(self.at)
        self.optimizer.update(dict(leaves(result.grads)), RATE, 1.0)

    def simulated(self, steps):
        batch = self.batches[0]
        self.student.simulate(batch.input_ids, batch.attention_mask, time_steps=steps, record=())

    def settled(self):
        batch = self.batches[0]
        self.student.equilibrium(batch.input_ids, batch.attention_mask)


def synchronize():
    library("cuda").cuda.Device().synchronize()


def milliseconds(function, share=1.0):
    """Medians over the rounds: of all of a call, and of what the host takes to ask for it. share: of the repeats."""
    repeats, rounds = max(1, int(share * TIMES["repeats"])), TIMES["rounds"]
    for _ in range(min(3, repeats)):
        function()
    synchronize()
    whole, asked = [], []
    with few_collections():  # as the training loop
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(repeats):
                function()
            asked.append(1000 * (time.perf_counter() - began) / repeats)
            synchronize()
            whole.append(1000 * (time.perf_counter() - began) / repeats)
    return {"ms": round(statistics.median(whole), 3), "asked_ms": round(statistics.median(asked), 3)}


def launches(function):
    """What a call asks of the device, under an emulation that counts; None elsewhere."""
    if importlib.util.find_spec("hostcupy") is None:
        return None
    import hostcupy

    function()
    with hostcupy.measure() as counts:
        function()
    return {n: counts[n] for n in ("launches", "h2d", "d2h", "syncs")}


def difference(found, expected):
    """{name: largest difference over the largest number}, of the worst three tensors."""
    worst = {}
    for name, value in expected.items():
        a, b = to_host(found[name]).astype(float), to_host(value).astype(float)
        worst[name] = float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12))
    return dict(sorted(worst.items(), key=lambda pair: -pair[1])[:3])


def equal(shape, batches):
    """Fused against portable on this device; fused float64 against NumPy."""
    bench, names = Bench(shape, batches[0]), None
    fused = bench.gradients(1)
    with twins.portable():
        portable = bench.gradients(1)
    names = bench.student.parameters()
    losses = [float(sum(r.terms.values())) for r in (fused, portable)]
    grads = [dense_gradients(r.grads, names) for r in (fused, portable)]
    again = dense_gradients(bench.gradients(1).grads, names)
    small = [Bench(TINY, 8, device, "float64") for device in ("cuda", "cpu")]
    doubles = [dense_gradients(b.gradients(1).grads, b.student.parameters()) for b in small]
    return {
        "losses": losses,
        "gradients, float32, fused to portable": difference(*grads),
        "gradients, float64, fused to NumPy": difference(*doubles),
        "repeats": all(np.array_equal(to_host(grads[0][n]), to_host(again[n])) for n in names),
    }


def update(shape, batches):
    """Three updates with both optimisers from the same weights and gradients."""
    found = []
    for make in (optimizer_of, optimizer_of, AdamW):
        bench = Bench(shape, batches[0])
        bench.optimizer = make(bench.student.parameters())
        for _ in range(3):
            bench.step()
        found.append({n: to_host(p) for n, p in bench.student.parameters().items()})
    start = {n: to_host(p) for n, p in Bench(shape, batches[0]).student.parameters().items()}
    moved = [{n: f[n] - start[n] for n in start} for f in found]
    return {
        "moves, fused to portable": difference(moved[0], moved[2]),
        "repeats": all(np.array_equal(found[0][n], found[1][n]) for n in start),
    }


def step(shape, batches):
    results = {}
    for size in batches:
        bench = Bench(shape, size)
        results[f"batch {size}"] = milliseconds(bench.step) | {"counts": launches(bench.step)}
        result = bench.gradients(1)
        grads, batch = dict(leaves(result.grads)), bench.batches[1]
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        parts = {
            "teacher": lambda bench=bench, inputs=inputs: bench.teacher.forward(inputs, differentiable=False),
            "update": lambda bench=bench, grads=grads: bench.optimizer.update(grads, RATE, 1.0),
        }
        results[f"batch {size}"] |= {name: milliseconds(function) for name, function in parts.items()}
        bench.optimizer.check()
        results |= graphs(shape, size)
    bench = Bench(shape, batches[0])
    bench.optimizer = AdamW(bench.student.parameters())
    with twins.portable():
        results[f"batch {batches[0]}, portable"] = milliseconds(bench.step, 0.2)
    return results


def arrays_of(grads):
    """{name: array} of gradients, the indices and rows of a RowSum each by itself."""
    found = {}
    for name, gradient in leaves(grads):
        parts = gradient.parts() if isinstance(gradient, RowSum) else (gradient,)
        found |= {f"{name} {i}": part for i, part in enumerate(parts)}
    return found


def graphs(shape, size):
    """Steps of all kinds of students, their gradients launch by launch, and as one graph ("graph" in the name)."""
    results = {}
    if not can_record():
        return results
    for kind in KINDS:
        bench = Bench(shape, size, kind=kind)
        launched = bench.gradients_of
        if kind != "hybrid":
            results[f"batch {size}, {kind}"] = milliseconds(bench.step, 0.2)
        bench.recorded()
        for _ in range(2 * BATCHES):  # both the first and the second batch of every length
            bench.step()
        results[f"batch {size}, {kind}, graph"] = milliseconds(bench.step)
        batch = bench.batches[1]
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        found, known = (arrays_of(make(inputs).grads) for make in (bench.gradients_of, launched))
        equal = all(np.array_equal(to_host(known[n]), to_host(found[n])) for n in known)
        results[f"batch {size}, {kind}, graph"] |= {"equal to launch by launch": equal}
        bench.optimizer.check()
    return results


def simulation(shape, batches, steps=16):
    results = {}
    for size in batches:
        bench = Bench(shape, size)
        settled = milliseconds(bench.settled)
        simulated = milliseconds(lambda bench=bench: bench.simulated(steps), 0.1)
        ratio = simulated["ms"] / steps / settled["ms"]
        results[f"batch {size}"] = {"equilibrium": settled, f"{steps} steps": simulated, "ratio of a step": ratio}
    return results


def peer(shape, batches):
    """Eager PyTorch: float32 as it comes ("highest"), and with TF32 products ("high")."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not here"
    import bench_torch

    results = {"torch": bench_torch.torch.__version__}
    for size in batches:
        for precision in ("highest", "high"):
            function = bench_torch.on_gpu(Bench(shape, size, "cpu"), precision, WEIGHTS.attention, RATE)
            results[f"batch {size}, {precision}"] = milliseconds(function)["ms"]
    return results


PARTS = {"equal": equal, "update": update, "step": step, "simulation": simulation, "peer": peer}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--precision", default="float32", choices=("float32", "tf32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=200, help="no part begins after so many")
    options = parser.parse_args(argv)
    xp, began = library("cuda"), time.perf_counter()
    set_precision(options.precision)
    if options.tiny:
        TIMES.update(repeats=1, rounds=1)
    shape, batches = (TINY, (4, 8)) if options.tiny else (SHAPE, (32, 256))
    name = xp.cuda.runtime.getDeviceProperties(0)["name"]
    results = {"device": name.decode() if isinstance(name, bytes) else name, "cupy": xp.__version__}
    results["precision"] = options.precision
    print(json.dumps(results), flush=True)
    for part in options.only.split(","):
        if time.perf_counter() - began > options.seconds:
            results[part] = "no time left"
            continue
        try:
            results[part] = PARTS[part](shape, batches)
        except Exception:  # the other parts are still worth knowing
            results[part] = {"error": traceback.format_exc().splitlines()[-6:]}
        taken = round(time.perf_counter() - began, 1)
        print(json.dumps({part: results[part], "seconds": taken}), flush=True)
    if options.output:
        write_json(options.output, results)
    failed = [p for p in results.values() if isinstance(p, dict) and "error" in p]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
