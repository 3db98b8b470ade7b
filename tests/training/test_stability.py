"""The loop in training: its gain held down, failed examples left out, and a penalty on its Jacobian."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from check import complex_step
from models import LOOPS, random_batch, random_student, random_teacher

from nanospike.arrays.tree import dense_gradients, nest
from nanospike.model import equilibrium
from nanospike.model.equilibrium import Loop
from nanospike.model.loss import Targets, Totals
from nanospike.model.penalty import jacobian_penalty
from nanospike.solvers.adjoint import Code
from nanospike.training import stability
from nanospike.training.optim import Diverged
from nanospike.training.stability import TARGET, WINDOW, Stability


def result(failed=(), radius=None, cut=()):
    """What Stability reads of the gradients of three examples."""
    codes = np.array([Code.MAX_STEPS if i in failed else Code.OK for i in range(3)])
    adjoint = np.array([Code.TRUNCATED if i in cut else Code.OK for i in range(3)])
    return SimpleNamespace(
        equilibrium=SimpleNamespace(codes=codes, message="out of steps" if failed else ""),
        adjoint=radius and SimpleNamespace(codes=adjoint, radius=np.array(radius), message=""),
        examples=3,
    )


def test_the_feedback_is_scaled_down_when_any_part_passes_the_target():
    student = random_student(0, feedback=True)
    watch, before = Stability(student.parameters()), {n: p.copy() for n, p in student.parameters().items()}
    watch.after([result(radius=[0.5, np.nan, 0.1]), result(radius=[0.1, 0.2, 0.85])])
    assert all(np.array_equal(p, before[n]) for n, p in student.parameters().items())
    watch.after([result(radius=[0.5, np.nan, 0.1]), result(radius=[0.1, 1.8, 0.85])])
    for name, p in student.parameters().items():
        wanted = before[name] * (TARGET / 1.8) if name == "feedback.weight" else before[name]
        np.testing.assert_array_equal(p, wanted, err_msg=name)
    assert watch.notes() == {"loop_gain": 1.8, "rescaled": 1, "failed": 0}
    watch.after([result(radius=[np.nan] * 3)])
    assert watch.notes() == {"loop_gain": None, "rescaled": 0, "failed": 0}


def test_a_loop_of_high_gain_comes_down_to_the_target():
    student, inputs = random_student(7, feedback=True, feedback_gain=1.5), random_batch(8)
    watch, out, gains = Stability(student.parameters()), random_teacher(8)(*inputs), []
    for _ in range(20):
        found = student.gradients(inputs, Targets(out), loop=Loop(drop_failed=True))
        gains.append(found.adjoint.radius.max())
        watch.after([found])
    assert gains[0] > 1 and gains[-1] <= TARGET * 1.001
    assert watch.notes()["rescaled"] >= 1


@pytest.mark.parametrize("loop", LOOPS)
def test_rescaling_scales_the_jacobian_of_every_loop(loop):
    """At the same slopes of the neurons; here none is at its limits, whatever returns."""
    student, inputs = random_student(3, spikes="signed", v_th=100.0, **LOOPS[loop]), random_batch(4)
    network = equilibrium.Network.on(student.tree, student.config, *inputs)
    z = 1e-9 * network.state(np.random.default_rng(5).standard_normal(network.current.shape))
    dlast = np.random.default_rng(6).standard_normal(network.current.shape)
    nowhere = [None] * student.config.num_hidden_layers

    def product():
        return network.sweep(network.rate_neurons(), z).return_vjp([*nowhere, dlast])[0]

    before = product()
    stability.rescale(student.parameters(), 0.3)
    np.testing.assert_allclose(product(), 0.3 * before, rtol=1e-4, atol=1e-6 * np.abs(before).max())


def test_failures_are_counted_and_many_stop_the_run():
    watch = Stability({})
    for _ in range(WINDOW):  # one of six in every batch: reported, and the run goes on
        watch.after([result(), result(failed=[1], cut=[0, 2], radius=[0.1] * 3)])
    assert watch.notes()["failed"] == WINDOW and watch.notes()["failed"] == 0
    with pytest.raises(Diverged, match=r"of the 300 examples of the last 50 updates did not converge: out of steps"):
        for _ in range(WINDOW):
            watch.after([result(failed=[0, 1, 2], radius=[0.5] * 3), result(radius=[0.5] * 3)])
    few = Stability({})
    for _ in range(WINDOW - 1):
        few.after([result(failed=[0, 1, 2], radius=[0.5] * 3)])


def gradient(student, inputs, targets, dropout=None, **loop):
    found = student.gradients(inputs, targets, loop=Loop(**loop), dropout=dropout)
    return found, dense_gradients(found.grads, student.parameters())


def test_an_example_whose_equilibrium_was_not_found_adds_nothing(monkeypatch):
    """The gradient is that of the other examples, divided by the totals of all."""
    student, inputs = random_student(1, feedback=True), random_batch(2)
    out, others = random_teacher(3)(*inputs), np.array([0, 2])
    few = type(out)(
        [h[others] for h in out.hidden_states], [s[others] for s in out.attention_scores], out.logits[others]
    )
    labels = np.array([0, 1, 2])
    targets = Targets(few, labels[others], Totals.of(inputs[1]))
    _, wanted = gradient(student, [a[others] for a in inputs], targets)
    solve = equilibrium.fixed_point

    def failing(*args, **more):
        found = solve(*args, **more)
        return replace(found, converged=False, message="failed", codes=np.array([0, Code.STAGNATION, 0]))

    monkeypatch.setattr(equilibrium, "fixed_point", failing)
    with pytest.warns(RuntimeWarning, match="failed"):
        found, grads = gradient(student, inputs, Targets(out, labels), drop_failed=True)
    assert stability.failed(found).tolist() == [False, True, False]
    for name, g in wanted.items():
        np.testing.assert_allclose(grads[name], g, rtol=1e-8, atol=1e-10, err_msg=name)


def test_an_example_whose_adjoint_was_not_solved_adds_the_gradient_at_constant_feedback(monkeypatch):
    student, inputs = random_student(1, feedback=True), random_batch(2)
    out, solve = random_teacher(3)(*inputs), equilibrium.solve_adjoint

    def with_row_1(change, codes):
        def solver(*args, **more):
            found = solve(*args, **more)
            found.x[1] = change(found.x[1])
            return replace(found, codes=np.array([0, codes, 0]), code=Code(codes), converged=not codes)

        return solver

    monkeypatch.setattr(equilibrium, "solve_adjoint", with_row_1(lambda x: 0 * x, Code.OK))
    _, wanted = gradient(student, inputs, Targets(out))
    monkeypatch.setattr(equilibrium, "solve_adjoint", with_row_1(lambda x: x + 9, Code.DIVERGED))
    with pytest.warns(RuntimeWarning):
        found, grads = gradient(student, inputs, Targets(out), drop_failed=True)
    assert stability.failed(found).tolist() == [False, True, False]
    assert all(np.array_equal(grads[n], g) for n, g in wanted.items())


def penalty_at(student, parameters, inputs, last, seed=5, dropout=None):
    network = equilibrium.Network.on(nest(parameters), student.config, *inputs, dropout)
    return jacobian_penalty(network, last, seed, Totals.of(inputs[1]))


def test_the_jacobian_penalty_is_the_loops_squared_norm():
    student, inputs = random_student(3, feedback=True), random_batch(4, (3, 2))
    network, last = equilibrium.Network.on(student.tree, student.config, *inputs), student.equilibrium(*inputs)
    last, fire = last.hidden_states[-1], network.rate_neurons()
    z, v = network.state(last), network.state(np.random.default_rng(5).standard_normal(last.shape))
    product = network.state(np.imag(network.sweep(fire, z + 1e-30j * v).hidden_states[-1]) / 1e-30)
    value, _ = penalty_at(student, student.parameters(), inputs, last)
    np.testing.assert_allclose(value, (product**2).sum() / (5 * 8), rtol=1e-3)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("drop", [0.0, 0.2])
def test_gradient_of_the_jacobian_penalty(loop, drop, seed=1):
    """What --jacobian-penalty adds to the gradient, with and without dropout."""
    student, inputs = random_student(seed, spikes="signed", **LOOPS[loop]), random_batch(seed, (3, 2))
    out = random_teacher(seed, num_hidden_layers=student.config.num_hidden_layers)(*inputs)
    parameters, rng = student.parameters(), np.random.default_rng(seed)
    dropout = equilibrium.FrozenDropout(drop, np.random.default_rng(seed))
    plain, without = gradient(student, inputs, Targets(out), dropout=dropout)
    _, penalised = gradient(student, inputs, Targets(out), dropout=dropout, jacobian_penalty=0.7, seed=5)
    grads = {n: g - without[n] for n, g in penalised.items()}
    last = plain.equilibrium.hidden_states[-1]
    assert all(g.any() for n, g in grads.items() if n.startswith(("feedback.", "lateral.")))
    direction = {n: rng.standard_normal(p.shape) for n, p in parameters.items()}
    value = lambda p: penalty_at(student, p, inputs, last, dropout=dropout)[0]  # noqa: E731
    slope = 0.7 * complex_step(value, parameters, direction)
    np.testing.assert_allclose(sum(np.vdot(grads[n], direction[n]) for n in grads), slope, rtol=1e-7)


def test_the_penalty_is_a_term_of_the_loss_and_its_seed_decides():
    student, inputs = random_student(3, feedback=True), random_batch(4)
    out = random_teacher(5)(*inputs)
    plain, grads = gradient(student, inputs, Targets(out))
    (first, one), (_, same), (_, other) = (
        gradient(student, inputs, Targets(out), jacobian_penalty=0.5, seed=(1, s)) for s in (1, 1, 2)
    )
    assert first.terms.keys() == {*plain.terms, "jacobian"} and first.terms["jacobian"] > 0
    name = "feedback.weight"
    assert np.array_equal(one[name], same[name]) and not np.array_equal(one[name], other[name])
    assert not np.array_equal(one[name], grads[name])
