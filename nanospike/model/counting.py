"""Operations counted from the spikes of a run: what arrived, the synapses it used, membranes, and the rest by its kind.

A Counter watches a simulation and writes down spikes only (Counts); `lines` makes operations of them with the list of
parts of operations.py. Padding neither sends nor works. A spike of either sign is one spike.

Axes: T time steps, B examples, L tokens, W width of a population.
"""

from dataclasses import dataclass, field

import numpy as np

from ..arrays.backend import namespace, to_host
from ..config.operators import FLOAT
from .bert import populations
from .operations import KEYS, SPIKE_DRIVEN, Synapses


@dataclass(frozen=True)
class Counts:
    """What a run did, on the host; `a + b` is that of two runs of as many steps, such as of two batches.

    spikes: {population: (T, W) int64} of all real tokens, those of each step, or of all steps since the one that was
    looked at before: up to a step that was looked at, the sums are right. first: the same of the texts' first tokens,
    of the population that is read out; for_pairs: {population: (T,)} each spike times the real tokens of its text.
    tokens, pairs, texts (T,): real tokens, pairs of them in one text, and texts that ran in each step. decisions
    (T + 1,): texts whose logits were taken after a step; reading (T + 1,): neurons of their first tokens that had a
    rate other than 0.
    """

    spikes: dict
    first: dict
    for_pairs: dict
    tokens: np.ndarray
    pairs: np.ndarray
    texts: np.ndarray
    decisions: np.ndarray
    reading: np.ndarray

    def __add__(self, other):
        both = lambda name: {k: v + getattr(other, name)[k] for k, v in getattr(self, name).items()}  # noqa: E731
        arrays = ("tokens", "pairs", "texts", "decisions", "reading")
        sums = {name: getattr(self, name) + getattr(other, name) for name in arrays}
        return Counts(both("spikes"), both("first"), both("for_pairs"), **sums)

    def rates(self, steps=None):
        """{population: spikes per neuron and time step} of the first `steps` (None: all), those taken back included."""
        tokens = self.tokens[:steps].sum()
        return {name: float(s[:steps].sum() / (tokens * s.shape[1])) for name, s in self.spikes.items()}

    def spikes_per_neuron(self, steps=None):
        """T r: spikes that a neuron fires in `steps` time steps, the mean over all neurons of all tokens."""
        neurons = self.tokens[0] * sum(s.shape[1] for s in self.spikes.values())
        return float(sum(s[:steps].sum() for s in self.spikes.values()) / neurons)


class Counter:
    """Watches the neurons of a simulation: `advance`, `saw` and `decide` are called as it runs, then `counts`.

    mask (B, L); read_out: the population whose first tokens are read; looks: the steps after which it looks at what all
    neurons have fired by then. More looks tell more, and take longer.
    """

    def __init__(self, mask, read_out, time_steps, looks):
        self.xp, self.read_out, self.time_steps, self.looks = namespace(mask), read_out, time_steps, looks
        self.before, self.first_before = {}, None  # (B, W) fired until the last look; of first tokens
        self.spikes, self.for_pairs, self.first = {}, {}, []  # (W,), () and (W,) of each look
        self.ran = np.zeros((3, time_steps), np.int64)
        self.decided = np.zeros((2, time_steps + 1), np.int64)
        self.step = 0
        self._set(mask)

    def _set(self, mask):
        self.mask, self.lengths = mask, mask.sum(axis=1, dtype="int64")
        host = to_host(self.lengths)
        self.running = host.sum(), (host * host).sum(), len(host)
        self.real = None if host.min() == mask.shape[1] else mask[:, :, None]

    def keep(self, rows):
        """Only these examples go on."""
        self._set(self.mask[rows])
        self.before = {name: fired[rows] for name, fired in self.before.items()}
        self.first_before = self.first_before[rows]

    def advance(self):
        self.ran[:, self.step] = self.running
        self.step += 1

    def saw(self, population, state, current, step):
        """state.fired (B, L, W): what each neuron of a population has fired so far. Nothing is moved to the host."""
        if step not in self.looks:
            return
        fired = state.fired
        first = fired[:, 0].astype("int64") if population == self.read_out else None
        if self.real is not None:
            fired = fired * self.real.astype(fired.dtype)
        enough = fired.shape[1] * step < 2**15
        fired = fired.sum(axis=1, dtype=fired.dtype if enough else "int64")  # (B, W)
        new = fired - self.before[population] if population in self.before else fired
        self.before[population] = fired
        self.spikes.setdefault(population, []).append(new.sum(axis=0, dtype="int64"))
        pairs = (new.sum(axis=1, dtype="int64") * self.lengths).sum()
        self.for_pairs.setdefault(population, []).append(pairs)
        if first is not None:
            self.first.append((first if self.first_before is None else first - self.first_before).sum(axis=0))
            self.first_before = first

    def decide(self, rates):
        """Logits are taken from the rates (B, L, D) of the population that is read out."""
        self.decided[:, self.step] += len(rates), int((rates[:, 0] != 0).sum())

    def counts(self):
        at = [step - 1 for step in sorted(self.looks) if step <= self.step]
        whole = lambda rows: _spread(to_host(self.xp.stack(rows)), at, self.time_steps)  # noqa: E731
        return Counts(
            {name: whole(rows) for name, rows in self.spikes.items()},
            {self.read_out: whole(self.first)},
            {name: whole(rows) for name, rows in self.for_pairs.items()},
            *self.ran,
            *self.decided,
        )


def _spread(rows, at, total):
    """(total, ...) with the rows at the indices `at`, and zeros between them."""
    whole = np.zeros((total, *rows.shape[1:]), rows.dtype)
    whole[at] = rows
    return whole


@dataclass(frozen=True)
class Line:
    """What one part did in a run. work: {key of KEYS: operations}. fetched: {tensor: numbers read}. states: numbers
    kept from step to step that were read and written. Of a matrix also source, the population that sends to it;
    synapses: weights other than 0 that were used; dense: all that it has, whether anything arrived or not.
    """

    operation: str
    population: str
    kind: str
    work: dict
    fetched: dict = field(default_factory=dict)
    states: int = 0
    source: str | None = None
    synapses: int = 0
    dense: int = 0


@dataclass(frozen=True)
class Neuron:
    """What a time step of one neuron takes. comparisons: 1 where it emits only +1, 2 with negative spikes."""

    comparisons: int
    leaky: bool = False

    @classmethod
    def of(cls, spikes, leak=1.0):
        return cls(1 if spikes == "binary" else 2, leak != 1)


def lines(parts, counts, neuron=None, steps=None):
    """[Line] of a run of `steps` time steps (None: all), by the parts of operations.parts.

    neuron: a Neuron; None: there are none, as in an ordinary BERT (see `dense`), and matrices multiply. The logits are
    taken once, at the end; with steps None where the run took them.
    """
    found = []
    for part in parts:
        found.append(
            _synapses(part, counts, neuron, steps) if isinstance(part, Synapses) else _operator(part, counts, steps)
        )
    if neuron:
        found += [membranes(name, counts, neuron, steps) for name in counts.spikes]
    return found


def _times(counts, part, per, steps):
    """How often something is done that is done for every token, pair or text, at every step, once or for logits."""
    if part.when == "decision":
        return int(counts.decisions[steps] if steps else counts.decisions.sum())
    ran = {"token": counts.tokens, "pair": counts.pairs, "text": counts.texts}[per]
    return int(ran[0] if part.when == "start" else ran[part.delay : steps].sum())


def _operator(part, counts, steps):
    times = _times(counts, part, part.per, steps)
    work = {key: n * times for key, n in part.work.items()}
    return Line(part.operation, part.population, part.kind, work, states=part.states * times)


def _synapses(part, counts, neuron, steps):
    arrived, used = _arrivals(part, counts, steps)
    times = _times(counts, part, "text" if part.source_token == "first" else "token", steps)
    spiking = neuron is not None and part.when != "decision"
    work, fetched = {"addition" if spiking else "multiply_accumulate" if part.weight else FLOAT: used}, {}
    if part.weight:
        fetched[part.weight] = arrived * part.outputs
    if part.bias:
        fetched[part.bias] = times * part.outputs
        work["addition"] = work.get("addition", 0) + (times * part.outputs if spiking else 0)
    kind, matrix = SPIKE_DRIVEN if spiking else FLOAT, {}
    if part.weight:
        every = times * part.outputs * len(part.used)
        matrix = {"source": part.source, "synapses": used, "dense": every}
    return Line(part.operation, part.population, kind, work, fetched, **matrix)


def _arrivals(part, counts, steps):
    """(spikes that arrived, synapses that they used)."""
    until = (len(counts.tokens) if steps is None else steps) - part.delay
    if part.when == "decision":
        active = int(counts.reading[steps] if steps else counts.reading.sum())
        return active, active * part.outputs
    if part.used is None:
        pairs = int(counts.for_pairs[part.source][:until].sum())
        return pairs, pairs
    sent = counts.first if part.source_token == "first" else counts.spikes
    spikes = sent[part.source][:until].sum(axis=0)
    return int(spikes.sum()), int(spikes @ part.used)


def membranes(population, counts, neuron, steps=None):
    """The Line of a population's membranes: each receives, is compared, and pays for its spikes."""
    spikes = counts.spikes[population]
    updates, fired = int(counts.tokens[:steps].sum()) * spikes.shape[1], int(spikes[:steps].sum())
    work = {"addition": updates + fired, "comparison": updates * neuron.comparisons}
    if neuron.leaky:
        work = {"addition": fired, "comparison": work["comparison"], "multiply_accumulate": updates}
    return Line(f"{population}.membrane", population, SPIKE_DRIVEN, work, states=updates)


def dense(config, tokens, pairs, texts):
    """The Counts of an ordinary BERT: one step, all that its populations send is other than 0, the logits after it.

    tokens, pairs: real ones in so many texts, as in Counts.
    """
    names, last = populations(config), f"encoder.{config.num_hidden_layers - 1}.output"
    of = lambda *numbers: np.array(numbers, np.int64)  # noqa: E731
    return Counts(
        {p: np.full((1, width(config, p)), tokens, np.int64) for p in names},
        {last: np.full((1, config.hidden_size), texts, np.int64)},
        {},
        of(tokens),
        of(pairs),
        of(texts),
        decisions=of(0, texts),
        reading=of(0, texts * config.hidden_size),
    )


def width(config, population):
    """Neurons per token."""
    if not population.endswith(".intermediate"):
        return config.hidden_size
    return config.intermediate_widths[int(population.split(".")[1])]


def operations(found):
    """{key of KEYS: operations} of Lines, and "by_population" {population: the same of the lines that are for it}."""
    total, by_population = dict.fromkeys(KEYS, 0), {}
    for line in found:
        own = by_population.setdefault(line.population, dict.fromkeys(KEYS, 0))
        for key, n in line.work.items():
            total[key] += n
            own[key] += n
    return total | {"by_population": by_population}
