"""Counted operations: worked out by hand, against a loop over single spikes, against NeuroBench and SpikingJelly."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import check_owner
from models import LOOPS, random_batch, random_student

from nanospike.model import bert
from nanospike.model.counting import Counter, Neuron, dense, lines, operations
from nanospike.model.membranes import Neurons
from nanospike.model.operations import COSTS, KEYS, KINDS, Operator, Synapses, parts
from nanospike.model.probes import Probe
from nanospike.model.simulate import SpikingRun

GOLDEN = Path(__file__).parents[1] / "golden"


WORDS = {
    "float operation": "float", "multiply-accumulate": "multiply_accumulate", "shift": "shift", "sum": "addition",
    "comparison": "comparison",
}  # fmt: skip


@pytest.mark.parametrize(
    "row, operator, shift", [("softmax", "softmax", False), ("LayerNorm", "norm", False), ("LayerNorm", "norm", True),
                             ("GELU", "gelu", False)],
)  # fmt: skip
def test_what_an_operator_takes_is_what_the_page_says(row, operator, shift):
    page = (Path(__file__).parents[2] / "docs" / "energy.md").read_text(encoding="utf-8")
    said = next(line.split("|")[3] for line in page.splitlines() if line.startswith(f"| {row} |"))
    said = said.partition("(`shift`:")[2 if shift else 0]
    found = re.findall(rf"(\d+|a) ({'|'.join(WORDS)})s?\b", said)
    assert COSTS[operator, shift].number == {WORDS[what]: 1 if n == "a" else int(n) for n, what in found}


def emitted(*steps):
    """Spikes of one population, a list (B, L, W) per step, as a simulation hands them on: what was fired by then."""
    return [SimpleNamespace(fired=fired) for fired in np.cumsum(np.abs(np.array(steps, np.int16)), axis=0)]


def counts_of(spikes, mask, read_out, looks=None):
    """Counts of a run with {population: states of every step}; the logits are taken after the last."""
    steps = len(next(iter(spikes.values())))
    counter = Counter(np.array(mask), read_out, steps, set(range(1, steps + 1)) if looks is None else looks)
    for step in range(1, steps + 1):
        counter.advance()
        for population, states in spikes.items():
            counter.saw(population, states[step - 1], None, step)
    counter.decide(np.array([[[1.0] * spikes[read_out][0].fired.shape[2]]] * len(mask)))
    return counter.counts()


def test_three_neurons_by_hand():
    """Two neurons send to a third through weights 0.5 and 0; two time steps; a text of 2 tokens and one of 1 (padded).

    Text 1, token 1: step 1 neuron 1 fires; step 2 both do, the second -1. Token 2: nothing, then neuron 1. Text 2:
    neuron 2, then neuron 1; its padding fires all the time, and is not counted. The third neuron fires once.
    """
    senders = emitted(
        [[[1, 0], [0, 0]], [[0, 1], [1, 1]]],
        [[[1, -1], [1, 0]], [[1, 0], [1, -1]]],
    )
    third = emitted([[[0], [0]], [[0], [1]]], [[[1], [0]], [[0], [1]]])
    counts = counts_of({"two": senders, "third": third}, [[1, 1], [1, 0]], "third")
    assert counts.spikes["two"].tolist() == [[1, 1], [3, 1]] and counts.spikes["third"].tolist() == [[0], [1]]
    assert counts.first["third"].tolist() == [[0], [1]]
    assert counts.for_pairs["two"].tolist() == [2 * 1 + 1 * 1, 2 * 3 + 1 * 1]
    assert (counts.tokens.tolist(), counts.pairs.tolist(), counts.texts.tolist()) == ([3, 3], [5, 5], [2, 2])
    # 7 spikes of 3 neurons of each of 3 tokens
    assert counts.spikes_per_neuron() == pytest.approx(7 / 9) and counts.rates()["two"] == pytest.approx(6 / 12)

    matrix = Synapses("matrix", "third", "two", np.array([1, 0]), 1, "w.weight", "w.bias")
    products = Operator("products", "third", "float", "pair", "step", {"multiply_accumulate": 3})
    table = Operator("table", "third", "float", "token", "start", {"float": 4})
    found = lines([matrix, products, table], counts, Neuron.of("signed"))
    assert [line.operation for line in found] == ["matrix", "products", "table", "two.membrane", "third.membrane"]
    by_name = {line.operation: line for line in found}
    # Neuron 1 fired 4 times and its weight is not 0; a bias for each of 3 tokens in each of 2 steps.
    assert by_name["matrix"].work == {"addition": 4 + 6} and by_name["matrix"].kind == "spike-driven"
    assert by_name["matrix"].fetched == {"w.weight": 6, "w.bias": 6}
    assert (by_name["matrix"].synapses, by_name["matrix"].dense) == (4, 2 * 3 * 2)
    assert by_name["products"].work == {"multiply_accumulate": 3 * (4 + 1) * 2}
    assert by_name["table"].work == {"float": 4 * 3}
    # 2 neurons of 3 tokens in 2 steps, each compared with two thresholds; 6 spikes are paid for.
    assert by_name["two.membrane"].work == {"addition": 12 + 6, "comparison": 24}
    assert by_name["third.membrane"].work == {"addition": 6 + 1, "comparison": 12}
    assert (by_name["two.membrane"].states, by_name["third.membrane"].states) == (12, 6)
    total = operations(found)
    assert total == {
        "addition": 10 + 18 + 7, "shift": 0, "comparison": 36, "constant": 0, "float": 12, "multiply_accumulate": 30,
        "by_population": {
            "third": {"addition": 17, "shift": 0, "comparison": 12, "constant": 0, "float": 12,
                      "multiply_accumulate": 30},
            "two": {"addition": 18, "shift": 0, "comparison": 24, "constant": 0, "float": 0, "multiply_accumulate": 0},
        },
    }  # fmt: skip
    first = lines([matrix], counts, Neuron.of("signed"), steps=1)
    assert first[0].work == {"addition": 1 + 3} and first[1].work == {"addition": 6 + 2, "comparison": 12}


def test_neurons_of_other_kinds():
    counts = counts_of({"n": emitted([[[1, 0]]], [[[1, 1]]])}, [[1]], "n")
    assert lines([], counts, Neuron.of("binary"))[0].work == {"addition": 4 + 3, "comparison": 4}
    leaky = lines([], counts, Neuron.of("corrective", leak=0.9))[0].work
    assert leaky == {"addition": 3, "comparison": 8, "multiply_accumulate": 4}
    assert lines([], counts) == [], "an ordinary network has no membranes"


def test_fewer_looks_give_the_same_sums():
    """Three steps of two texts, one of them padded; looked at after the second and the third only."""
    rng = np.random.default_rng(0)
    states, mask = {"n": emitted(*rng.integers(-1, 2, (3, 2, 4, 5)))}, [[1, 1, 1, 1], [1, 1, 0, 0]]
    every, few = counts_of(states, mask, "n"), counts_of(states, mask, "n", looks={2, 3})
    for name in ("spikes", "first", "for_pairs"):
        for t in (2, 3):
            whole, part = (getattr(c, name)["n"][:t].sum(axis=0) for c in (every, few))
            np.testing.assert_array_equal(whole, part)
        assert not getattr(few, name)["n"][0].any()


def test_long_texts_do_not_overflow():
    """Of 600 tokens that all fire, in a text where only 590 are real."""
    mask = np.ones((1, 600), int)
    mask[0, 590:] = 0
    counts = counts_of({"n": emitted(np.ones((1, 600, 2)), -np.ones((1, 600, 2)))}, mask, "n")
    assert counts.spikes["n"].tolist() == [[590, 590]] * 2 and counts.for_pairs["n"].tolist() == [590 * 2 * 590] * 2


# Against single spikes: every population is recorded by a probe, and a loop adds up what each spike does.


def everything(student, batch, **options):
    """A counted run with the spikes of all populations {name: (T, B, L, W)}."""
    names = bert.populations(student.config)
    sim = student.simulate(*batch, count=True, probes=[Probe(n) for n in names], **options)
    return sim, {n: sim.probes[n]["spikes"] for n in names}


def real_spikes(spikes, mask):
    """[(step, text, token, neuron)] of the spikes of real tokens."""
    return [tuple(at) for at in np.argwhere(spikes != 0) if mask[at[1], at[2]]]


@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
@pytest.mark.parametrize("drive", ["differential", "instant"])
def test_additions_are_those_of_single_spikes(spikes, drive):
    student, batch = random_student(spikes=spikes), random_batch()
    mask, steps = batch[1], 5
    student.parameters()["encoder.layer.1.intermediate.dense.weight"][::2] = 0
    sim, seen = everything(student, batch, time_steps=steps, drive=drive)
    weights, tokens = student.parameters(), int(mask.sum())
    wanted = 0
    for i in range(2):
        layer, name = f"encoder.layer.{i}", f"encoder.{i}"
        before = f"encoder.{i - 1}.output" if i else "embedding"
        for source, matrix in (
            (before, "attention.self.query"), (before, "attention.self.key"), (before, "attention.self.value"),
            (f"{name}.attention", "attention.output.dense"), (f"{name}.attention_output", "intermediate.dense"),
            (f"{name}.intermediate", "output.dense"),
        ):  # fmt: skip
            matrix = weights[f"{layer}.{matrix}.weight"]
            for *_, neuron in real_spikes(seen[source], mask):
                wanted += sum(1 for w in matrix[:, neuron] if w != 0)
            wanted += steps * tokens * len(matrix)  # the bias
        wanted += sum(len(real_spikes(seen[p], mask)) for p in (before, f"{name}.attention_output"))  # residuals
    fired = sum(len(real_spikes(s, mask)) for s in seen.values())
    updates = steps * tokens * sum(s.shape[3] for s in seen.values())
    assert sim.operations["addition"] == wanted + fired + updates
    assert sim.operations["comparison"] == updates * (1 if spikes == "binary" else 2)
    assert sim.operations["shift"] == sim.operations["constant"] == 0
    assert sum(int(c.sum()) for c in sim.spike_counts.values()) == fired


def test_products_are_those_of_the_formulas():
    """Differential drive: attention over pairs of real tokens, norms, GELU, rates and back; [CLS] rates at the end."""
    student, batch, steps = random_student(spikes="signed"), random_batch(lengths=(5, 3)), 4
    sim = student.simulate(*batch, time_steps=steps, count=True)
    d, f, heads, tokens, pairs, texts = 8, 12, 2, 8, 34, 2
    active = int((sim.rates["encoder.1.output"][:, 0] != 0).sum())
    norms = 2 * 2 * steps * tokens + tokens
    macs = 2 * steps * pairs * 2 * d + norms * 2 * d + active * 3
    assert sim.operations["multiply_accumulate"] == macs and texts == len(batch[0])
    scaled = 2 * steps * tokens * (4 * d + 2 * d + 2 * f + 2 * d)
    other = 2 * steps * (5 * heads * pairs + 5 * f * tokens) + norms * (3 * d + 4) + scaled + tokens * 2 * d
    assert sim.operations["float"] == other


def test_shift_operators_multiply_by_one_constant_alone():
    """Scores are sums where a query or key spikes, one for each real token of its text; nothing is a float product."""
    student, batch, steps = random_student(spikes="signed", operators="shift"), random_batch(lengths=(5, 3)), 4
    sim, seen = everything(student, batch, time_steps=steps)
    mask, lengths = batch[1], batch[1].sum(axis=1)
    d, f, heads, tokens, pairs, labels = 8, 12, 2, 8, 34, 3
    assert sim.operations["float"] == sim.operations["multiply_accumulate"] == 0
    assert sim.operations["constant"] == 2 * steps * heads * pairs
    scores = sum(lengths[text] for i in range(2) for kind in ("query", "key")
                 for _, text, *_ in real_spikes(seen[f"encoder.{i}.{kind}"], mask))  # fmt: skip
    found = {line.operation: line for line in sim.lines()}
    scored = [line for name, line in found.items() if ".scores." in name]
    assert sum(line.work["addition"] for line in scored) == scores > 0
    read = [at for at in real_spikes(seen["encoder.1.output"], mask) if at[2] == 0]
    assert found["classifier"].work == {"addition": (len(read) + steps * len(mask)) * labels}
    softmax, context = 2 * steps * heads * (2 * pairs + tokens), 2 * steps * d * pairs
    norms = (4 * steps + 1) * tokens * d
    assert sim.operations["shift"] == softmax + context + norms
    assert sum(line.work.get("addition", 0) for name, line in found.items() if "gelu" in name) == 0 and f > d


def test_totals_are_the_sums_over_populations():
    student, batch = random_student(), random_batch()
    found = student.simulate(*batch, time_steps=3, count=True).operations
    assert set(found) == {*KEYS, "by_population"}
    assert set(found["by_population"]) == {*bert.populations(student.config), "classifier"}
    for key in KEYS:
        assert found[key] == sum(own[key] for own in found["by_population"].values())
        assert isinstance(found[key], int)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_returns_is_counted_from_the_second_step_on(loop):
    student, batch = random_student(**LOOPS[loop]), random_batch()
    sim, seen = everything(student, batch, time_steps=3)
    config, mask, d = student.config, batch[1], 8
    last = f"encoder.{config.num_hidden_layers - 1}.output"
    spikes = real_spikes(seen[last][:2], mask)
    to_all = config.feedback and config.feedback_from == "cls"
    sent = [s for s in spikes if s[2] == 0] if to_all else spikes
    wanted = len(sent) * (1 if config.looped else config.feedback_rank or d if config.feedback else 0)
    wanted += 2 * int(mask.sum()) * d if to_all else 0
    embedding = sim.operations["by_population"]["embedding"]
    own = len(real_spikes(seen["embedding"], mask)) + 3 * int(mask.sum()) * d
    assert embedding["addition"] == wanted + own
    without = {k: v for k, v in LOOPS[loop].items() if k == "num_hidden_layers"}
    rows = lambda c, t: {p.operation for p in parts(c, t, "differential")}  # noqa: E731
    plain = random_student(**without)
    extra = rows(config, student.tree) - rows(plain.config, plain.tree)
    assert extra and ("lateral.weight" in extra) == config.lateral
    if config.lateral:
        (line,) = [
            x for x in lines(parts(config, student.tree), sim.counts, Neuron.of("binary")) if "lateral" in x.operation
        ]
        assert line.work["addition"] == len(spikes) * (d - 1), "nobody inhibits itself"


def test_a_text_counts_the_same_alone_and_in_a_batch():
    student, batch = random_student(), random_batch(lengths=(5, 3, 4))
    together = student.simulate(*batch, time_steps=4, count=True)
    alone = [student.simulate(*(a[i : i + 1] for a in batch), time_steps=4, count=True) for i in range(3)]
    for key in KEYS:
        assert together.operations[key] == sum(sim.operations[key] for sim in alone)
    total = alone[0].counts + alone[1].counts + alone[2].counts
    for name, spikes in together.counts.spikes.items():
        np.testing.assert_array_equal(total.spikes[name], spikes)
    assert total.decisions.tolist() == together.counts.decisions.tolist() == [0, 0, 0, 0, 3]


def test_texts_that_stop_early_work_no_longer():
    student, batch = random_student(), random_batch(lengths=(5, 3, 4))
    sim = student.simulate(*batch, time_steps=6, record=[2, 4], margin=0.4, count=True)
    assert len(set(sim.steps.tolist())) > 1, "some stop, some go on"
    lengths = batch[1].sum(axis=1)
    for t in range(6):
        assert sim.counts.tokens[t] == lengths[sim.steps > t].sum() and sim.counts.texts[t] == (sim.steps > t).sum()
    for name, counted in sim.counts.spikes.items():
        assert counted.sum() == sim.spike_counts[name].sum()
    taken = sum(1 for s in sim.steps for t in (2, 4, 6) if t <= s)
    assert sim.counts.decisions.sum() == taken


def test_counting_changes_nothing():
    student, batch = random_student(spikes="signed"), random_batch()
    plain, counted = (student.simulate(*batch, time_steps=5, count=c) for c in (False, True))
    assert plain.counts is None and plain.operations is None
    np.testing.assert_array_equal(plain.logits[5], counted.logits[5])


def test_an_ordinary_network_multiplies():
    """A BERT of this shape: 4 D^2 + 2 D F per token and encoder, 2 D per pair, and the classifier."""
    student = random_student()
    found = lines(parts(student.config, student.tree), dense(student.config, tokens=8, pairs=34, texts=2))
    assert {line.kind for line in found} == {"float"} and set(operations(found)) == {*KEYS, "by_population"}
    matrices = [line for line in found if line.dense]
    assert sum(line.dense for line in matrices) == 2 * 8 * (4 * 64 + 2 * 96) + 2 * 8 * 3
    assert sum(line.synapses for line in matrices) == sum(line.dense for line in matrices)
    total = operations(found)
    norms = 4 * 8 + 8
    assert total["multiply_accumulate"] == sum(line.dense for line in matrices) + 2 * 34 * 16 + norms * 2 * 8
    residuals, embedding = 4 * 8 * 8, 8 * 2 * 8
    assert total["float"] == residuals + embedding + norms * (3 * 8 + 4) + 2 * 34 * 2 * 5 + 2 * 8 * 12 * 5
    assert sum(total[key] for key in ("addition", "shift", "comparison", "constant")) == 0


def test_every_part_has_a_known_kind():
    for options in ({}, *LOOPS.values()):
        student = random_student(**options)
        for part in parts(student.config, student.tree, "differential"):
            assert isinstance(part, Synapses) or (part.kind in KINDS and set(part.work) <= set(KEYS))


# Against two frameworks: tools/make_energy_golden.py


def our_run(case, spikes, layers):
    """Our own neurons and counts on a golden network, its input sent by a population "input"."""
    inputs = np.array(case["input"], np.int8)  # (B, T, W)
    examples, steps, _ = inputs.shape
    weights = {n.removeprefix("layers."): np.array(w) for n, w in case["weights"].items()}
    found, source = [], "input"
    for layer in layers:
        matrix = weights[f"{layer}.weight"]
        used = np.count_nonzero(matrix, axis=0)
        found.append(Synapses(layer, f"n{layer}", source, used, len(matrix), f"{layer}.weight", f"{layer}.bias"))
        source = f"n{layer}"
    config = random_student(spikes=spikes).config
    neurons = Neurons(SpikingRun(time_steps=steps, drive="instant", initial=0.0), config)
    counter, sent = Counter(np.ones((examples, 1), int), source, steps, {steps}), []
    arrived = np.cumsum(np.abs(inputs), axis=1)
    for t in range(steps):
        counter.advance()
        neurons.advance()
        counter.saw("input", SimpleNamespace(fired=arrived[:, t, None]), None, t + 1)
        x = inputs[:, t, None].astype(float)
        for layer in layers:
            x, _ = neurons(f"n{layer}", x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
            counter.saw(f"n{layer}", neurons.populations[f"n{layer}"], None, t + 1)
            x = x.copy()
        sent.append(x[:, 0])
    return lines(found, counter.counts(), Neuron.of(spikes)), np.stack(sent, axis=1)


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "energy.json").read_text())


def test_two_frameworks_count_the_same(golden):
    """NeuroBench: synapses other than 0 per example. SpikingJelly: the weights that spikes fetch, zeros among them."""
    case = golden["binary"]
    found, sent = our_run(case, "binary", ("0", "2"))
    np.testing.assert_array_equal(sent, case["output"])
    matrices = [line for line in found if line.dense]
    examples = len(case["input"])
    assert sum(line.synapses for line in matrices) / examples == pytest.approx(case["neurobench"]["Effective_ACs"])
    assert sum(line.dense for line in matrices) / examples == case["neurobench"]["Dense"]
    assert case["neurobench"]["Effective_MACs"] == 0
    theirs, float32 = case["spikingjelly"], 4
    fetched = {name: n for line in matrices for name, n in line.fetched.items()}
    assert float32 * sum(n for name, n in fetched.items() if "weight" in name) == theirs["weight_read_bytes"]
    assert float32 * sum(n for name, n in fetched.items() if "bias" in name) == theirs["bias_read_bytes"]
    assert sum(n for name, n in fetched.items() if "weight" in name) == theirs["synop"]
    membranes = sum(line.states for line in found if line.operation in ("n0.membrane", "n2.membrane"))
    assert float32 * membranes == theirs["neuron_state_read_bytes"] == theirs["neuron_state_write_bytes"]


def test_a_ternary_spike_is_an_accumulate_in_one_and_dense_in_the_other(golden):
    case = golden["signed"]
    found, _ = our_run(case, "signed", ("0",))
    (line,) = [line for line in found if line.dense]
    assert line.synapses / len(case["input"]) == pytest.approx(case["neurobench"]["Effective_ACs"])
    assert case["neurobench"]["Effective_MACs"] == 0
    assert line.dense == case["spikingjelly"]["mac"] and case["spikingjelly"]["ac"] == 0


def test_every_library_counts_the_same(xp, device):
    """On a device nothing but the counts and what probes keep comes to the host."""
    batch = random_batch(device=device)
    student = random_student(device=device, spikes="signed")
    sim = student.simulate(*batch, time_steps=3, count=True, probes=[Probe("encoder.0.key", ("spikes", "current"))])
    check_owner(xp, sim.logits, sim.rates)
    check_owner(np, sim.counts.spikes, sim.counts.first, sim.counts.for_pairs, sim.probes["encoder.0.key"])
    host = random_student(spikes="signed").simulate(*random_batch(), time_steps=3, count=True)
    assert sim.operations == host.operations
