"""The gradient through the equilibrium, by independent routes in float64."""

import numpy as np
import pytest
from check import complex_step
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import LOOPS, random_batch, random_student, random_teacher

from nanospike.arrays.tree import dense_gradients, nest
from nanospike.model import equilibrium, loss
from nanospike.model.equilibrium import Loop
from nanospike.solvers.adjoint import ADJOINT_METHODS, APPROXIMATE, FORWARD_METHODS, Code, solve_adjoint

EXACT = [m for m in ADJOINT_METHODS if m not in APPROXIMATE]


def settled_loss(student, inputs, out, labels=None, start=0, dropout=None, **weights):
    """parameters -> the loss at the equilibrium re-solved by plain iteration from start; complex numbers go through.

    dropout: a FrozenDropout that has drawn its masks.
    """

    def value(parameters):
        tree = nest(parameters)
        network = equilibrium.Network.on(tree, student.config, *inputs, dropout)
        fire, fed_back = network.rate_neurons(), None
        if student.config.recurrent:
            fed_back = network.current * 0 + start
            for _ in range(400):
                last = network.sweep(fire, fed_back, differentiable=False).hidden_states[-1]
                moved = fed_back + 0.7 * (last - fed_back)
                change, fed_back = moved - fed_back, moved
                still = np.abs(change.imag).max() <= 1e-14 * np.abs(moved.imag).max()
                if np.abs(change.real).max() <= 1e-15 and still:
                    break
        trace = network.sweep(fire, fed_back)
        logits = network.classify(trace.hidden_states[-1])[0]
        states, targets = (trace.hidden_states, trace.attention_scores, logits), loss.Targets(out, labels)
        terms, _ = loss.distillation(states, targets, inputs[1], tree["distill_map"], loss.LossWeights(**weights))
        return sum(terms.values())

    return value


def along(grads, direction):
    return sum(float(np.vdot(grads[n], direction[n])) for n in grads)


@given(
    seed=st.integers(0, 2**31),
    feedback=st.booleans(),
    spikes=st.sampled_from(["binary", "signed"]),
    v_th=st.sampled_from([0.5, 1.0, 2.0]),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    weights=st.sampled_from([(1.0, 1.0, 1.0), (0.3, 0.0, 2.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]),
    labelled=st.booleans(),
    layers=st.sampled_from([(2, None), (1, [2]), (1, [1])]),
    thresholds=st.sampled_from([(), ("embedding", "encoder.0.attention"), ("encoder.0.intermediate",)]),
)
def test_complex_step_through_the_fixed_point(
    seed, feedback, spikes, v_th, lengths, weights, labelled, layers, thresholds
):
    student = random_student(
        seed, feedback=feedback, feedback_gain=0.05, spikes=spikes, v_th=v_th, num_hidden_layers=layers[0],
        thresholds=thresholds,
    )  # fmt: skip
    teacher, inputs = random_teacher(seed), random_batch(seed, tuple(lengths))
    out = teacher(*inputs)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, len(lengths)) if labelled else None
    options = dict(zip(("hidden", "attention", "logits"), weights, strict=True)) | {
        "temperature": 1.5,
        "layer_map": layers[1],
    }
    value, grads = student.distill_gradients(*inputs[:2], out, inputs[2], labels=labels, **options)
    assert grads.keys() == student.parameters().keys()
    parameters = {n: p.copy() for n, p in student.parameters().items()}
    direction = {n: rng.standard_normal(p.shape) for n, p in parameters.items()}
    function = settled_loss(student, inputs, out, labels, **options)
    np.testing.assert_allclose(value, function(parameters), rtol=1e-10)
    slope = complex_step(function, parameters, direction)
    size = np.sqrt(sum(np.vdot(g, g) for g in grads.values()) * sum(np.vdot(d, d) for d in direction.values()))
    assert abs(along(grads, direction) - slope) <= 1e-9 * size + 1e-12


@pytest.mark.parametrize("method", EXACT)
@given(seed=st.integers(0, 2**31), gain=st.sampled_from([0.05, 0.15]), spikes=st.sampled_from(["binary", "signed"]))
@settings(max_examples=5)
def test_complex_step_through_the_fixed_point_with_every_exact_method(method, seed, gain, spikes):
    student = random_student(seed, feedback=True, feedback_gain=gain, spikes=spikes)
    teacher, inputs = random_teacher(seed), random_batch(seed, (3, 2))
    out = teacher(*inputs)
    result = student.gradients(inputs, loss.Targets(out), loop=Loop(adjoint_solver=method))
    assume(result.equilibrium.converged)
    assert result.adjoint.converged
    parameters = {n: p.copy() for n, p in student.parameters().items()}
    grads, rng = dense_gradients(result.grads, parameters), np.random.default_rng(seed)
    direction = {n: rng.standard_normal(p.shape) for n, p in parameters.items()}
    slope = complex_step(settled_loss(student, inputs, out), parameters, direction)
    size = np.sqrt(sum(np.vdot(g, g) for g in grads.values()) * sum(np.vdot(d, d) for d in direction.values()))
    assert abs(along(grads, direction) - slope) <= 1e-9 * size + 1e-12


@pytest.mark.parametrize("loop", LOOPS)
@given(
    seed=st.integers(0, 2**31),
    gain=st.sampled_from([0.1, 0.2]),
    spikes=st.sampled_from(["binary", "signed"]),
    thresholds=st.sampled_from([(), ("embedding", "encoder.0.output"), ("encoder.0.key",)]),
    drop=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=5)
def test_complex_step_through_every_kind_of_loop(loop, seed, gain, spikes, thresholds, drop):
    student = random_student(seed, feedback_gain=gain, spikes=spikes, thresholds=thresholds, **LOOPS[loop])
    teacher, inputs = random_teacher(seed, num_hidden_layers=student.config.num_hidden_layers), random_batch(seed)
    out = teacher(*inputs)
    dropout = equilibrium.FrozenDropout(drop, np.random.default_rng(seed))
    result = student.gradients(inputs, loss.Targets(out), dropout=dropout)
    assume(result.equilibrium.converged and result.adjoint.radius.max() < 0.9)
    assert result.adjoint.converged
    parameters = {n: p.copy() for n, p in student.parameters().items()}
    grads, rng = dense_gradients(result.grads, parameters), np.random.default_rng(seed)
    assert grads.keys() == parameters.keys()
    settled = result.equilibrium.hidden_states[-1]  # there may be others
    returns = [n for n in parameters if n.startswith(("feedback.", "lateral."))]
    for names in (parameters, returns):  # alone, too: they are few among many
        direction = {n: rng.standard_normal(p.shape) * (n in names) for n, p in parameters.items()}
        function = settled_loss(student, inputs, out, start=settled, dropout=dropout)
        slope = complex_step(function, parameters, direction)
        size = np.sqrt(sum(np.vdot(grads[n], grads[n]) * np.vdot(direction[n], direction[n]) for n in names))
        assert abs(along(grads, direction) - slope) <= 1e-9 * size + 1e-12


@pytest.mark.parametrize("method", APPROXIMATE)
def test_gradients_cut_short_are_near_at_low_gain_and_only_bad_ones_warn(method):
    """pytest turns warnings into errors: at a low gain there must be none."""
    inputs, out = random_batch(8), random_teacher(8)(*random_batch(8))
    student = random_student(7, feedback=True, feedback_gain=0.1)
    exact, cut = (student.gradients(inputs, loss.Targets(out), loop=Loop(adjoint_solver=m)) for m in ("gmres", method))
    assert cut.adjoint.code is Code.TRUNCATED and not cut.adjoint.converged
    exact, cut = (dense_gradients(g.grads, student.parameters()) for g in (exact, cut))
    error = sum(np.linalg.norm(cut[n] - g) ** 2 for n, g in exact.items()) ** 0.5
    assert error < 0.05 * sum(np.linalg.norm(g) ** 2 for g in exact.values()) ** 0.5


@pytest.mark.parametrize("method", FORWARD_METHODS)
def test_every_forward_solver_finds_the_equilibrium(method):
    student, inputs = random_student(3, feedback=True, feedback_gain=0.2), random_batch(3)
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    wanted, (found, _) = student.equilibrium(*inputs), equilibrium.solve(network, forward_solver=method)
    assert found.converged
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("spikes, gain, low", [("binary", 2.0, 0.0), ("signed", 4.0, -1.0)])
def test_no_solver_feeds_back_what_no_neuron_can_send(spikes, gain, low, monkeypatch):
    """A strong loop, over whose range acceleration would step: by 0.3 and 1.6 here."""
    student, inputs = random_student(0, feedback=True, feedback_gain=gain, spikes=spikes), random_batch(0)
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    sweep, fed_back = equilibrium.Network.sweep, []

    def watched(self, fire, z=None, *more, **options):
        fed_back.append(z)
        return sweep(self, fire, z, *more, **options)

    monkeypatch.setattr(equilibrium.Network, "sweep", watched)
    equilibrium.solve(network)
    assert len(fed_back) > 20 and min(z.min() for z in fed_back) >= low and max(z.max() for z in fed_back) <= 1


def test_ritz_estimates_of_a_student_are_its_loops_gain():
    student, inputs = random_student(7, feedback=True, feedback_gain=0.3), random_batch(8)
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    settled, vjp = equilibrium.solve(network)
    dlast = np.random.default_rng(0).standard_normal(settled.hidden_states[-1].shape) * inputs[1][:, :, None]
    free, oracle = (vjp([None, None, dlast], None, None, {}, Loop(adjoint_solver=m)) for m in ("gmres", "dense"))
    np.testing.assert_allclose(free.radius, oracle.radius, rtol=0.1)
    np.testing.assert_allclose(free.max_real, oracle.max_real, rtol=0.15, atol=0.03)


@pytest.mark.parametrize("feedback", [False, True])
def test_finite_differences_of_the_resolved_equilibrium(feedback):
    student, teacher, inputs = random_student(5, feedback=feedback), random_teacher(4), random_batch(5)
    out = teacher(*inputs)
    _, grads = student.distill_gradients(*inputs[:2], out, inputs[2])
    parameters, rng, errors = student.parameters(), np.random.default_rng(6), []
    for _ in range(8):
        direction = {n: rng.standard_normal(p.shape) for n, p in parameters.items()}
        values = []
        for h in (1e-7, -2e-7, 1e-7):
            for n, p in parameters.items():
                p += h * direction[n]
            values.append(student.distill_gradients(*inputs[:2], out, inputs[2])[0])
        slope = (values[0] - values[1]) / 2e-7
        errors.append(abs(along(grads, direction) - slope) / abs(slope))
    # a step across a clip's kink is not an error of the gradient: most directions must agree
    assert np.median(errors) < 1e-5 and sum(e < 1e-4 for e in errors) >= 6


@pytest.mark.parametrize(
    "method, loop", [(m, "full") for m in EXACT] + [(m, n) for n in LOOPS if n != "full" for m in ("gmres", "dense")]
)
def test_every_solver_gives_the_gradient_of_a_dense_solve(method, loop):
    student, inputs = random_student(7, feedback_gain=0.2, **LOOPS[loop]), random_batch(8)
    grads, oracle = gradient_with(student, inputs, method), gradient_with(student, inputs, None)
    for name in oracle:
        np.testing.assert_allclose(grads[name], oracle[name], rtol=1e-7, atol=1e-9, err_msg=name)


def gradient_with(student, inputs, method):
    """Gradient of a random linear functional of all outputs; method None: the loop's Jacobian, written out densely."""
    rng = np.random.default_rng(0)
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    settled, vjp = equilibrium.solve(network)
    dhidden = [rng.standard_normal(h.shape) * inputs[1][:, :, None] for h in settled.hidden_states]
    dscores = [rng.standard_normal(s.shape) for s in settled.attention_scores]
    dlogits = rng.standard_normal(settled.logits.shape)
    grads = {}
    if method:
        adjoint = vjp(dhidden, dscores, dlogits, grads, Loop(adjoint_solver=method))
        assert adjoint.converged
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(equilibrium, "solve_adjoint", dense_adjoint)
            vjp(dhidden, dscores, dlogits, grads)
    return dense_gradients(grads, student.parameters())


def dense_adjoint(vjp, cotangent, *rest):
    """The same system, its matrix built column by column."""
    n = cotangent.size
    columns = [vjp(e.reshape(cotangent.shape)).reshape(-1) for e in np.eye(n)]

    class Found:
        x = np.linalg.solve(np.eye(n) - np.array(columns).T, cotangent.reshape(-1)).reshape(cotangent.shape)

    return Found


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_of_gain_zero_is_plain_backpropagation_bit_for_bit(loop):
    depth = {"num_hidden_layers": LOOPS[loop].get("num_hidden_layers", 2)}
    plain, looped = random_student(9, **depth), random_student(9, **LOOPS[loop])
    for name, p in plain.parameters().items():
        looped.parameters()[name][...] = p
    for name, p in looped.parameters().items():
        if name in ("feedback.weight", "feedback.up", "feedback.scale", "lateral.weight"):
            p[...] = 0
    inputs = random_batch(10)
    out = random_teacher(11, **depth)(*inputs)
    value, grads = plain.distill_gradients(*inputs[:2], out, inputs[2])
    value_looped, grads_looped = looped.distill_gradients(*inputs[:2], out, inputs[2])
    assert value == value_looped
    for name, g in grads.items():
        assert np.array_equal(g, grads_looped[name]), name


@pytest.mark.parametrize("loop", [None, *LOOPS])
def test_an_example_alone_equals_itself_in_a_batch(loop):
    student, inputs = random_student(12, **LOOPS.get(loop, {})), random_batch(13)
    whole = student.equilibrium(*inputs)
    for i, length in enumerate((5, 3, 4)):
        alone = student.equilibrium(*(a[i : i + 1, :length] for a in inputs))
        np.testing.assert_allclose(alone.logits[0], whole.logits[i], rtol=1e-10, atol=1e-12)
        for population, rates in alone.rates.items():
            np.testing.assert_allclose(rates[0], whole.rates[population][i, :length], rtol=1e-9, atol=1e-11)


def loop_at(student, inputs, z=None):
    """(F, v -> J^T v, a point z of the loop's state), all in the state's shape."""
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    fire = network.rate_neurons()
    z = network.state(np.random.default_rng(16).uniform(0, 1, network.current.shape)) if z is None else z
    nowhere = [None] * student.config.num_hidden_layers
    sweep = network.sweep(fire, z)

    def transposed(w):
        dz = sweep.return_vjp([*nowhere, network.state_vjp(w)])[0]
        return dz * inputs[1][:, : z.shape[1], None]

    return lambda z: network.state(network.sweep(fire, z).hidden_states[-1]), transposed, z


@pytest.mark.parametrize("loop", LOOPS)
def test_the_jacobian_and_its_adjoint_agree(loop):
    """<J v, w> = <v, J^T w> for the loop, J v by complex step."""
    student, inputs = random_student(14, **LOOPS[loop]), random_batch(15)
    function, transposed, z = loop_at(student, inputs)
    real = inputs[1][:, : z.shape[1], None]
    v, w = np.random.default_rng(17).standard_normal((2, *z.shape)) * real
    forward = np.imag(function(z + 1e-30j * v)) / 1e-30
    assert forward.any()
    np.testing.assert_allclose(np.vdot(forward, w), np.vdot(v, transposed(w)), rtol=1e-11)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_unrolled_loop_tends_to_the_implicit_gradient(loop):
    """k terms of the series are reverse mode through k iterations: what is left out falls geometrically."""
    student, inputs = random_student(14, feedback_gain=0.15, spikes="signed", **LOOPS[loop]), random_batch(15)
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    z = network.state(student.equilibrium(*inputs).hidden_states[-1])
    _, transposed, _ = loop_at(student, inputs, z)
    b = np.random.default_rng(18).standard_normal(z.shape) * inputs[1][:, : z.shape[1], None]
    exact, partial, errors = solve_adjoint(transposed, b, "dense", 1e-13).x, b, []
    for _ in range(40):
        errors.append(np.abs(partial - exact).max())
        partial = b + transposed(partial)
    assert errors[0] > 1e-3 and errors[10] < 0.3 * errors[0] and errors[-1] < max(1e-12, 1e-3 * errors[10])


@pytest.mark.parametrize("loop", LOOPS)
@given(seed=st.integers(0, 2**31), factor=st.floats(-3, 3))
@settings(max_examples=5)
def test_the_loops_product_is_linear_fresh_and_repeatable(loop, seed, factor):
    student, inputs = random_student(seed, **LOOPS[loop]), random_batch(seed)
    _, product, z = loop_at(student, inputs)
    v, w = np.random.default_rng(seed).standard_normal((2, *z.shape))
    kept, first = v.copy(), product(v)
    np.testing.assert_allclose(product(v + factor * w), first + factor * product(w), rtol=1e-9, atol=1e-11)
    assert np.array_equal(v, kept) and np.array_equal(product(v), first) and not np.shares_memory(product(v), first)


def test_gradients_change_nothing():
    student, inputs = random_student(17, feedback=True), random_batch(18)
    before = {n: p.copy() for n, p in student.parameters().items()}
    student.distill_gradients(*inputs[:2], random_teacher(19)(*inputs), inputs[2])
    for name, p in student.parameters().items():
        assert np.array_equal(p, before[name])
