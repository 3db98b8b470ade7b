"""results/inference.py: what is measured of many batches is kept as sums, not batch by batch."""

import numpy as np
from models import random_student

from nanospike.arrays.workers import Workers
from nanospike.data.text import Encoded
from nanospike.model.simulate import SpikingRun
from nanospike.results.inference import run_student

TEXTS, WIDTHS = 12, (4, 7, 5)


class Watched(Workers):
    """Workers that remember what the batches gave back."""

    def map(self, function, items):
        self.found = super().map(function, items)
        return self.found


def texts():
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 30, WIDTHS[i % 3]) for i in range(TEXTS)]
    return Encoded(ids, [np.zeros_like(i) for i in ids])


def size(value):
    if isinstance(value, dict):
        return sum(map(size, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(size, value))
    return getattr(value, "nbytes", 0) if not hasattr(value, "__dict__") else size(vars(value))


def test_counts_are_those_of_one_batch_and_no_batch_keeps_its_own():
    student, how = random_student(3, operators="shift", spikes="signed"), SpikingRun(count=True)
    _, alone = run_student(student, texts(), (2, 16), how, batch_size=TEXTS)
    kept = {}
    for steps in (2, 16):
        workers = Watched(2)
        _, several = run_student(student, texts(), (2, steps), how, batch_size=2, workers=workers)
        kept[steps] = size(workers.found) - size([part["logits"] for part in workers.found])
        assert len(workers.found) == TEXTS // 2 and all("counts" not in part for part in workers.found)
    assert kept[2] == kept[16]  # however long the run was
    one, other = alone["counts"], several["counts"]
    assert one.spikes.keys() == other.spikes.keys()
    for name, spikes in one.spikes.items():
        assert np.array_equal(spikes.sum(axis=0), other.spikes[name].sum(axis=0)), name
    assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.pairs, other.pairs)
