"""The fused blocks of a GPU, and those that numba compiles, against the portable graph on NumPy."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from models import LOOPS, random_batch, random_student, random_teacher

from nanospike.arrays.backend import has_kernels, joined, product, side_by_side, to_device, to_host
from nanospike.arrays.tree import RowSum, leaves, nest
from nanospike.model import bert, equilibrium, loss, twins
from nanospike.model.loss import Targets, Totals
from nanospike.model.membranes import Neurons
from nanospike.model.neuron import POPULATIONS
from nanospike.model.simulate import SpikingRun
from nanospike.training.optim_device import optimizer_of

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}
KINDS = {
    "binary": {},
    "signed": {"spikes": "signed"},
    "another threshold": {"v_th": 0.6},
    "ann": {"activation": "ann"},
    "feedback": LOOPS["full"],
    "lateral": LOOPS["lateral"],
    "shift operators": {"operators": "shift"},
    "signed shifts": {"operators": "shift", "spikes": "signed", "half_steps": True, "v_th": 0.6},
    "some shifts": {"operators": "softmax,norm", "hidden_act": "relu"},
    "no activation": {"operators": "relu", "spikes": "signed", "weights": "ternary", "embedding_weights": "ternary"},
    "shifts, ann": {"operators": "norm,softmax", "activation": "ann"},
    "own thresholds": {
        "thresholds": ("encoder.0.query", "encoder.1.output", "encoder.1.key"),
        "operators": "norm,relu",
    },
}
SHARED = ("encoder.0.query", "encoder.0.key", "encoder.1.value")  # populations with one learnt threshold


@pytest.fixture
def gpu(cupy):
    if not has_kernels(cupy):
        pytest.skip("no GPU, and no emulation of one that runs kernels")
    return cupy


CASES = [("cuda", "float32"), ("cuda", "float64"), ("cpu", "float32")]


@pytest.fixture
def fused(request, device, cupy):
    """The device of a case, where its twins serve; what a portable() block then computes is the reference."""
    if device == "cuda" and not has_kernels(cupy):
        pytest.skip("no GPU, and no emulation of one that runs kernels")
    if device == "cpu":
        pytest.importorskip("numba", reason="the extra `fast` is not installed")
        twins.use_fast(True)
    yield device
    twins.use_fast(False)


def compare(found, expected, dtype, what):
    largest = max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(to_host(found) / largest, expected / largest, atol=TOLERANCE[dtype], err_msg=what)


def with_shared_thresholds(student):
    """The student, with one threshold of its own for each of some populations."""
    like = student.tree["distill_map"]["bias"].dtype
    own = {f"thresholds.{n}": np.array([0.7 + 0.2 * i], like) for i, n in enumerate(SHARED)}
    student.tree |= nest({name: to_device(array, student.device) for name, array in own.items()})
    return student


def results(make, teacher, device, **terms):
    """(loss, gradients, equilibrium) of a student on a batch."""
    student, batch = make(device), random_batch(device=device)
    target = random_teacher(device=device, dtype=teacher)(*batch)
    loss, grads = student.distill_gradients(batch[0], batch[1], target, batch[2], **terms)
    return loss, grads, student.equilibrium(*batch)


@pytest.mark.parametrize("device, dtype", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_portable_graph(fused, kind, dtype):
    make = lambda device: random_student(device=device, dtype=dtype, **KINDS[kind])  # noqa: E731
    loss, grads, settled = results(make, dtype, fused)
    with twins.portable():
        expected_loss, expected_grads, expected = results(make, dtype, "cpu")
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE[dtype])
    assert settled.rates.keys() == expected.rates.keys()
    for name, rates in expected.rates.items():
        compare(settled.rates[name], rates, dtype, name)
    for i, scores in enumerate(expected.attention_scores):
        compare(settled.attention_scores[i], scores, dtype, f"scores {i}")
    for name, gradient in expected_grads.items():
        compare(grads[name], gradient, dtype, name)


@pytest.mark.parametrize("device, dtype", CASES)
@pytest.mark.parametrize("operators", ["float", "shift"])
def test_logits_alone_are_pulled_back_from_the_first_token(fused, operators, dtype):
    """On a CPU products then leave out the tokens without a cotangent, which is 0 there for what was before them."""
    make = lambda device: random_student(device=device, dtype=dtype, operators=operators)  # noqa: E731
    _, grads, _ = results(make, dtype, fused, hidden=0.0, attention=0.0)
    with twins.portable():
        _, expected, _ = results(make, dtype, "cpu", hidden=0.0, attention=0.0)
    for name, gradient in expected.items():
        compare(grads[name], gradient, dtype, name)


@pytest.mark.parametrize("device, dtype", CASES)
def test_a_teacher_equals_the_portable_one(fused, dtype):
    found = random_teacher(device=fused, dtype=dtype)(*random_batch(device=fused))
    with twins.portable():
        expected = random_teacher(dtype=dtype)(*random_batch())
    for name in ("hidden_states", "attention_scores"):
        for i, (a, b) in enumerate(zip(getattr(found, name), getattr(expected, name), strict=True)):
            compare(a, b, dtype, f"{name} {i}")
    compare(found.logits, expected.logits, dtype, "logits")


@pytest.mark.parametrize("device, dtype", CASES)
def test_a_vjp_may_be_called_again(fused, dtype):
    student, batch = random_student(device=fused, dtype=dtype), random_batch(device=fused)
    network = equilibrium.Network.on(student.tree, student.config, *batch)
    trace = network.sweep(network.rate_neurons())
    rng = np.random.default_rng(0)
    dhidden = [to_device(rng.standard_normal(h.shape).astype(dtype), fused) for h in trace.hidden_states]
    dscores = [to_device(rng.standard_normal(s.shape).astype(dtype), fused) for s in trace.attention_scores]
    first = to_host(trace.vjp(list(dhidden), list(dscores), {}))
    assert np.array_equal(first, to_host(trace.vjp(list(dhidden), list(dscores))))
    assert np.abs(first).max() > 0


@pytest.mark.parametrize("device, dtype", CASES)
def test_cotangents_of_populations_inside_arrive(fused, dtype):
    found = []
    for device in (fused, "cpu"):
        student, rng = random_student(device=device, dtype=dtype), np.random.default_rng(3)
        network = equilibrium.Network.on(student.tree, student.config, *random_batch(device=device))
        with twins.portable() if len(found) else nullcontext():
            fire = equilibrium.Recorder(network.rate_neurons())
            trace = network.sweep(fire)
            draw = lambda a: to_device(rng.standard_normal(a.shape).astype(dtype), device)  # noqa: B023, E731
            drates = {f"encoder.{i}.{p}": draw(fire.rates[f"encoder.{i}.{p}"]) for i in (0, 1) for p in POPULATIONS}
            dhidden, grads = [None, None, draw(trace.hidden_states[-1])], {}
            found.append({"current": trace.vjp(dhidden, None, grads, drates)} | dict(leaves(grads)))
    for name, value in found[1].items():
        compare(found[0][name], value, dtype, name)


@pytest.mark.parametrize("kind, most", [({}, 200), ({"operators": "shift", "weights": "ternary"}, 300)])
def test_a_step_takes_few_launches_and_waits_for_nothing(gpu, kind, most):
    """3 encoders, a teacher of 6, all terms of the loss but the labels', the update."""
    hostcupy = pytest.importorskip("hostcupy", reason="launches are counted by an emulation of the GPU")
    teacher = random_teacher(device="cuda", dtype="float32", num_hidden_layers=6)
    student = random_student(device="cuda", dtype="float32", num_hidden_layers=3, **kind).computing()
    optimizer, batch = optimizer_of(student.parameters()), random_batch(device="cuda")

    def step():
        out = teacher.forward(batch, differentiable=False)[0]
        result = student.gradients(batch, Targets(out, None, Totals(3, 12, 50)))
        optimizer.update(dict(leaves(result.grads)), 1e-4, 1.0)

    step()
    with hostcupy.measure() as counts:
        step()
    assert counts.launches <= most and counts.d2h == 0 and counts.syncs == 0


@pytest.mark.parametrize("device, dtype", CASES)
def test_where_a_twin_serves(fused, dtype):
    def serves(encoder=0, flow=None, x=None, **changes):
        config = replace(student.config, **changes)
        network = equilibrium.Network.on(student.tree, student.config, *random_batch(device=student.device))
        flow = flow or bert.Flow(fire=network.rate_neurons())
        x, name = network.current if x is None else x, f"encoder.{encoder}"
        return twins.encoder(x, student.tree["encoder"]["layer"][encoder], config, flow, name) is not None

    student = random_student(device=fused, dtype=dtype, thresholds=("encoder.1.key",))
    assert serves() and serves(flow=bert.Flow())
    assert not serves(flow=bert.Flow(drop=lambda x: (x, lambda dy: dy)))
    assert not serves(hidden_act="silu") and not serves(operators="relu", activation="ann")
    assert serves(1)  # the second has thresholds that are parameters: what no kernel knows comes after it
    assert serves(flow=bert.Flow(fire=lambda name, x: (x, None)))
    for operators in ("softmax", "norm", "query", "relu", "shift"):
        assert serves(operators=operators)
    with twins.portable():
        assert not serves()
    twins.use_fast(False)
    assert serves() == (fused == "cuda")


@pytest.mark.parametrize("device, dtype", CASES)
def test_matrices_that_lie_side_by_side_are_one_product(fused, dtype):
    student, batch = random_student(device=fused, dtype=dtype), random_batch(device=fused)
    before = student.equilibrium(*batch)
    twins.arrange(student.tree)
    live = student.parameters()
    assert joined([live[f"encoder.layer.0.attention.self.{n}.weight"] for n in ("query", "key", "value")]) is not None
    after = student.equilibrium(*batch)
    for name, rates in before.rates.items():
        compare(after.rates[name], to_host(rates), dtype, name)
    live["encoder.layer.0.attention.self.key.weight"][...] = 0
    bias = to_host(live["encoder.layer.0.attention.self.key.bias"]).clip(0, 1)
    key = to_host(student.equilibrium(*batch).rates["encoder.0.key"])
    np.testing.assert_allclose(key, np.broadcast_to(bias, key.shape), rtol=1e-6)


@pytest.mark.parametrize("device, dtype", CASES)
@pytest.mark.parametrize("name", ["value.weight", "intermediate.dense.bias", "output.LayerNorm.weight", "key.bias"])
def test_not_a_number_is_seen(fused, dtype, name):
    student, batch = random_student(device=fused, dtype=dtype), random_batch(device=fused)
    live = student.parameters()
    live[next(n for n in live if n.endswith(name))].reshape(-1)[0] = np.nan
    assert np.isnan(to_host(student.equilibrium(*batch).logits)).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_products(device, gpu, dtype, stacked):
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal((3, *shape) if stacked else shape).astype(dtype)  # noqa: E731
    for a, b, flags in (
        (draw(4, 5), draw(5, 6), {}),
        (draw(5, 4), draw(5, 6), {"transpose_a": True}),
        (draw(4, 5), draw(6, 5), {"transpose_b": True}),
    ):
        turned = lambda m, key, flags=flags: m.swapaxes(-1, -2) if flags.get(key) else m  # noqa: E731
        expected, start = turned(a, "transpose_a") @ turned(b, "transpose_b"), draw(4, 6)
        out = to_device(start.copy(), device)
        given = to_device(a, device), to_device(b, device)
        compare(product(*given, out, **flags), expected, dtype, str(flags))
        out[...] = to_device(start, device)
        compare(product(*given, out, **flags, accumulate=True), start + expected, dtype, str(flags))


def test_joined_matrices_are_a_view(xp, device):
    if not has_kernels(xp) and xp is not np:
        pytest.skip("no GPU, and no emulation of one that runs kernels")
    whole = xp.arange(24, dtype=xp.float32)
    parts = [whole[:8].reshape(2, 4), whole[8:12].reshape(1, 4), whole[12:].reshape(3, 4)]
    one = joined(parts)
    one[4, 1] = -1
    assert float(whole[17]) == -1 and one.shape == (6, 4)
    assert joined([parts[0], parts[2]]) is None
    copies = side_by_side([parts[2], parts[0]])
    assert joined(copies) is not None and np.array_equal(to_host(copies[1]), to_host(parts[0]))


@pytest.mark.parametrize("device, dtype", CASES)
def test_one_learnt_threshold_for_a_population(fused, dtype):
    """Thresholds of queries and keys, of which one is on either side of what scales the scores."""

    def make(device):
        return with_shared_thresholds(random_student(device=device, dtype=dtype, operators="shift", spikes="signed"))

    loss, grads, settled = results(make, dtype, fused)
    with twins.portable():
        expected_loss, expected, reference = results(make, dtype, "cpu")
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE[dtype])
    for name in SHARED:
        compare(grads[f"thresholds.{name}"], expected[f"thresholds.{name}"], dtype, name)
        assert expected[f"thresholds.{name}"] != 0
        compare(settled.rates[name], reference.rates[name], dtype, name)


@pytest.mark.parametrize("operators", ["float", "shift"])
@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("device, dtype", CASES)
def test_fused_neurons_emit_the_same_spikes(fused, dtype, operators, spikes, watched):
    """Step by step, several in a sweep, counted; but where rounding puts a current on another side of a threshold."""

    def simulated(device):
        kind = {"spikes": spikes, "operators": operators, "v_th": 0.6}
        student = with_shared_thresholds(random_student(device=device, dtype=dtype, **kind))
        how = {"time_steps": 21, "record": [3, 4, 16], "count": watched, "window": 0.25}
        return student.simulate(*random_batch(device=device), **how)

    found = simulated(fused)
    with twins.portable():
        expected = simulated("cpu")
    for name, rates in expected.rates.items():
        other = np.abs(to_host(found.rates[name]) - rates)
        assert (other > 1e-6).mean() < 0.01 and other.max() < 0.11, name
        assert np.abs(to_host(found.spike_counts[name]) - expected.spike_counts[name]).max() <= 2
    for step, logits in expected.logits.items():
        compare(found.logits[step], logits, "float32", f"logits at {step}") if operators == "float" else None


@pytest.mark.parametrize("spikes", ["binary", "corrective", "signed"])
@pytest.mark.parametrize("v_th, learnt", [(1.0, False), (0.3, False), (0.3, True)])
@pytest.mark.parametrize("population", ["encoder.0.output", "encoder.0.attention"])
@pytest.mark.parametrize("device, dtype", CASES)
def test_membranes_round_as_the_library_does(fused, dtype, spikes, v_th, learnt, population):
    """The same currents: the same membranes, spikes, counts and rates, bit for bit, at ties too."""
    config = random_student(spikes=spikes, v_th=v_th, operators="softmax").config
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((7, 2, 3, 400)).astype(dtype)
    drawn[:, :, 1] = np.round(drawn[:, :, 1] * 4) * drawn.dtype.type(v_th) / 4  # on thresholds
    drawn[3, 0, 2, 5] = np.nan
    own = {population: to_device(np.array([v_th], dtype), fused)} if learnt else {}
    states, drawn = [], to_device(drawn, fused)
    for reference in (False, True):
        neurons, sent = Neurons(SpikingRun(time_steps=9, window=0.5), config, own), []
        with twins.portable() if reference else nullcontext():
            for block in (drawn[:1], drawn[1:4], drawn[4:5], drawn[5:]):
                neurons.advance(len(block))
                out, _ = neurons(population, block.reshape(-1, 3, 400).copy())
                sent.append(to_host(out))
        states.append((neurons.populations[population], np.concatenate(sent)))
    (found, sent), (expected, reference) = states
    assert np.array_equal(sent, reference, equal_nan=True) and np.nanmax(np.abs(reference)) > 0
    for name in ("membrane", "count", "fired", "emitted"):
        one, other = (to_host(getattr(state, name)) for state in (found, expected))
        assert np.array_equal(one, other, equal_nan=name == "membrane"), name


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 4, 5, 5)])
@pytest.mark.parametrize("device, dtype", CASES[:2])
def test_differences_and_their_squares(fused, dtype, shape):
    rng = np.random.default_rng(2)
    a, target = rng.standard_normal((2, *shape)).astype(dtype)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    target[0, ..., -1, :] = np.inf  # at padding: nobody looks
    found = loss.difference_of(*(to_device(x, fused) for x in (a, target, mask)))
    with twins.portable():
        expected = loss.difference_of(a, target, mask)
    assert (expected[0][0, ..., -1, :] == 0).all() and expected[1] > 0
    for one, other in zip(found, expected, strict=True):
        compare(one, other, dtype, "difference")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sums_of_rows_have_a_fixed_order_on_a_device(gpu, dtype):
    rng = np.random.default_rng(4)
    indices, rows = rng.integers(0, 9, 300), rng.standard_normal((300, 40)).astype(dtype)
    indices[::3] = 2  # far more than a block takes at once
    found, expected = (RowSum((11, 40)) for _ in range(2))
    for part in (slice(0, 120), slice(120, 300)):
        found.add(to_device(indices[part], "cuda"), to_device(rows[part], "cuda"))
        expected.add(indices[part], rows[part])
    assert np.array_equal(to_host(found.rows()[0]), expected.rows()[0])
    compare(found.dense(), expected.dense(), dtype, "sums")
