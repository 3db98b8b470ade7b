"""What tests/test_parallel.py starts under mpiexec: python ranks.py COMMAND ACCIDENT UPDATE [option ...].

The command runs as it is, but in its update number UPDATE rank 1 meets the ACCIDENT. COMMAND sums: see below.
"""

import os
import signal
import sys

import numpy as np
from models import random_batch, random_student, random_teacher

from nanospike import InputError, distill, finetune
from nanospike.arrays.tree import dense_gradients, leaves
from nanospike.model.loss import Targets, Totals
from nanospike.start import command
from nanospike.training.optim import AdamW, Diverged
from nanospike.training.parallel import Sums, world


def accident(kind, update):
    """Let `kind` happen on rank 1 in the update of that number."""
    whole, calls = AdamW.update, []

    def meeting(self, *rest):
        calls.append(1)
        if len(calls) == int(update) and world().rank == 1:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "error":
                raise InputError("the disk is gone")
            elif kind == "bug":
                raise ZeroDivisionError
            elif kind == "interrupt":
                signal.raise_signal(signal.SIGINT)
            elif kind == "drift":
                next(iter(self.parameters.values()))[0] += 1
        return whole(self, *rest)

    AdamW.update = meeting


def sums(feedback):
    """Print the worst difference of sums from the whole batch, relative to the largest entry of each gradient."""
    here, worst = world(), {}
    teacher, student = random_teacher(1, dtype="float32"), random_student(2, feedback=feedback, dtype="float32")
    exchange = Sums(here)
    for lengths in ((2, 3, 3, 5, 7, 7), (4,), (3, 8, 8)):  # one example: nothing is left for rank 1
        ids, mask, types = random_batch(lengths=lengths)
        lengths = np.array(lengths)
        totals = Totals(len(lengths), lengths.sum(), (lengths * lengths).sum())

        def part(index, totals=totals, inputs=(ids, mask, types)):
            mine = [a[index] for a in inputs]
            if not len(mine[0]):
                return {}, {}, dict
            result = student.gradients(mine, Targets(teacher(*mine), np.zeros(len(mine[0]), int), totals))
            return result.terms, dict(leaves(result.grads)), dict

        own = here.mine(lengths)
        terms, grads, _ = exchange.step(lambda part=part, own=own: part(own), False)
        expected_terms, expected, _ = part(slice(None))
        expected, found = (dense_gradients(g, student.parameters()) for g in (expected, grads))
        assert terms.keys() == expected_terms.keys() and len(terms) == 4
        np.testing.assert_allclose(list(terms.values()), [float(v) for v in expected_terms.values()], rtol=1e-5)
        for name, g in expected.items():
            scale = max(abs(g).max(), 1e-3)
            worst[name] = max(worst.get(name, 0.0), float(abs(found[name] - g).max() / scale))
    here.require_same(found)
    print(max(worst.values()), exchange.sent)


def diverge(update):
    """A sum in which rank 1 has none: both learn of it."""
    try:
        Sums(world()).step(fail if world().rank else lambda: ({}, {}, dict), False)
    except Diverged as error:
        print(f"rank {world().rank}: {error}")


def fail():
    raise Diverged("no convergence")


if __name__ == "__main__":
    name, kind, update, *rest = sys.argv[1:]
    if name == "sums":
        command(lambda: sums(kind == "feedback"), processes=None)
    elif name == "diverge":
        diverge(update)
    elif name == "alone":
        command(lambda: print("ran"))
    else:
        accident(kind, update)
        main = {"distill": distill.main, "finetune": finetune.main}[name]
        command(lambda: main(rest), processes=None)
