"""The public surface against a second, naive implementation of the design.

What is independent: everything in the classes Reference* is written from the definitions of the model alone, in NumPy
float64, and shares nothing with the package. It walks example by example, token by token, head by head and step by
step, sees only the real tokens of an example (so nothing of a padded batch can leak into it), iterates the feedback
loop by plain damping, simulates with an explicit membrane per population, and differentiates its loss by central
differences. Models are those of tests/models.py (weights only) or files written here with safetensors; the package is
reached through the names of its public surface and through nothing else.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from models import LOOPS, random_batch, random_student, random_teacher
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

import nanospike

SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
}
PARTS = ("key", "value", "attention", "attention_output", "intermediate", "output")


def softmax(row):
    e = np.exp(row - row.max())
    return e / e.sum()


def erf_gelu(row):
    return np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in row])


class Reference:
    """What teacher and student share: tensors by name, and the layers of one token."""

    def __init__(self, params, heads, eps=1e-12):
        self.p = {n: np.array(t, dtype=np.float64) for n, t in params.items()}
        self.heads, self.eps = heads, eps
        self.depth = 1 + max(int(n.split(".")[2]) for n in self.p if n.startswith("encoder.layer."))

    def linear(self, name, row):
        return self.p[name + ".weight"] @ row + self.p[name + ".bias"]

    def norm(self, name, row):
        centred = row - row.mean()
        return centred / math.sqrt((centred**2).mean() + self.eps) * self.p[name + ".weight"] + self.p[name + ".bias"]

    def embed(self, ids, positions, types):
        p, rows = self.p, []
        for i, j, k in zip(ids, positions, types, strict=True):
            words = p["embeddings.word_embeddings.weight"][i] + p["embeddings.position_embeddings.weight"][j]
            rows.append(self.norm("embeddings.LayerNorm", words + p["embeddings.token_type_embeddings.weight"][k]))
        return np.array(rows)

    def attend(self, queries, keys, values):
        """Scores (H, L, L) and mixed values (L, D) of one example's tokens."""
        tokens, width = queries.shape
        d = width // self.heads
        scores, mixed = np.zeros((self.heads, tokens, tokens)), np.zeros((tokens, width))
        for h in range(self.heads):
            part = slice(h * d, h * d + d)
            for i in range(tokens):
                for j in range(tokens):
                    scores[h, i, j] = queries[i, part] @ keys[j, part] / math.sqrt(d)
                for j, weight in enumerate(softmax(scores[h, i])):
                    mixed[i, part] += weight * values[j, part]
        return scores, mixed


class ReferenceTeacher(Reference):
    def run(self, ids, positions, types):
        x = self.embed(ids, positions, types)
        hidden, all_scores = [x], []
        for i in range(self.depth):
            n = f"encoder.layer.{i}."
            q, k, v = (
                np.array([self.linear(n + "attention.self." + w, r) for r in x]) for w in ("query", "key", "value")
            )
            scores, c = self.attend(q, k, v)
            y = []
            for row, mixed in zip(x, c, strict=True):
                h = self.norm(n + "attention.output.LayerNorm", self.linear(n + "attention.output.dense", mixed) + row)
                f = erf_gelu(self.linear(n + "intermediate.dense", h))
                y.append(self.norm(n + "output.LayerNorm", self.linear(n + "output.dense", f) + h))
            x = np.array(y)
            hidden.append(x)
            all_scores.append(scores)
        logits = None
        if "classifier.weight" in self.p:
            logits = self.linear("classifier", np.tanh(self.linear("pooler.dense", x[0])))
        return SimpleNamespace(hidden_states=hidden, attention_scores=all_scores, logits=logits)


class Tie(Exception):
    """A membrane met its threshold within the last bit."""


class ReferenceStudent(Reference):
    """The six populations of an encoder; `currents` is g: what reaches each neuron, given the state of those before."""

    def __init__(self, params, heads, *, v_th=1.0, leak=1.0, spikes="binary", from_first=False, eps=1e-12):
        super().__init__(params, heads, eps)
        self.from_first = from_first  # the first token's rates are fed back to all
        self.v_th, self.leak, self.spikes = v_th, leak, spikes
        self.width = {"embedding": len(self.p["embeddings.LayerNorm.weight"])}
        for i in range(self.depth):
            for part in PARTS:
                self.width[f"encoder.{i}.{part}"] = self.width["embedding"]
            self.width[f"encoder.{i}.intermediate"] = len(self.p[f"encoder.layer.{i}.intermediate.dense.bias"])
        self.last = f"encoder.{self.depth - 1}.output"

    def threshold(self, population):
        return self.p.get("thresholds." + population, self.v_th)

    def sigma(self, population, z):
        return np.clip(z / self.threshold(population), -1.0 if self.spikes == "signed" else 0.0, 1.0)

    def current(self, population, state, e, fed_back):
        """g of one population: rows of what its neurons receive when the others are in `state`."""
        if population == "embedding":
            return np.array([r + self.returned(y, fed_back[0]) for r, y in zip(e, fed_back, strict=True)])
        if population == self.last and "lateral.weight" in self.p:
            inhibition = [self.p["lateral.weight"] @ y for y in fed_back]
            return self.feed_forward(population, state) - np.array(inhibition)
        return self.feed_forward(population, state)

    def returned(self, own, first):
        """What reaches the embedding neurons of a token from the last encoder's neurons of its own or the first."""
        y = first if self.from_first else own
        if "feedback.weight" in self.p:
            return self.p["feedback.weight"] @ y
        if "feedback.up" in self.p:
            return self.p["feedback.up"] @ (self.p["feedback.down"] @ y)
        return self.p["feedback.scale"] * y if "feedback.scale" in self.p else 0 * y

    def feed_forward(self, population, state):
        _, i, part = population.split(".")
        n, own = f"encoder.layer.{i}.", f"encoder.{i}."
        x = state["embedding" if i == "0" else f"encoder.{int(i) - 1}.output"]
        if part in ("key", "value"):
            return np.array([self.linear(n + "attention.self." + part, r) for r in x])
        if part == "attention":
            return self.attend(self.queries(i, x), state[own + "key"], state[own + "value"])[1]
        if part == "attention_output":
            dense = [self.linear(n + "attention.output.dense", r) for r in state[own + "attention"]]
            return np.array([self.norm(n + "attention.output.LayerNorm", d + r) for d, r in zip(dense, x, strict=True)])
        h = state[own + "attention_output"]
        if part == "intermediate":
            return np.array([erf_gelu(self.linear(n + "intermediate.dense", r)) for r in h])
        dense = [self.linear(n + "output.dense", r) for r in state[own + "intermediate"]]
        return np.array([self.norm(n + "output.LayerNorm", d + r) for d, r in zip(dense, h, strict=True)])

    def queries(self, i, x):
        return np.array([self.linear(f"encoder.layer.{i}.attention.self.query", r) for r in x])

    @property
    def has_feedback(self):
        return any(n.startswith(("feedback.", "lateral.")) for n in self.p)

    def settle(self, ids, positions, types, start=None):
        """The equilibrium: y <- (y + F(y)) / 2 until it stands still."""
        e = self.embed(ids, positions, types)
        y = np.zeros_like(e) if start is None else start
        for _ in range(3000 if self.has_feedback else 1):
            rates = {}
            for population in self.width:
                rates[population] = self.sigma(population, self.current(population, rates, e, y))
            change = np.abs(rates[self.last] - y).max()
            y = (y + rates[self.last]) / 2
            if change < 1e-14:
                break
        else:
            assert not self.has_feedback, f"the reference does not settle: {change}"
        inputs = [rates["embedding"]] + [rates[f"encoder.{i}.output"] for i in range(self.depth)]
        scores = [
            self.attend(self.queries(i, inputs[i]), rates[f"encoder.{i}.key"], rates[f"encoder.{i}.value"])[0]
            for i in range(self.depth)
        ]
        logits = self.linear("classifier", inputs[-1][0])
        return SimpleNamespace(rates=rates, hidden_states=inputs, attention_scores=scores, logits=logits)

    def fire(self, population, u, count, initial):
        """-1, 0 or 1 for each neuron whose membrane is u. Tie where the last bit of u would decide."""
        theta = self.threshold(population) * np.ones_like(u)
        low = (2 * initial - 1) * theta
        if self.leak < 1:  # a start would be forgotten: the thresholds stay shifted by it instead
            theta, low = theta - initial * theta, low - initial * theta
        s = np.zeros_like(u)
        for index in np.ndindex(u.shape):
            if abs(u[index] - theta[index]) < 1e-9:
                raise Tie
            if u[index] >= theta[index]:
                s[index] = 1
            elif self.spikes == "signed" or (self.spikes == "corrective" and count[index] >= 1):
                if abs(u[index] - low[index]) < 1e-9:
                    raise Tie
                if u[index] <= low[index]:
                    s[index] = -1
        return s

    def simulate(self, ids, positions, types, *, steps, drive, initial, record):
        e = self.embed(ids, positions, types)
        shape = {n: (len(ids), w) for n, w in self.width.items()}
        start = initial if self.leak == 1 else 0.0
        u = {n: start * self.threshold(n) * np.ones(s) for n, s in shape.items()}
        history = {n: [np.zeros(s)] for n, s in shape.items()}  # s[0] = 0, s[1], ...
        sent = {n: np.zeros(s) for n, s in shape.items()}  # (t - 1) g(a[t - 1])
        asr = {n: np.zeros(s) for n, s in shape.items()}
        logits = {}
        for t in range(1, steps + 1):
            fed_back = asr[self.last] if drive == "differential" else history[self.last][t - 1]
            state = {}
            for n in shape:
                g = self.current(n, state, e, fed_back)
                if drive == "differential":
                    arriving, sent[n] = t * g - sent[n], t * g
                else:
                    arriving = g
                u[n] = self.leak * u[n] + arriving
                count = sum(self.leak ** (t - i) * x for i, x in enumerate(history[n]))
                s = self.fire(n, u[n], count, initial)
                u[n] = u[n] - self.threshold(n) * s
                history[n].append(s)
                weights = [self.leak ** (t - i) for i in range(1, t + 1)]
                asr[n] = sum(w * x for w, x in zip(weights, history[n][1:], strict=True)) / sum(weights)
                state[n] = asr[n] if drive == "differential" else s
            if t in record:
                logits[t] = self.linear("classifier", asr[self.last][0])
        spikes = {n: sum(np.abs(s).sum() for s in h) for n, h in history.items()}
        return SimpleNamespace(rates=asr, logits=logits, spike_counts=spikes)


def examples(batch):
    """(ids, positions, types) of the real tokens of each example, and their places in the padded batch."""
    ids, mask, types = batch
    for row in range(len(ids)):
        real = [j for j in range(ids.shape[1]) if mask[row, j]]
        yield (ids[row, real], real, types[row, real]), real


def reference_of(student, **changes):
    c = student.config
    options = {"v_th": c.v_th, "leak": c.leak, "spikes": c.spikes, "from_first": c.feedback_from == "cls"} | changes
    return ReferenceStudent(student.parameters(), c.num_attention_heads, **options)


def distillation(
    settled, targets, p, *, hidden=1.0, attention=1.0, logits=1.0, labels=None, temperature=1.0, layer_map=None
):
    """The loss by its formula. settled, targets: one record per example, real tokens only; a part may be None."""
    depth, total = len(settled[0].attention_scores), 0.0
    pairs = list(zip(settled, targets, strict=True))
    teacher_depth = next(
        (
            n
            for t in targets[:1]
            for n in (t.hidden_states and len(t.hidden_states) - 1, t.attention_scores and len(t.attention_scores))
            if n
        ),
        depth,
    )
    layers = layer_map or [layer * teacher_depth // depth for layer in range(depth + 1)]
    if targets[0].hidden_states is not None and hidden:
        for layer in range(depth + 1):
            errors = []
            for s, t in pairs:
                for a, target in zip(s.hidden_states[layer], t.hidden_states[layers[layer]], strict=True):
                    errors.extend((p["distill_map.weight"] @ a + p["distill_map.bias"] - target) ** 2)
            total += hidden * sum(errors) / len(errors)
    if targets[0].attention_scores is not None and attention:
        for layer in range(1, depth + 1):
            errors = []
            for s, t in pairs:
                errors.extend(((s.attention_scores[layer - 1] - t.attention_scores[layers[layer] - 1]) ** 2).ravel())
            total += attention * sum(errors) / len(errors)
    if targets[0].logits is not None and logits:
        for s, t in pairs:
            z = np.log(softmax(s.logits / temperature))
            total -= logits * sum(softmax(t.logits / temperature) * z) / len(pairs)
    if labels is not None:
        for (s, _), label in zip(pairs, labels, strict=True):
            own = (s.logits[0] - label) ** 2 if len(s.logits) == 1 else -np.log(softmax(s.logits))[label]
            total += own / len(pairs)
    return total


def real_part(out, row, real):
    """Example `row` of a teacher's padded record: the real tokens of its arrays."""
    scores, states = out.attention_scores, out.hidden_states
    return SimpleNamespace(
        hidden_states=states and [x[row][real] for x in states],
        attention_scores=scores and [x[row][:, real][:, :, real] for x in scores],
        logits=None if out.logits is None else out.logits[row],
    )


def close(a, b, tolerance=1e-10):
    assert np.shape(a) == np.shape(b)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def holed(batch):
    """The same batch with a padding token in the middle of its first example."""
    ids, mask, types = batch
    mask = mask.copy()
    mask[0, 2] = 0
    return ids, mask, types


# ---- the teacher


@pytest.mark.parametrize("seed, labels, hole", [(0, 3, False), (1, 1, False), (2, 0, True)])
def test_teacher_is_the_naive_bert(seed, labels, hole):
    teacher, batch = random_teacher(seed, labels, num_hidden_layers=3), random_batch(seed)
    batch = holed(batch) if hole else batch
    out = teacher(*batch)
    assert len(out.hidden_states) == 4 and all(x.shape == (3, 5, 8) for x in out.hidden_states)
    assert len(out.attention_scores) == 3 and all(x.shape == (3, 2, 5, 5) for x in out.attention_scores)
    assert out.logits is None if not labels else out.logits.shape == (3, labels)
    naive = ReferenceTeacher(teacher.parameters(), 2)
    for row, (tokens, real) in enumerate(examples(batch)):
        want, got = naive.run(*tokens), real_part(out, row, real)
        for x, y in zip(
            got.hidden_states + got.attention_scores, want.hidden_states + want.attention_scores, strict=True
        ):
            close(x, y)
        if labels:
            close(got.logits, want.logits)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_teacher_from_files_written_here(tmp_path, prefix):
    """Tensors, config and vocabulary come from this test, none of them through the package."""
    names = random_teacher(0).parameters()
    rng, eps = np.random.default_rng(5), 1e-3
    tensors = {n: rng.normal(0, 0.5, t.shape).astype(np.float32) for n, t in names.items()}
    stored = {n if n.startswith("classifier") else prefix + n: t for n, t in tensors.items()}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = SIZES | {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": eps}
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(3)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(35)]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    batch = random_batch(3)
    single = nanospike.load_teacher(tmp_path)(*batch)
    double = nanospike.load_teacher(str(tmp_path), device="cpu", dtype="float64")(*batch)
    assert single.logits.dtype == single.hidden_states[1].dtype == single.attention_scores[0].dtype == np.float32
    assert double.logits.dtype == double.hidden_states[1].dtype == double.attention_scores[0].dtype == np.float64
    naive = ReferenceTeacher(tensors, 2, eps)
    for row, (tokens, real) in enumerate(examples(batch)):
        want = naive.run(*tokens)
        for out, tolerance in ((double, 1e-10), (single, 1e-4)):
            got = real_part(out, row, real)
            close(got.logits, want.logits, tolerance)
            close(got.hidden_states[-1], want.hidden_states[-1], tolerance)
    without_types = nanospike.load_teacher(tmp_path, dtype="float64")(*batch[:2])
    close(without_types.logits, nanospike.load_teacher(tmp_path, dtype="float64")(*batch[:2], 0 * batch[2]).logits)


# ---- the equilibrium


@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
@pytest.mark.parametrize(
    "seed, v_th, feedback", [(0, 1.0, False), (1, 0.5, False), (2, 2.0, False), (3, 1.0, True), (4, 2.0, True)]
)
def test_equilibrium_is_the_naive_one(spikes, seed, v_th, feedback):
    student = random_student(seed, v_th=v_th, spikes=spikes, feedback=feedback)
    batch = random_batch(seed)
    batch = holed(batch) if seed == 1 else batch
    eq = student.equilibrium(*batch)
    check_equilibrium(eq, reference_of(student), batch, 1e-9 if feedback else 1e-11)
    assert isinstance(eq.residual, float)
    assert eq.residual <= 1e-10 if feedback else eq.residual == 0
    assert isinstance(eq.iterations, int) and eq.iterations >= 0


@pytest.mark.parametrize("loop", LOOPS)
def test_equilibrium_of_every_loop_is_the_naive_one(loop):
    student, batch = random_student(3, feedback_gain=0.2, **LOOPS[loop]), random_batch(3)
    eq = student.equilibrium(*batch)
    check_equilibrium(eq, reference_of(student), batch, 1e-9)
    flat = reference_of(student)
    flat.p = {n: t for n, t in flat.p.items() if not n.startswith(("feedback.", "lateral."))}
    with pytest.raises(AssertionError):  # what returns makes a difference
        check_equilibrium(eq, flat, batch, 1e-3)


def check_equilibrium(eq, naive, batch, tolerance):
    size = batch[0].shape
    assert set(eq.rates) == set(naive.width)
    assert {n: r.shape for n, r in eq.rates.items()} == {n: (*size, w) for n, w in naive.width.items()}
    assert len(eq.hidden_states) == naive.depth + 1 and len(eq.attention_scores) == naive.depth
    for row, (tokens, real) in enumerate(examples(batch)):
        want = naive.settle(*tokens)
        got = real_part(eq, row, real)
        for n in naive.width:
            close(eq.rates[n][row][real], want.rates[n], tolerance)
        for x, y in zip(
            got.hidden_states + got.attention_scores, want.hidden_states + want.attention_scores, strict=True
        ):
            close(x, y, tolerance)
        close(got.logits, want.logits, tolerance)


def test_leak_does_not_move_the_equilibrium():
    """Section 3: LIF has the same equilibrium."""
    batch = random_batch(6)
    leaky, plain = (random_student(6, leak=leak, feedback=True) for leak in (0.9, 1.0))
    check_equilibrium(leaky.equilibrium(*batch), reference_of(plain), batch, 1e-9)


# ---- the simulation


def clear_student(seed, v_th=1.0, spikes="binary", **options):
    """Currents on the scale of the threshold, and value neurons that seldom fire for all tokens at once. Where one
    does, the current of its attention neuron is 1 up to rounding, and a membrane may meet its threshold exactly."""
    student = random_student(seed, v_th=v_th, spikes=spikes, **options)
    for name, tensor in student.parameters().items():
        if name.startswith("encoder") or "LayerNorm" in name:
            tensor *= v_th
        if name.endswith("self.value.bias"):
            tensor[...] = 0 if spikes == "signed" else tensor - 0.4 * v_th
        if name.endswith("self.value.weight"):
            tensor *= 2
    return student


def check_simulation(make, *, steps, drive, initial, record, spikes=None, lengths=(6, 5)):
    """Compare on the first of 400 seeds on which the *reference* decides no spike within 1e-9 of a tie: where the last
    bit of a sum would decide, there is nothing to compare. The package has no say in the choice."""
    start = 0.5 if initial is None else initial
    for seed in range(400):
        student, batch = make(seed), random_batch(seed, lengths=lengths)
        naive = reference_of(student, **({"spikes": spikes} if spikes else {}))
        options = {"steps": steps, "drive": drive, "initial": start, "record": record}
        try:
            wanted = [(naive.simulate(*tokens, **options), real) for tokens, real in examples(batch)]
            break
        except Tie:
            continue
    else:
        pytest.fail("every seed has a tie")
    sim = student.simulate(*batch, time_steps=steps, drive=drive, spikes=spikes, initial=initial, record=record)
    assert set(record) <= set(sim.logits) and all(type(t) is int for t in sim.logits)
    assert set(sim.rates) == set(sim.spike_counts) == set(naive.width)
    for n, w in naive.width.items():
        assert sim.rates[n].shape == (*batch[0].shape, w) and sim.spike_counts[n].shape == (len(batch[0]),)
    for row, (want, real) in enumerate(wanted):
        for n in naive.width:
            np.testing.assert_allclose(
                sim.rates[n][row][real], want.rates[n], atol=1e-12, err_msg=f"{n}, example {row}"
            )
            assert sim.spike_counts[n][row] == want.spike_counts[n], (n, row)
        for t in record:
            assert sim.logits[t].shape == (len(batch[0]), 3)
            close(sim.logits[t][row], want.logits[t])
    return sim


@pytest.mark.parametrize("v_th", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("initial", [0, 0.5])
@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
@pytest.mark.parametrize("drive", ["instant", "differential"])
@pytest.mark.parametrize("feedback", [False, True])
def test_simulation_is_the_naive_one(drive, spikes, initial, v_th, feedback):
    def make(seed):
        return clear_student(seed, v_th=v_th, spikes=spikes, feedback=feedback)

    sim = check_simulation(make, steps=13, drive=drive, initial=initial, record=[1, 5, 13])
    assert all(counts.sum() > 0 for counts in sim.spike_counts.values())
    for n, rates in sim.rates.items():
        count = rates * 13
        assert np.abs(count - count.round()).max() < 1e-12, n
        assert (-1 if spikes == "signed" else 0) <= rates.min() and rates.max() <= 1


@pytest.mark.parametrize("drive", ["instant", "differential"])
@pytest.mark.parametrize("loop", LOOPS)
def test_simulation_of_every_loop_is_the_naive_one(loop, drive):
    def make(seed):
        return clear_student(seed, **LOOPS[loop])

    check_simulation(make, steps=13, drive=drive, initial=None, record=[1, 13])


@pytest.mark.parametrize("initial", [0, 0.5])
@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
@pytest.mark.parametrize("v_th, leak, feedback", [(1.0, 0.9, False), (0.5, 0.75, True), (2.0, 0.97, True)])
def test_leaky_simulation_is_the_naive_one(v_th, leak, feedback, spikes, initial):
    def make(seed):
        return clear_student(seed, v_th=v_th, leak=leak, spikes=spikes, feedback=feedback)

    check_simulation(make, steps=11, drive="instant", initial=initial, record=[4, 11])


def test_simulation_of_another_kind_of_spikes_than_the_config():
    for spikes in ("corrective", "signed"):
        check_simulation(clear_student, steps=9, drive="differential", initial=None, record=[9], spikes=spikes)


@pytest.mark.parametrize("drive", ["instant", "differential"])
def test_simulation_of_one_token_and_of_uneven_lengths(drive):
    def make(seed):
        return clear_student(seed, v_th=1.0)

    check_simulation(make, steps=10, drive=drive, initial=0.5, record=[10], lengths=(1, 6, 3, 2))


def test_simulation_defaults():
    """64 steps, differential, the config's spikes, from v_th / 2, recorded at 8, 16, 32 and 64."""
    student, batch = random_student(12), random_batch(12)
    sim = student.simulate(*batch[:2])
    options = {"time_steps": 64, "drive": "differential", "spikes": "binary", "initial": 0.5, "record": [8, 16, 32, 64]}
    same = student.simulate(batch[0], batch[1], token_type_ids=0 * batch[2], **options)
    assert set(sim.logits) == {8, 16, 32, 64}
    for t in sim.logits:
        np.testing.assert_array_equal(sim.logits[t], same.logits[t])
    eq = student.equilibrium(*batch[:2])
    real = batch[1] == 1
    assert np.abs(sim.rates["embedding"] - eq.rates["embedding"])[real].max() <= 0.5 / 64 + 1e-12


def test_differential_drive_needs_neurons_without_leak():
    with pytest.raises(ValueError):
        random_student(0, leak=0.9).simulate(*random_batch(0), time_steps=2, drive="differential", record=[2])


# ---- the loss and its gradient


LOSSES = {
    "all": {},
    "weights": {"hidden": 0.3, "attention": 2.0, "logits": 0.7, "temperature": 2.5},
    "hidden": {"attention": 0.0, "logits": 0.0},
    "labels": {"hidden": 0.0, "attention": 0.0, "labels": np.array([2, 0, 1]), "temperature": 0.5},
    "map": {"layer_map": [1, 2, 3]},
}


def settle_all(naive, batch, starts=None):
    starts = starts or [None] * len(batch[0])
    return [naive.settle(*tokens, start) for (tokens, _), start in zip(examples(batch), starts, strict=True)]


def targets_of(out, batch):
    return [real_part(out, row, real) for row, (_, real) in enumerate(examples(batch))]


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("case", LOSSES)
def test_loss_is_its_formula(case, feedback):
    student, teacher = random_student(13, feedback=feedback), random_teacher(14, num_hidden_layers=4)
    batch = random_batch(13)
    batch = holed(batch) if case == "weights" else batch
    out = teacher(*batch)
    loss, grads = student.distill_gradients(batch[0], batch[1], out, token_type_ids=batch[2], **LOSSES[case])
    assert type(loss) is float
    assert set(grads) == set(student.parameters())
    assert all(g.shape == student.parameters()[n].shape and g.dtype == np.float64 for n, g in grads.items())
    naive = reference_of(student)
    want = distillation(settle_all(naive, batch), targets_of(out, batch), naive.p, **LOSSES[case])
    assert loss == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    "missing", [("hidden_states",), ("attention_scores",), ("logits",), ("hidden_states", "logits")]
)
def test_a_missing_part_of_the_teacher_is_left_out(missing):
    student, teacher, batch = random_student(15), random_teacher(16, num_hidden_layers=4), random_batch(15)
    out = teacher(*batch)
    parts = {n: getattr(out, n) for n in ("hidden_states", "attention_scores", "logits")}
    out = SimpleNamespace(**parts | dict.fromkeys(missing))
    loss, _ = student.distill_gradients(batch[0], batch[1], out, token_type_ids=batch[2])
    naive = reference_of(student)
    want = distillation(settle_all(naive, batch), targets_of(out, batch), naive.p)
    assert loss == pytest.approx(want, rel=1e-9)


def test_regression_label_is_a_squared_error():
    student, batch, labels = random_student(17, num_labels=1), random_batch(17), np.array([0.5, -1.25, 3.0])
    nothing = SimpleNamespace(hidden_states=None, attention_scores=None, logits=None)
    loss, grads = student.distill_gradients(batch[0], batch[1], nothing, token_type_ids=batch[2], labels=labels)
    naive = reference_of(student)
    settled = settle_all(naive, batch)
    assert loss == pytest.approx(distillation(settled, [nothing] * 3, naive.p, labels=labels), rel=1e-9)
    slope = 2 * sum(s.logits[0] - y for s, y in zip(settled, labels, strict=True)) / 3
    assert grads["classifier.bias"][0] == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize(
    "seed, spikes, v_th, feedback",
    [(18, "binary", 1.0, False), (19, "signed", 0.5, False), (20, "corrective", 2.0, True), (21, "signed", 1.0, True)],
)
def test_gradient_is_the_slope_of_the_naive_loss(seed, spikes, v_th, feedback):
    """Central differences of the reference's loss along random directions: tensor by tensor without feedback, along
    three mixed directions and feedback's own with it."""
    student = random_student(seed, spikes=spikes, v_th=v_th, feedback=feedback)
    teacher, batch, rng = random_teacher(seed, num_hidden_layers=4), random_batch(seed), np.random.default_rng(seed)
    out, options = teacher(*batch), {"labels": np.array([0, 1, 2]), "temperature": 1.5}
    before = {n: t.copy() for n, t in student.parameters().items()}
    _, grads = student.distill_gradients(batch[0], batch[1], out, token_type_ids=batch[2], **options)
    for n, t in student.parameters().items():
        np.testing.assert_array_equal(t, before[n])
    naive, targets, h = reference_of(student), targets_of(out, batch), 1e-6
    starts = [s.hidden_states[-1] for s in settle_all(naive, batch)]
    groups = [list(before)] * 3 + [["feedback.weight"]] if feedback else [[n] for n in before]
    for group in groups:
        direction = {n: rng.standard_normal(before[n].shape) / math.sqrt(before[n].size) for n in group}
        values = []
        for sign in (1, -1):
            naive.p = before | {n: before[n] + sign * h * d for n, d in direction.items()}
            values.append(distillation(settle_all(naive, batch, starts), targets, naive.p, **options))
        slope = (values[0] - values[1]) / (2 * h)
        got = sum((grads[n] * d).sum() for n, d in direction.items())
        assert got == pytest.approx(slope, rel=2e-6, abs=2e-7), group


# ---- names, defaults, types and files of section 5


def test_student_tensors_have_bert_names_and_defaults():
    student = nanospike.init_student(SIZES | {"num_labels": 3})
    config = student.config
    assert (config.v_th, config.leak, config.spikes, config.feedback) == (1.0, 1.0, "binary", False)
    layer = [f"attention.self.{n}" for n in ("query", "key", "value")]
    layer += [
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ]
    linears = ["embeddings.LayerNorm", "classifier", "distill_map"]
    linears += [f"encoder.layer.{i}.{n}" for i in range(2) for n in layer]
    names = {f"embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")}
    names |= {f"{n}.{kind}" for n in linears for kind in ("weight", "bias")}
    live = student.parameters()
    assert set(live) == names
    assert all(t.dtype == np.float32 for t in live.values())
    assert live["encoder.layer.1.intermediate.dense.weight"].shape == (12, 8)
    assert live["encoder.layer.1.output.dense.weight"].shape == (8, 12)
    assert live["classifier.weight"].shape == (3, 8)
    looped = nanospike.init_student(SIZES | {"feedback": True}, teacher=None, seed=0, device="cpu", dtype="float64")
    assert set(looped.parameters()) - names == {"feedback.weight"}
    assert all(t.dtype == np.float64 for t in looped.parameters().values())


def test_seed_decides_a_fresh_student():
    one, again, other = (nanospike.init_student(SIZES, seed=s).parameters() for s in (1, 1, 2))
    name = "encoder.layer.0.attention.self.query.weight"
    np.testing.assert_array_equal(one[name], again[name])
    assert not np.array_equal(one[name], other[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_parameter_is_live(dtype):
    """Writing into any array changes the rates, the logits, or (distill_map) the loss."""
    student, teacher, batch = (
        random_student(22, dtype=dtype, feedback=True),
        random_teacher(22, dtype=dtype),
        random_batch(22),
    )
    out = teacher(*batch)

    def outcome():
        eq = student.equilibrium(*batch)
        loss, _ = student.distill_gradients(batch[0], batch[1], out, token_type_ids=batch[2])
        return loss, eq.logits.sum(), sum(r[batch[1] == 1].sum() for r in eq.rates.values())

    reference = outcome()
    rng = np.random.default_rng(0)
    for name, tensor in student.parameters().items():
        keep = tensor.copy()
        tensor += 0.3 * rng.standard_normal(tensor.shape).astype(tensor.dtype)
        assert outcome() != reference, name
        tensor[...] = keep
    assert outcome() == reference


@pytest.mark.parametrize("other", ["float32", "float64"])
def test_gradients_have_the_dtype_of_the_parameters(other):
    """Also with a teacher of another dtype."""
    student, batch = random_student(22, dtype="float32", feedback=True), random_batch(22)
    out = random_teacher(22, dtype=other)(*batch)
    _, grads = student.distill_gradients(batch[0], batch[1], out, token_type_ids=batch[2])
    assert {g.dtype for g in grads.values()} == {np.dtype("float32")}


def test_layer_map_with_and_without_the_embedding():
    student, teacher, batch = random_student(28), random_teacher(28, num_hidden_layers=4), random_batch(28)
    out = teacher(*batch)
    short, full, plain = (
        student.distill_gradients(batch[0], batch[1], out, layer_map=m)[0] for m in ([2, 4], [0, 2, 4], None)
    )
    assert short == full == plain


def test_defaults_of_distill_gradients():
    student, teacher, batch = random_student(23), random_teacher(23), random_batch(23)
    out = teacher(*batch[:2])
    plain = student.distill_gradients(batch[0], batch[1], out)
    full = student.distill_gradients(
        batch[0],
        batch[1],
        out,
        token_type_ids=0 * batch[2],
        hidden=1.0,
        attention=1.0,
        logits=1.0,
        labels=None,
        temperature=1.0,
        layer_map=None,
    )
    assert plain[0] == full[0]
    for n in plain[1]:
        np.testing.assert_array_equal(plain[1][n], full[1][n])


def test_save_and_load(tmp_path):
    student, batch = random_student(24, feedback=True, v_th=0.5, spikes="corrective", dtype="float32"), random_batch(24)
    student.save(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == "nanospike"
    assert {n: config[n] for n in ("v_th", "spikes", "feedback", "hidden_size")} == {
        "v_th": 0.5, "spikes": "corrective", "feedback": True, "hidden_size": 8
    }  # fmt: skip
    with safe_open(tmp_path / "saved" / "model.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(student.parameters())
        for n in file.keys():
            np.testing.assert_array_equal(file.get_tensor(n), student.parameters()[n])
    again = nanospike.load_student(str(tmp_path / "saved"))
    for n, t in again.parameters().items():
        assert t.dtype == np.float32
        np.testing.assert_array_equal(t, student.parameters()[n])
    np.testing.assert_array_equal(again.equilibrium(*batch).logits, student.equilibrium(*batch).logits)
    double = nanospike.load_student(tmp_path / "saved", device="cpu", dtype="float64")
    check_equilibrium(double.equilibrium(*batch), reference_of(double), batch, 1e-9)


def test_thresholds_of_single_populations(tmp_path):
    """`thresholds.POPULATION` in the file of a student written here overrides the config's v_th for that population."""
    student = clear_student(25)
    tensors = {n: np.array(t) for n, t in student.parameters().items()}
    rng = np.random.default_rng(25)
    tensors |= {
        f"thresholds.{n}": rng.uniform(0.5, 2, w) for n, w in (("embedding", 8), ("encoder.1.intermediate", 12))
    }
    config = SIZES | {"model_type": "nanospike", "num_labels": 3, "v_th": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, batch = nanospike.load_student(tmp_path, dtype="float64"), random_batch(25)
    assert set(loaded.parameters()) == set(tensors)
    check_equilibrium(loaded.equilibrium(*batch), reference_of(loaded), batch, 1e-11)
    check_simulation(lambda _: loaded, steps=9, drive="differential", initial=0.5, record=[9], spikes="corrective")


def test_predict(tmp_path):
    """A student and a tokenizer made here; the label and its score are those of the naive simulation."""
    student = clear_student(26)
    student.save(tmp_path)
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [f"w{i}" for i in range(36)])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    answers = nanospike.predict(str(tmp_path), ["w1 w2 w30", ("w3 w9", "w4")])
    tokens = [([2, 5, 6, 34, 3], [0] * 5), ([2, 7, 13, 3, 8, 3], [0, 0, 0, 0, 1, 1])]
    double = nanospike.load_student(tmp_path, dtype="float64")
    double.save(tmp_path / "again")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in (tmp_path / "again").iterdir()}
    for answer, (ids, types) in zip(answers, tokens, strict=True):
        assert set(answer) == {"label", "score", "time_steps"} and type(answer["time_steps"]) is int
        steps = answer["time_steps"]
        naive = reference_of(double)
        sim = naive.simulate(
            ids, range(len(ids)), types, steps=steps, drive="differential", initial=0.5, record=[steps]
        )
        score = softmax(sim.logits[steps])
        assert str(answer["label"]).endswith(str(int(score.argmax()))), (answer, score)
        assert isinstance(answer["score"], float) and answer["score"] == pytest.approx(score.max(), rel=1e-4)


@pytest.mark.parametrize("batched", [False, True])
def test_solve_adjoint_against_a_dense_solve(batched):
    rng = np.random.default_rng(27)
    matrices = rng.standard_normal((3, 6, 6)) * 0.25
    b = rng.standard_normal((3, 6)) * np.array([[1.0], [1e3], [1e-3]])
    if batched:
        sol = nanospike.solve_adjoint(lambda v: np.einsum("bji,bj->bi", matrices, v), b)
        want = np.array([np.linalg.solve(np.eye(6) - m.T, c) for m, c in zip(matrices, b, strict=True)])
    else:
        b = b[0]
        sol = nanospike.solve_adjoint(lambda v: matrices[0].T @ v, b, method="gmres", rtol=1e-6, throw=False)
        want = np.linalg.solve(np.eye(6) - matrices[0].T, b)
    assert sol.x.shape == b.shape and sol.converged is True
    assert isinstance(sol.iterations, int) and isinstance(sol.residual, float) and sol.residual <= 1e-6
    scale = np.linalg.norm(want, axis=-1, keepdims=True)
    np.testing.assert_allclose(sol.x / scale, want / scale, atol=1e-5)
    left = b - want + (np.einsum("bji,bj->bi", matrices, want) if batched else matrices[0].T @ want)
    assert np.abs(left).max() < 1e-9  # the reference itself


def test_solve_adjoint_is_honest():
    """x = c + x has no solution; a tolerance of 0 is clamped to 20 eps and can be met."""
    c = np.arange(1.0, 5.0)
    assert nanospike.solve_adjoint(lambda v: v, c).converged is False
    with pytest.raises(Exception):  # noqa: B017 - section 5 does not say which
        nanospike.solve_adjoint(lambda v: v, c, throw=True)
    assert nanospike.solve_adjoint(lambda v: 0.5 * v, c, rtol=0.0).converged is True
