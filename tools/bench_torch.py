"""The peer of tools/bench.py: a distillation step in eager PyTorch, on the files that tools/bench.py prepares.

Not part of nanospike, which never imports PyTorch. tools/bench.py starts this program with an interpreter that has it:

    python -m venv torch_env && torch_env/bin/pip install torch safetensors numpy
    python tools/bench.py --peer torch_env/bin/python

It reads commands from standard input, one a line, and answers each with one line of JSON:

    step K         K distillation steps: teacher forward, student forward, backward, update
    published K    K steps of the published procedure: T = 100 simulated steps on sequences padded to 64 tokens, then
                   the gradients at the rates (Bal & Sengupta, arXiv 2308.10873; drive instant, membranes from 0)
    gemm N         GFLOP/s of a float32 product of N x N matrices
    layer M I O    GFLOP/s of a linear layer, M tokens of I inputs to O outputs
    memory         peak resident memory in MB

`--update sparse` moves the rows of the embedding tables that a batch touches (as nanospike does), `dense` is
torch.optim.AdamW over whole tables, as PyTorch programs commonly have it. `--autocast`: forward and loss under
PyTorch's autocast to bfloat16.
"""

import argparse
import itertools
import json
import math
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

PUBLISHED_STEPS, PUBLISHED_LENGTH = 100, 64


def read_config(directory):
    return json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))


def linear(p, name, x):
    return F.linear(x, p[name + ".weight"], p[name + ".bias"])


def norm(p, name, x, config):
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], config["layer_norm_eps"])


def embed(p, config, ids, types, sparse=False):
    word = F.embedding(ids, p["embeddings.word_embeddings.weight"], sparse=sparse)
    segment = F.embedding(types, p["embeddings.token_type_embeddings.weight"])
    place = p["embeddings.position_embeddings.weight"][: ids.shape[1]]
    return norm(p, "embeddings.LayerNorm", word + place + segment, config)


def heads_of(x, heads):
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def forward(p, config, current, mask, fire):
    """Hidden states, attention scores; fire(population, current) -> what its neurons send on."""
    heads, bias = config["num_attention_heads"], (1.0 - mask[:, None, None, :].to(current.dtype)) * -1e9
    x = fire("embedding", current)
    hidden, all_scores = [x], []
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        query = linear(p, f"{name}.attention.self.query", x)
        key = fire(f"{i}.key", linear(p, f"{name}.attention.self.key", x))
        value = fire(f"{i}.value", linear(p, f"{name}.attention.self.value", x))
        scores = heads_of(query, heads) @ heads_of(key, heads).transpose(-1, -2)
        scores = scores / math.sqrt(x.shape[-1] // heads)
        context = torch.softmax(scores + bias, -1) @ heads_of(value, heads)
        context = fire(f"{i}.attention", context.transpose(1, 2).reshape(x.shape))
        mixed = linear(p, f"{name}.attention.output.dense", context)
        middle = fire(f"{i}.middle", norm(p, f"{name}.attention.output.LayerNorm", mixed + x, config))
        inner = fire(f"{i}.inner", F.gelu(linear(p, f"{name}.intermediate.dense", middle)))
        narrow = linear(p, f"{name}.output.dense", inner)
        x = fire(f"{i}.output", norm(p, f"{name}.output.LayerNorm", narrow + middle, config))
        hidden.append(x)
        all_scores.append(scores)
    return hidden, all_scores


def loss_of(p, hidden, scores, targets, mask, attention):
    """nanospike's loss of the internal stage: hidden states and attention scores, padding left out."""
    layers = [i * len(targets[1]) // len(scores) for i in range(len(scores) + 1)]
    real, loss = mask.to(hidden[0].dtype), 0.0
    pairs = (real[:, :, None] * real[:, None, :])[:, None]
    for i, a in enumerate(hidden):
        difference = (linear(p, "distill_map", a) - targets[0][layers[i]]) * real[:, :, None]
        loss = loss + difference.square().sum() / (real.sum() * difference.shape[-1])
    for i, s in enumerate(scores):
        difference = (s - targets[1][layers[i + 1] - 1]) * pairs
        loss = loss + attention * difference.square().sum() / (pairs.sum() * s.shape[1])
    return loss


class SparseAdamW:
    """AdamW whose embedding tables move only where the batch touches them (nanospike's update)."""

    def __init__(self, parameters, rate, tables):
        self.tables = {n: p for n, p in parameters.items() if n in tables}
        self.moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in self.tables.items()}
        rest = [p for n, p in parameters.items() if n not in tables]
        self.dense = torch.optim.AdamW(rest, lr=rate, weight_decay=0.01, fused=True)
        self.rate, self.step_number, self.parameters = rate, 0, list(parameters.values())

    @torch.no_grad()
    def step(self):
        self.step_number += 1
        t = self.step_number
        self.dense.step()
        for n, p in self.tables.items():
            g = p.grad.coalesce() if p.grad.is_sparse else p.grad
            rows, g = (g.indices()[0], g.values()) if p.grad.is_sparse else (slice(None), g)
            mean, square = self.moments[n]
            m = mean[rows].mul_(0.9).add_(g, alpha=0.1)
            v = square[rows].mul_(0.999).addcmul_(g, g, value=0.001)
            mean[rows], square[rows] = m, v
            scale = self.rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            moved = p[rows] * (1 - self.rate * 0.01)
            p[rows] = moved.sub_(scale * m / (v.sqrt() + 1e-8 * math.sqrt(1 - 0.999**t)))


class Peer:
    def __init__(self, arguments):
        root = Path(arguments.directory)
        self.attention, self.batches = arguments.attention, load_file(root / "batches.safetensors")
        self.teacher_config, self.config = read_config(root / "teacher"), read_config(root / "student")
        teacher = load_file(root / "teacher" / "model.safetensors")
        self.teacher = {name.removeprefix("bert."): tensor for name, tensor in teacher.items()}
        self.student = load_file(root / "student" / "model.safetensors")
        for p in self.student.values():
            p.requires_grad_()
        self.sparse, self.autocast = arguments.update == "sparse", arguments.autocast
        unused = () if "classifier.weight" not in self.student else ("classifier.weight", "classifier.bias")
        used = {n: p for n, p in self.student.items() if n not in unused}  # this stage has no loss on the logits
        tables = {"embeddings.word_embeddings.weight"} if self.sparse else set()
        self.used, self.optimizer = list(used.values()), SparseAdamW(used, arguments.rate, tables)
        self.at, self.count = 0, len([n for n in self.batches if n.startswith("ids.")])

    def batch(self, length=None):
        i = self.at % self.count
        self.at += 1
        ids, mask = self.batches[f"ids.{i}"], self.batches[f"mask.{i}"]
        if length:
            pad = length - ids.shape[1]
            ids, mask = F.pad(ids, (0, pad))[:, :length], F.pad(mask, (0, pad))[:, :length]
        return ids, mask, torch.zeros_like(ids)

    def targets(self, ids, mask, types):
        with torch.no_grad():
            current = embed(self.teacher, self.teacher_config, ids, types)
            return forward(self.teacher, self.teacher_config, current, mask, lambda population, x: x)

    def learn(self, ids, mask, types, wait=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            targets = self.targets(ids, mask, types)
            current = embed(self.student, self.config, ids, types, self.sparse)
            hidden, scores = forward(self.student, self.config, current, mask, lambda population, x: x.clamp(0, 1))
            loss = loss_of(self.student, hidden, scores, targets, mask, self.attention)
        for p in self.used:
            p.grad = None
        loss.backward()
        norm = torch.sqrt(sum((g.coalesce().values() if g.is_sparse else g).square().sum() for g in self.grads()))
        scale = torch.clamp(1.0 / (norm + 1e-12), max=1.0)
        for g in self.grads():
            g.mul_(scale)
        self.optimizer.step()
        return float(loss.detach()) if wait else None

    def grads(self):
        return [p.grad for p in self.used if p.grad is not None]

    def published(self):
        ids, mask, types = self.batch(PUBLISHED_LENGTH)
        membranes = {}

        def fire(population, current):
            u = membranes.get(population)
            u = current.clone() if u is None else u.add_(current)
            spikes = (u >= 1).to(u.dtype)
            membranes[population] = u.sub_(spikes)
            return spikes

        with torch.no_grad():
            current = embed(self.student, self.config, ids, types)
            for _ in range(PUBLISHED_STEPS):
                forward(self.student, self.config, current, mask, fire)
        return self.learn(ids, mask, types)


def on_gpu(bench, precision, attention, rate):
    """() -> one step on a GPU that waits for nothing, of a gpu_check.Bench whose arrays are NumPy's.

    precision: of torch.set_float32_matmul_precision.
    """
    torch.set_float32_matmul_precision(precision)
    on = lambda a: torch.from_numpy(a.copy()).cuda()  # noqa: E731
    peer = Peer.__new__(Peer)
    peer.attention, peer.sparse, peer.autocast = attention, True, False
    peer.teacher_config, peer.config = vars(bench.config), vars(bench.student.config)
    peer.teacher = {n: on(a) for n, a in bench.teacher.parameters().items()}
    peer.student = {n: on(a).requires_grad_() for n, a in bench.student.parameters().items()}
    used = {n: p for n, p in peer.student.items() if not n.startswith("classifier")}
    peer.used = list(used.values())
    peer.optimizer = SparseAdamW(used, rate, {"embeddings.word_embeddings.weight"})
    inputs = [[on(a) for a in (b.input_ids, b.attention_mask, b.token_type_ids)] for b in bench.batches]
    turn = itertools.cycle(inputs)
    return lambda: peer.learn(*next(turn), wait=False)


def timed(function, repeats):
    seconds, losses = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        losses.append(function())
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "losses": losses}


def gemm(rows, inner, columns, repeats=9):
    """GFLOP/s of (rows, inner) (columns, inner)^T: a linear layer without its bias."""
    x, weight = torch.rand(rows, inner), torch.rand(columns, inner)
    seconds = timed(lambda: (F.linear(x, weight), 0.0)[1], repeats)["seconds"]
    return 2e-9 * rows * inner * columns / statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--update", choices=("sparse", "dense"), default="sparse")
    parser.add_argument("--attention", type=float, default=0.01)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--autocast", action="store_true", help="forward under torch.autocast in bfloat16")
    peer = Peer(parser.parse_args())
    for line in sys.stdin:
        what, *rest = line.split()
        n = int(rest[0]) if rest else 0
        if what == "step":
            answer = timed(lambda: peer.learn(*peer.batch()), n)
        elif what == "published":
            answer = timed(peer.published, n)
        elif what == "gemm":
            answer = {"gflops": gemm(n, n, n)}
        elif what == "layer":
            answer = {"gflops": gemm(*map(int, rest), repeats=50)}
        else:
            answer = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
