"""A student with shift operators: values by plain formulas, the twin's gradient, its spikes, what it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
from check import complex_step
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import SHAPE, random_batch, random_student, random_teacher

import nanospike
from nanospike.arrays.tree import dense_gradients, nest
from nanospike.config.errors import InputError
from nanospike.config.models import StudentConfig
from nanospike.config.operators import OPERATORS
from nanospike.model import bert, equilibrium, loss, settling
from nanospike.model.fresh import with_thresholds
from nanospike.model.simulate import SpikingRun, gap

SETS = ("shift", "query,relu", *OPERATORS)


def shift_student(seed=0, own=False, **changes):
    """own: every population has a threshold of its own, a parameter."""
    student = random_student(seed, **({"operators": "shift"} | changes))
    if own:
        student = with_thresholds(student)
        rng = np.random.default_rng(seed)
        for name, value in student.parameters().items():
            if name.startswith("thresholds."):
                value[...] = rng.uniform(0.5, 2)
    return student


def loss_of(student, inputs, out, dropout=None, settle=False):
    """(parameters, weight of the spikes) -> the distillation loss of one sweep; complex numbers go through.

    settle: at the equilibrium of a loop, by plain iteration.
    """

    def value(parameters, penalty=0.0):
        tree = nest(parameters)
        network = equilibrium.Network.on(tree, student.config, *inputs, dropout)
        fire, fed_back = settling.Recorder(network.rate_neurons()), None
        for _ in range(60 if settle and student.config.recurrent else 0):
            fed_back = network.current * 0 if fed_back is None else fed_back
            fed_back = network.sweep(fire, fed_back, differentiable=False).hidden_states[-1]
        trace = network.sweep(fire, fed_back)
        states = trace.hidden_states, trace.attention_scores, network.classify(trace.hidden_states[-1])[0]
        terms, _ = loss.distillation(states, loss.Targets(out), inputs[1], tree["distill_map"], loss.LossWeights())
        rates = [r[inputs[1] == 1] for r in fire.rates.values()]
        return sum(terms.values()) + penalty * sum((r * np.sign(r.real)).mean() for r in rates)

    return value


@given(
    seed=st.integers(0, 2**31),
    operators=st.sampled_from(SETS),
    spikes=st.sampled_from(["binary", "corrective", "signed"]),
    v_th=st.sampled_from([0.5, 1.0, 2.0]),
    own=st.booleans(),
    half_steps=st.booleans(),
    drop=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=40)
def test_the_gradient_is_the_twins_by_complex_step(seed, operators, spikes, v_th, own, half_steps, drop):
    half_steps = half_steps and "norm" in StudentConfig(**SHAPE.__dict__ | {"operators": operators}).shifts
    student = shift_student(seed, own, operators=operators, spikes=spikes, v_th=v_th, half_steps=half_steps)
    inputs = random_batch(seed)
    out = random_teacher(seed)(*inputs)
    dropout = equilibrium.FrozenDropout(drop, np.random.default_rng(seed))
    result = student.gradients(inputs, loss.Targets(out), dropout=dropout)
    parameters = {n: p.copy() for n, p in student.parameters().items()}
    grads, rng = dense_gradients(result.grads, parameters), np.random.default_rng(seed)
    function = loss_of(student, inputs, out, dropout)
    np.testing.assert_allclose(float(sum(result.terms.values())), function(parameters), rtol=1e-12)
    for names in (parameters, [n for n in parameters if n.startswith("thresholds.")]):
        direction = {n: rng.standard_normal(p.shape) * (n in names) for n, p in parameters.items()}
        slope = complex_step(function, parameters, direction)
        size = math.sqrt(sum(np.vdot(grads[n], grads[n]) * np.vdot(direction[n], direction[n]) for n in names))
        back = complex_step(function, parameters, {n: -d for n, d in direction.items()})
        assume(abs(slope + back) <= 1e-12 * size)  # sums of powers of two meet a clip's end exactly: two slopes there
        assert abs(sum(np.vdot(grads[n], direction[n]) for n in names) - slope) <= 1e-10 * size + 1e-12


def by_plain_formulas(student, ids, types, low):
    """Logits of one text: rates of all populations token by token, in Python's numbers."""
    p, c = student.parameters(), student.config
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731

    def norm(x, name):
        m = round(math.log2(math.sqrt(math.pi / 2) * sum(map(abs, x)) / len(x)))
        return [v / 2**m * w + b for v, w, b in zip(x, p[f"{name}.weight"], p[f"{name}.bias"], strict=True)]

    def dense(x, name):
        return [dot(row, x) + b for row, b in zip(p[f"{name}.weight"], p[f"{name}.bias"], strict=True)]

    def rate(current, low=low):
        return [min(max(i / c.v_th, low), 1) for i in current]

    tables = [p[f"embeddings.{t}_embeddings.weight"] for t in ("word", "position", "token_type")]
    sums = [[sum(v) for v in zip(*(t[r] for t, r in zip(tables, rows, strict=True)), strict=True)]
            for rows in zip(ids, range(len(ids)), types, strict=True)]  # fmt: skip
    x = [rate(norm(token, "embeddings.LayerNorm")) for token in sums]
    width = c.hidden_size // c.num_attention_heads
    for i in range(c.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        q, k, v = ([rate(dense(t, f"{layer}.attention.self.{n}")) for t in x] for n in ("query", "key", "value"))
        context = [[] for _ in x]
        for h in range(0, c.hidden_size, width):
            for a, row in enumerate(q):
                scores = [c.v_th**2 / math.sqrt(width) * dot(row[h : h + width], key[h : h + width]) for key in k]
                d = [round((s - max(scores)) * math.log2(math.e)) for s in scores]
                powers = [2.0**n if n >= -15 else 0.0 for n in d]
                share = 2.0 ** -round(math.log2(sum(powers)))
                context[a] += [dot([share * n for n in powers], [value[h + j] for value in v]) for j in range(width)]
        mixed = [dense(rate(token), f"{layer}.attention.output.dense") for token in context]
        added = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(mixed, x, strict=True)]
        middle = [rate(norm(token, f"{layer}.attention.output.LayerNorm")) for token in added]
        inner = [rate(dense(token, f"{layer}.intermediate.dense"), 0) for token in middle]
        narrow = [dense(token, f"{layer}.output.dense") for token in inner]
        added = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(narrow, middle, strict=True)]
        x = [rate(norm(token, f"{layer}.output.LayerNorm")) for token in added]
    return dense(x[0], "classifier")


@pytest.mark.parametrize("spikes", ["binary", "signed"])
@pytest.mark.parametrize("v_th", [1.0, 1.5])
def test_rates_by_plain_formulas(spikes, v_th):
    for seed in range(4):
        student, inputs = shift_student(seed, spikes=spikes, v_th=v_th), random_batch(seed)
        found = student.equilibrium(*inputs).logits
        for row, (ids, mask, types) in zip(found, zip(*inputs, strict=True), strict=True):
            n = int(mask.sum())
            wanted = by_plain_formulas(student, ids[:n].tolist(), types[:n].tolist(), -1 if spikes == "signed" else 0)
            np.testing.assert_allclose(row, wanted, rtol=1e-9, atol=1e-11)


def test_populations_of_queries_are_beside_the_six():
    student, inputs = shift_student(), random_batch(0)
    names = ["embedding"] + [f"encoder.{i}.{p}" for i in (0, 1) for p in ("query", *bert.POPULATIONS)]
    run = student.simulate(*inputs, time_steps=3, record=())
    assert bert.populations(student.config) == names
    assert list(student.equilibrium(*inputs).rates) == list(run.rates) == list(run.spike_counts) == names
    assert "encoder.0.query" not in shift_student(operators="softmax,norm").equilibrium(*inputs).rates


@pytest.mark.parametrize("spikes, own", [("corrective", False), ("signed", True)])
def test_spikes_settle_at_the_equilibrium(spikes, own):
    """Gaps of most texts vanish; one whose exponent flips late is far out a while."""
    changes = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
    student, inputs = shift_student(3, own, spikes=spikes, **changes), random_batch(1, (6, 4, 5, 3))
    for name, p in student.parameters().items():
        if p.ndim == 2 and name.startswith("encoder"):
            p *= 2 / np.sqrt(p.shape[1])
    settled = student.equilibrium(*inputs)
    run = student.simulate(*inputs, time_steps=256, record=[8])
    early, late = (np.median(gap(run.output_rates[t], settled.hidden_states[-1], inputs[1])) for t in (8, 256))
    assert late < 0.02 and late < 0.3 * early
    low = -1 if spikes == "signed" else 0
    for name, rates in run.rates.items():
        bottom = 0 if name.endswith("intermediate") else low
        assert rates.min() >= bottom and rates.max() <= 1 and (low == 0 or bottom == 0 or rates.min() < 0), name


@pytest.mark.parametrize("window", [0.0, 0.25])
@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
def test_spikes_are_those_of_the_counting_rule(spikes, window):
    """+1 where t I >= v (c + 1/2 + h), -1 where t I <= v (c - 1/2 - h), I the current at the counts c / t of this step,
    h the window."""
    student, inputs, counts, fired = shift_student(5, True, spikes=spikes), random_batch(5), {}, {}
    network, own = equilibrium.Network.on(student.tree, student.config, *inputs), settling.thresholds(student.tree)

    def fire(name, current):
        c = counts.setdefault(name, np.zeros(current.shape))
        drive = step * current
        up, down = drive >= own[name] * (c + 0.5 + window), drive <= own[name] * (c - 0.5 - window)
        if spikes == "binary":
            down[...] = False
        elif spikes == "corrective" or name.endswith("intermediate"):
            down &= c > 0
        c += up
        c -= down
        fired[name] = fired.get(name, 0) + up + down
        return c / step, None

    for step in range(1, 7):  # noqa: B007
        network.sweep(fire, differentiable=False)
    run = student.simulate(*inputs, time_steps=6, record=(), window=window)
    in_config = shift_student(5, True, spikes=spikes, window=window).simulate(*inputs, time_steps=6, record=())
    assert np.array_equal(in_config.logits[6], run.logits[6])
    for name, c in counts.items():
        np.testing.assert_array_equal(run.rates[name] * 6, c, err_msg=name)
        assert np.array_equal(run.spike_counts[name], (fired[name].sum(axis=2) * inputs[1]).sum(axis=1)), name


@pytest.mark.parametrize("half_steps", [False, True])
def test_a_student_of_a_teacher_is_the_same_at_thresholds_a_power_of_two_apart(half_steps):
    """And it is the ordinary BERT with these operators, where nothing is clipped at 1."""
    teacher, inputs = random_teacher(3, labels=0), random_batch(4)
    base = SHAPE.__dict__ | {"operators": "shift", "spikes": "signed", "half_steps": half_steps}

    def states(**changes):
        student = nanospike.init_student(base | changes, teacher, dtype="float64")
        settled = student.equilibrium(*inputs)
        scale = 1 if student.config.activation == "ann" else student.config.v_th
        return [scale * h for h in settled.hidden_states] + settled.attention_scores

    ordinary = states(activation="ann", operators="softmax,norm,embedding-norm,relu")
    for v_th in (2.0**10, 2.0**12):
        for found, wanted in zip(states(v_th=v_th), ordinary, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_alone_changes_the_student(name):
    inputs = random_batch(2)
    plain, changed = (random_student(2, spikes="signed", operators=o).equilibrium(*inputs) for o in ("float", name))
    assert not np.allclose(plain.logits, changed.logits)


def test_half_steps_change_the_student():
    plain, finer = (shift_student(2, half_steps=h).equilibrium(*random_batch(2)).logits for h in (False, True))
    assert not np.allclose(plain, finer)


@pytest.mark.parametrize(
    "message, changes",
    [
        ("IF neurons only .leak 1., found leak 0.9", {"leak": 0.9}),
        ("not with feedback, looped or lateral", {"feedback": True}),
        ("not with feedback, looped or lateral", {"looped": True}),
        ("not with feedback, looped or lateral", {"lateral": True}),
        ("soft reset only, found reset 'hard'", {"reset": "hard"}),
        ("an ordinary BERT .activation ann. has no spiking query", {"activation": "ann"}),
        ("half_steps: without effect", {"operators": "query,relu", "half_steps": True}),
        ("window: for IF neurons only", {"operators": "float", "leak": 0.9, "window": 0.5}),
        ("operators: found 'gelu', expected float, shift", {"operators": "gelu"}),
        ("activation_bits: of an ordinary BERT", {"activation_bits": 4}),
    ],
)
def test_what_does_not_go_together_is_refused(message, changes):
    with pytest.raises(InputError, match=message):
        nanospike.init_student(SHAPE.__dict__ | {"operators": "shift"} | changes)


def test_the_instant_drive_is_refused():
    with pytest.raises(InputError, match="drive instant: for float operators only, found operators shift"):
        shift_student().simulate(*random_batch(0), time_steps=2, drive="instant")


@pytest.mark.parametrize("window", [-0.1, math.inf])
def test_a_window_that_cannot_be_is_refused(window):
    with pytest.raises(InputError, match="window: found"):
        shift_student().simulate(*random_batch(0), time_steps=2, window=window)


def test_thresholds_of_single_query_neurons_are_refused():
    student = shift_student(own=True)
    student.tree["thresholds"]["encoder"][1]["query"] = np.ones(SHAPE.hidden_size)
    with pytest.raises(InputError, match="thresholds.encoder.1.query: found 8, expected one"):
        student.equilibrium(*random_batch(0))


@pytest.mark.parametrize("operators", ["shift", "norm,query", "float"])
def test_operators_are_saved_and_loaded(operators, tmp_path):
    student, inputs = shift_student(1, own=True, operators=operators, dtype="float32"), random_batch(1)
    student.save(tmp_path)
    again = nanospike.load_student(tmp_path)
    assert again.config == replace(student.config) and again.config.operators in ("shift", "query,norm", "float")
    assert np.array_equal(again.equilibrium(*inputs).logits, student.equilibrium(*inputs).logits)


def test_operators_run_on_the_device(xp, device):
    inputs = random_batch(3)
    here, there = shift_student(3, dtype="float32"), shift_student(3, dtype="float32", device=device)
    placed = random_batch(3, device=device)
    run, expected = there.simulate(*placed, time_steps=4, record=()), here.simulate(*inputs, time_steps=4, record=())
    assert type(run.logits[4]) is type(xp.zeros(1))
    np.testing.assert_allclose(nanospike.arrays.backend.to_host(run.logits[4]), expected.logits[4], atol=1e-4)
    out = random_teacher(3, dtype="float32", device=device)(*placed)
    value, grads = there.distill_gradients(*placed[:2], out, placed[2])
    wanted, _ = here.distill_gradients(*inputs[:2], random_teacher(3, dtype="float32")(*inputs), inputs[2])
    assert abs(value - wanted) < 1e-3 * wanted and all(g.dtype == "float32" for g in grads.values())


# ---- spikes in the loss, several numbers of time steps at once --------------------------------------------------


@pytest.mark.parametrize("changes", [{"operators": "shift"}, {"feedback": True}, {"lateral": True}, {}])
@pytest.mark.parametrize("spikes", ["binary", "signed"])
def test_the_spike_penalty_is_exact_at_the_equilibrium(changes, spikes):
    """By complex step through the fixed point, with |a| = a sign(Re a); of a loop it is in the right-hand side only."""
    weights = loss.LossWeights(spikes=0.7)
    for seed in range(2):
        student = random_student(seed, spikes=spikes, feedback_gain=0.05, **changes)
        inputs = random_batch(seed)
        out = random_teacher(seed)(*inputs)
        result = student.gradients(inputs, loss.Targets(out), weights)
        parameters = {n: p.copy() for n, p in student.parameters().items()}
        plain, settled = loss_of(student, inputs, out, settle=True), result.equilibrium
        terms = [np.abs(r[inputs[1] == 1]).mean() for r in settled.rates.values()]
        np.testing.assert_allclose(result.terms["spikes"], 0.7 * sum(terms), rtol=1e-12)

        def function(p):
            return plain(p, 0.7)  # noqa: B023

        np.testing.assert_allclose(float(sum(result.terms.values())), function(parameters), rtol=1e-10)
        grads, rng = dense_gradients(result.grads, parameters), np.random.default_rng(seed)
        direction = {n: rng.standard_normal(p.shape) for n, p in parameters.items()}
        slope = complex_step(function, parameters, direction)
        size = math.sqrt(sum(np.vdot(g, g) for g in grads.values()) * sum(np.vdot(d, d) for d in direction.values()))
        assert abs(sum(np.vdot(grads[n], direction[n]) for n in grads) - slope) <= 1e-9 * size


def test_several_numbers_of_time_steps_are_the_mean_of_each():
    student, inputs = shift_student(6, own=True, spikes="signed"), random_batch(6)
    target, weights = loss.Targets(random_teacher(6)(*inputs)), loss.LossWeights(spikes=0.2)
    both = student.gradients(inputs, target, weights, simulation=SpikingRun(time_steps=6, record=(2, 3)))
    each = [student.gradients(inputs, target, weights, simulation=SpikingRun(time_steps=t)) for t in (2, 3, 6)]
    for name, value in both.terms.items():
        np.testing.assert_allclose(value, np.mean([g.terms[name] for g in each]), rtol=1e-12, err_msg=name)
    found, *parts = (dense_gradients(g.grads, student.parameters()) for g in (both, *each))
    for name, g in found.items():
        np.testing.assert_allclose(g, np.mean([p[name] for p in parts], axis=0), rtol=1e-9, atol=1e-12, err_msg=name)


def test_rates_are_kept_at_every_recorded_step():
    student, inputs = shift_student(7), random_batch(7)
    run = student.run(inputs, SpikingRun(time_steps=5, record=(2,), keep_rates=True))
    assert list(run.rates_at) == [2, 5]
    for t in (2, 5):
        alone = student.simulate(*inputs, time_steps=t, record=())
        for name, rates in alone.rates.items():
            assert np.array_equal(run.rates_at[t][name], rates)
    with pytest.raises(InputError, match="keep_rates, margin"):
        student.run(inputs, SpikingRun(time_steps=5, keep_rates=True, margin=1.0))
