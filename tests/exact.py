"""The integer student's fixed-point constants, run in float64 by plain formulas: every number is exact there.

An independent way to what model.integer_run does: sums anew from counts at every step, not added up from spikes; dense
products, not those of arriving spikes; quotients and floors, not shifts.
"""

import numpy as np

from nanospike.model.integer import SCORE_BITS, embedding_rows


def spikes_of(student, constants, inputs, time_steps, spikes="binary", initial=0.5):
    """{population: (T, B, L, W) spikes} and the logits after the last step (B, C)."""
    return Reference(student, constants, inputs, spikes, initial).run(time_steps)


class Reference:
    def __init__(self, student, constants, inputs, spikes, initial):
        ids, mask, segments = inputs
        self.constants, self.mask, self.heads = constants, mask, student.config.num_attention_heads
        self.spikes, self.initial, self.counts, self.fired = spikes, initial, {}, {}
        self.rows = embedding_rows(student.tree, constants, ids, segments) / 2.0**constants.embedded.point

    def run(self, time_steps):
        for self.t in range(1, time_steps + 1):
            x = self.fire(
                "embedding", self.constants.embedding, self.norm(self.rows, self.constants.embedded, 1) * self.t
            )
            for i, encoder in enumerate(self.constants.encoders):
                x = self.encoder(f"encoder.{i}.", encoder, x)
        logits = x[:, 0] @ self.constants.classifier + self.constants.class_bias * self.t
        return {k: np.stack(v) for k, v in self.fired.items()}, logits * self.constants.logit_scale / self.t

    def encoder(self, name, encoder, x):
        fire = lambda kind, drive: self.fire(name + kind, encoder.cells[kind], drive)  # noqa: E731
        inward = self.matrix(x, encoder.inward)
        width = inward.shape[2] // 3
        q, k, v = (
            fire(kind, inward[..., i * width : (i + 1) * width]) for i, kind in enumerate(("query", "key", "value"))
        )
        context = fire("attention", self.attention(q, k, v, encoder.half) * 2.0**self.constants.context_bits)
        y = fire("attention_output", self.behind(context, x, encoder.mix, encoder.mixed))
        inner = fire("intermediate", self.matrix(y, encoder.widen))
        return fire("output", self.behind(inner, y, encoder.narrow, encoder.narrowed))

    def matrix(self, counts, matrix):
        return counts @ (matrix.weights.astype(float) * 2.0**matrix.shift)

    def behind(self, counts, residual, matrix, norm):
        unit = 2.0**-norm.point
        weights = matrix.weights * norm.scale * unit
        return self.norm(counts @ weights + residual * norm.residual * unit + self.t * norm.before * unit, norm, self.t)

    def norm(self, x, norm, t):
        sizes = abs(x).sum(axis=-1, keepdims=True) * 2.0**norm.point
        level = (sizes >= t * norm.steps.astype(float)).sum(axis=-1)[..., None]
        gain = norm.triples[level] * 2.0 ** -norm.exponents[level].astype(float)
        return np.floor(x * gain * 2.0 ** norm.shift.astype(float)) * (norm.live != 0) + norm.after * float(t)

    def attention(self, q, k, v, half):
        """Example by example, head by head, key by key without padding."""
        found = np.zeros(q.shape)
        head = q.shape[2] // self.heads
        smallest = 2.0**-self.constants.context_bits
        for b in range(len(q)):
            real = np.flatnonzero(self.mask[b])
            for h in range(self.heads):
                part = slice(h * head, (h + 1) * head)
                for i in range(q.shape[1]):
                    scores = k[b, real, part] @ q[b, i, part]
                    behind = scores.max() - scores
                    # the n-th step down is at (2 n + 1) t^2 half, cut off to a whole number
                    d = sum(behind > np.floor((2 * n + 1) * self.t**2 * half / 2.0**SCORE_BITS) for n in range(16))
                    power = np.where(d < 16, 2.0**-d, 0)
                    weight = power * 2.0 ** -np.rint(np.log2(power.sum()))
                    found[b, i, part] = (weight * (weight >= smallest)) @ v[b, real, part]
        return found

    def fire(self, name, cells, drive):
        kind = "corrective" if self.spikes == "signed" and name.endswith("intermediate") else self.spikes
        count = self.counts.setdefault(name, np.zeros(drive.shape))
        level = np.rint(cells.cost * (1 - self.initial))
        ahead = drive + cells.bias * float(self.t) - cells.cost * count
        emitted = (ahead >= level).astype(int)
        if kind != "binary":
            emitted -= (ahead <= -level) & ((count > 0) | (kind == "signed"))
        emitted *= self.mask[:, :, None]
        self.fired.setdefault(name, []).append(emitted)
        self.counts[name] = count + emitted
        return self.counts[name]
