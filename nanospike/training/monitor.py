"""What is watched while a student trains: dead and saturated neurons, and the equilibrium gap on a fixed batch."""

import sys
from collections import deque

import numpy as np

from ..arrays.backend import to_host
from ..data.text import collate
from ..model.simulate import gap

WINDOW = 10  # lines of the log whose batches are looked at together, more if they have fewer tokens than
LEAST_TOKENS = 1000  # real tokens, before it is said of a population that it is mostly dead or saturated
MOSTLY = 0.5  # share of a population's neurons above which there is a warning
PROBE_EXAMPLES, PROBE_STEPS = 8, 16


class Monitor:
    """Of one stage of training. It looks at the batches of the log's lines only, and at the last WINDOW of those, or as
    many as have LEAST_TOKENS.

    A neuron is dead if its rate was 0, saturated if it was 1 (signed spikes: 1 or -1), at every real token of these
    batches: no gradient passes through it there. After --resume the window is empty again.
    """

    def __init__(self, stage, probe=None, every=0, log_every=1):
        """probe: () -> the equilibrium gap, measured for the first line of the log after every `every` updates."""
        self.stage, self.probe, self.every, self.log_every = stage, probe, every, log_every
        self.window, self.warned = deque(), set()

    def notes(self, parts, step):
        """What a line of the log after update `step` says: {dead, saturated {population: share}, equilibrium_gap}.

        parts: the batch, as pairs of rates {population: (B, L, width)} and attention_mask (B, L).
        """
        marks = [silent_and_full(*part) for part in parts]
        both = {n: tuple(np.logical_and.reduce([m[n][i] for m in marks]) for i in (0, 1)) for n in marks[0]}
        self.window.append((sum(int(mask.sum()) for _, mask in parts), both))
        while len(self.window) > WINDOW and sum(n for n, _ in self.window) - self.window[0][0] >= LEAST_TOKENS:
            self.window.popleft()
        dead, saturated = self.shares()
        self._warn("dead (rate 0)", dead)
        self._warn("saturated (rate 1)", saturated)
        self._warn(
            "dead or saturated", {n: dead[n] + saturated[n] for n in dead if max(dead[n], saturated[n]) <= MOSTLY}
        )
        values = {"dead": dead, "saturated": saturated}
        if self.probe and self.every and step % self.every < self.log_every:
            values["equilibrium_gap"] = self.probe()
        return values

    def shares(self):
        """({population: share of dead neurons}, {population: share of saturated ones}) over the window."""
        over = lambda i, name: np.logical_and.reduce([marks[name][i] for _, marks in self.window])  # noqa: E731
        return tuple({n: round(float(over(i, n).mean()), 4) for n in self.window[-1][1]} for i in (0, 1))

    def _warn(self, what, shares):
        """One line per stage and kind, as soon as the window is large enough."""
        many = {n: share for n, share in shares.items() if share > MOSTLY}
        tokens = sum(n for n, _ in self.window)
        if not many or what in self.warned or tokens < LEAST_TOKENS:
            return
        self.warned.add(what)
        listed = ", ".join(f"{n} {100 * share:.0f} %" for n, share in many.items())
        print(
            f"warning: stage {self.stage}: most neurons were {what} at each of {tokens} tokens: {listed}",
            file=sys.stderr,
        )


def silent_and_full(rates, attention_mask):
    """{population: (width,) pairs of bool on the host}: rate 0, and rate of size 1, at every real token of a batch."""
    real = attention_mask.astype(bool)
    marks = {}
    for name, rate in rates.items():
        size = abs(rate[real])
        marks[name] = to_host(size.max(axis=0) == 0), to_host(size.min(axis=0) >= 1)
    return marks


def gap_probe(student, data, drive):
    """() -> mean |ASR - equilibrium| of the last encoder's output after PROBE_STEPS steps, on PROBE_EXAMPLES examples
    spread evenly over `data` (text.Encoded).
    """
    count = min(PROBE_EXAMPLES, len(data))
    batch = collate(data, np.arange(count) * len(data) // count, student.device)
    inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)

    def measure():
        settled = student.equilibrium(*inputs).hidden_states[-1]
        run = student.simulate(*inputs, time_steps=PROBE_STEPS, drive=drive, record=())
        tokens = batch.attention_mask.sum(axis=1)
        per_example = gap(run.output_rates[PROBE_STEPS], settled, batch.attention_mask)
        return float((per_example * tokens).sum() / tokens.sum())

    return measure
