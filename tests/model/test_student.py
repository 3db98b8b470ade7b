"""The student as an object: where it starts, what it refuses, what training calls."""

import functools
from dataclasses import asdict

import numpy as np
import pytest
from conftest import check_owner
from models import SHAPE, random_batch, random_student, random_teacher

import nanospike
from nanospike.arrays.backend import to_host
from nanospike.arrays.tree import RowSum, dense_gradients, leaves
from nanospike.config.errors import InputError
from nanospike.model import equilibrium
from nanospike.model.bert import TeacherOutput
from nanospike.model.fresh import with_classifier
from nanospike.model.loss import Targets
from nanospike.model.simulate import SpikingRun, gap
from nanospike.solvers import adjoint

PARTS = ("hidden", "attention", "logits")


def test_from_a_teacher_it_starts_with_the_mapped_layers():
    teacher = random_teacher(0, num_hidden_layers=4)
    for layer_map, expected in ((None, [2, 4]), ([1, 3], [1, 3])):
        student = nanospike.init_student(asdict(SHAPE), teacher, dtype="float64", layer_map=layer_map)
        for i, layer in enumerate(expected):
            name = "encoder.layer.{}.attention.self.query.weight"
            mine, theirs = student.parameters()[name.format(i)], teacher.parameters()[name.format(layer - 1)]
            assert np.array_equal(mine, theirs) and mine is not theirs
        assert np.array_equal(student.parameters()["distill_map.weight"], np.eye(8))


def test_a_run_is_refused_before_it_begins():
    """What a run would refuse, and nothing of an ordinary BERT, which has none."""
    with pytest.raises(InputError, match="drive instant: for float operators only"):
        random_student(operators="shift").require_run(SpikingRun(drive="instant"))
    with pytest.raises(InputError, match="ternary or binary weights, found weights float"):
        random_student(operators="shift").require_run(SpikingRun(arithmetic="integer"))
    random_student(activation="ann").require_run(SpikingRun(reset="hard"))
    with pytest.raises(InputError, match="has no spikes"):
        random_student(activation="ann").require_run(SpikingRun(arithmetic="integer"))


def test_a_classifier_behind_a_pooler_does_not_start_a_students():
    own = with_classifier(random_student(num_labels=2), random_teacher(labels=3)).parameters()
    assert own["classifier.weight"].shape == (3, SHAPE.hidden_size) and own["classifier.weight"].any()
    assert own["classifier.bias"].shape == (3,) and not own["classifier.bias"].any()


def test_at_any_threshold_it_starts_with_what_the_teachers_layers_compute():
    """Signed neurons with a threshold that no current reaches clip nothing: they send I / v_th."""
    teacher, inputs, v_th = random_teacher(3), random_batch(0), 40.0
    del teacher.tree["pooler"]
    student = nanospike.init_student(
        asdict(teacher.config) | {"spikes": "signed", "v_th": v_th}, teacher, dtype="float64"
    )
    found, expected = student.equilibrium(*inputs), teacher(*inputs)
    for mine, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(v_th * mine, theirs, atol=1e-8)
    for mine, theirs in zip(found.attention_scores, expected.attention_scores, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-8)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-8)
    assert np.array_equal(student.parameters()["distill_map.weight"], v_th * np.eye(8))


def test_a_teacher_of_another_size_gives_a_map_to_its_width_and_a_warning():
    teacher = random_teacher(0, hidden_size=12)
    with pytest.warns(UserWarning, match="random weights.*hidden_size 8 for 12"):
        student = nanospike.init_student(asdict(SHAPE), teacher, dtype="float64")
    assert student.parameters()["distill_map.weight"].shape == (12, 8)
    inputs = random_batch(0)
    _, grads = student.distill_gradients(*inputs[:2], teacher(*inputs), inputs[2])
    assert grads["distill_map.weight"].any()


def test_the_seed_decides_the_weights():
    first, same, other = (nanospike.init_student(asdict(SHAPE), seed=s).parameters() for s in (1, 1, 2))
    name = "encoder.layer.0.output.dense.weight"
    assert np.array_equal(first[name], same[name]) and not np.array_equal(first[name], other[name])


def test_parameters_are_live_and_equilibria_follow():
    student, inputs = random_student(0), random_batch(0)
    before = student.equilibrium(*inputs).logits
    student.parameters()["classifier.bias"][...] += 1
    np.testing.assert_allclose(student.equilibrium(*inputs).logits, before + 1)


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_stays_on_one_library_and_in_one_dtype(feedback, dtype, xp, device):
    student = random_student(1, device=device, dtype=dtype, feedback=feedback, feedback_gain=0.1)
    inputs, cpu = random_batch(1, device=device), random_student(1, dtype=dtype, feedback=feedback, feedback_gain=0.1)
    teacher = random_teacher(2, device=device, dtype=dtype)
    settled, expected = student.equilibrium(*inputs), cpu.equilibrium(*random_batch(1))
    arrays = [settled.logits, *settled.hidden_states, *settled.attention_scores, *settled.rates.values()]
    loss, grads = student.distill_gradients(*inputs[:2], teacher(*inputs), inputs[2], labels=[0, 1, 2])
    arrays += grads.values()
    check_owner(xp, arrays)
    assert all(a.dtype == dtype for a in arrays) and isinstance(loss, float)
    tolerance = {"float32": 2e-4, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(to_host(settled.logits), expected.logits, rtol=tolerance, atol=tolerance)
    assert list(settled.rates)[:3] == ["embedding", "encoder.0.key", "encoder.0.value"]
    assert len(settled.rates) == 13 and len(settled.hidden_states) == 3 and len(settled.attention_scores) == 2
    assert (settled.residual == 0) == (not feedback) and settled.residual <= 1e-5


def test_a_loop_that_does_not_settle_is_never_silent(monkeypatch):
    monkeypatch.setattr(equilibrium, "fixed_point", functools.partial(adjoint.fixed_point, max_steps=2))
    student, inputs = random_student(5, feedback=True), random_batch(5)
    with pytest.warns(RuntimeWarning, match="equilibrium: .* did not converge"):
        settled = student.equilibrium(*inputs)
    assert not settled.converged and settled.residual > 1e-9
    assert settled.message.startswith("equilibrium") and settled.residuals.shape == (3,)


@pytest.mark.parametrize("drop", [0.0, 0.2])
def test_gradients_at_simulated_rates_approach_those_at_the_equilibrium(drop):
    """--forward spikes: the loss at ASRs of many steps, its cotangents pulled back through the system there.

    With the same dropout in all of it.
    """
    student, inputs, teacher = random_student(4), random_batch(4), random_teacher(5)
    out = teacher(*inputs)
    dropout = equilibrium.FrozenDropout(drop, np.random.default_rng(1))
    exact = student.gradients(inputs, Targets(out), dropout=dropout)
    assert len(dropout.scales) == 3 * student.config.num_hidden_layers
    reference = dense_gradients(exact.grads, student.parameters())
    errors = []
    for steps in (16, 128, 1024):
        simulation = SpikingRun(time_steps=steps)
        result = student.gradients(inputs, Targets(out), simulation=simulation, dropout=dropout)
        found = dense_gradients(result.grads, student.parameters())
        difference = sum(np.linalg.norm(found[n] - g) ** 2 for n, g in reference.items()) ** 0.5
        errors.append(difference / sum(np.linalg.norm(g) ** 2 for g in reference.values()) ** 0.5)
    assert errors[2] < 0.02 and errors[2] < 0.3 * errors[0]
    run = student.simulate(*inputs, time_steps=1024, record=[])
    assert gap(run.output_rates[1024], student.equilibrium(*inputs).hidden_states[-1], inputs[1]).max() < 8e-3


def test_dropout_of_some_examples_is_that_of_the_batch():
    student, inputs = random_student(4), random_batch(4)
    network = student._network(*inputs, dropout=equilibrium.FrozenDropout(0.3, np.random.default_rng(1)))
    whole = network.sweep(network.rate_neurons()).hidden_states[-1]
    for rows in ([1], [0, 2]):
        few = network.keep(np.array(rows))
        found = few.sweep(few.rate_neurons(), differentiable=False).hidden_states[-1]
        np.testing.assert_allclose(found, whole[rows], rtol=1e-12)


@pytest.mark.parametrize("loop", [{}, {"feedback": True}, {"lateral": True}])
def test_a_network_held_at_its_equilibrium_has_the_gradient_of_the_equilibrium(loop):
    student, inputs = random_student(4, dtype="float64", **loop), random_batch(4)
    network = student._network(*inputs)
    settled, vjp = equilibrium.solve(network)
    (hidden, scores, logits), vjp_there = equilibrium.at_rates(network, settled.rates)
    np.testing.assert_allclose(logits, settled.logits, rtol=1e-9)
    rng = np.random.default_rng(0)
    cotangents = [[rng.standard_normal(a.shape) for a in arrays] for arrays in (hidden, scores)]
    grads, there = {}, {}
    vjp(*cotangents, logits, grads)
    vjp_there(*cotangents, logits, there)
    for (name, a), (_, b) in zip(leaves(grads), leaves(there), strict=True):
        a, b = (g.dense() if isinstance(g, RowSum) else g for g in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8, err_msg=name)


def test_an_ordinary_bert_of_the_students_size():
    student, inputs = random_student(6, activation="ann"), random_batch(6)
    settled = student.equilibrium(*inputs)
    assert min(h.min() for h in settled.hidden_states) < -0.5 and max(h.max() for h in settled.hidden_states) > 1.5
    with pytest.raises(InputError, match="ordinary BERT"):
        student.simulate(*inputs)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"input_ids": np.full((1, 3), 40)}, "values from 40 to 40, expected 0 to 39"),
        ({"input_ids": np.zeros((1, 11), int)}, "11 tokens, the model has 10 positions"),
        ({"input_ids": np.zeros(3, int)}, "expected integers of shape"),
        ({"input_ids": np.zeros((1, 3))}, "expected integers of shape"),
        ({"attention_mask": np.ones((2, 3), int)}, "attention_mask: found shape"),
        ({"attention_mask": np.full((1, 3), 2)}, "attention_mask: found values from 2 to 2, expected 0 to 1"),
        ({"token_type_ids": np.full((1, 3), 2)}, "token_type_ids: found values from 2"),
    ],
)
def test_bad_inputs_are_named(change, said):
    inputs = {"input_ids": np.zeros((1, 3), int)} | change
    with pytest.raises(InputError, match=said):
        random_student().equilibrium(**inputs)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"labels": [0, 1, 3]}, "labels: .* from 0 to 2"),
        ({"labels": [0, 1, -1]}, "labels: .* from 0 to 2"),
        ({"labels": [0.0, 1.0, 2.0]}, "labels: .* from 0 to 2"),
        ({"labels": [0]}, r"labels: found shape \(1,\)"),
        ({"temperature": 0.0}, "temperature: found 0.0"),
        (
            {"teacher_out": TeacherOutput(None, None, np.zeros((3, 1)))},
            r"logits: found shape \(3, 1\), expected \(3, 3\)",
        ),
        ({"teacher_out": TeacherOutput([np.zeros((3, 5, 7))] * 3, None, None)}, "hidden_states: found shape"),
        (
            {"teacher_out": TeacherOutput([np.zeros((3, 5, 8))] * 3, [np.zeros((3, 2, 5, 5))], None)},
            "one more of the former",
        ),
    ],
)
def test_bad_targets_are_named(change, said):
    inputs = random_batch(0)
    given = {"teacher_out": random_teacher(0)(*inputs)} | change
    with pytest.raises(InputError, match=said):
        random_student(0).distill_gradients(*inputs[:2], token_type_ids=inputs[2], **given)


def test_every_part_counts_as_it_is_unless_asked():
    student, inputs = random_student(1), random_batch(1)
    out = random_teacher(2)(*inputs)
    value, _ = student.distill_gradients(*inputs[:2], out, inputs[2])
    alone = [{n: float(n == name) for n in PARTS} | {"temperature": 1.0} for name in PARTS]
    parts = [student.distill_gradients(*inputs[:2], out, inputs[2], **weights)[0] for weights in alone]
    assert min(parts) > 0 and value == pytest.approx(sum(parts), rel=1e-12)


def test_a_teacher_in_another_precision_is_met_in_the_students():
    student, inputs = random_student(1, dtype="float32"), random_batch(1)
    _, grads = student.distill_gradients(*inputs[:2], random_teacher(2, dtype="float64")(*inputs), inputs[2])
    assert {str(g.dtype) for g in grads.values()} == {"float32"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"v_th": 0.0}, "v_th: found 0.0"),
        ({"leak": 1.5}, "leak: found 1.5"),
        ({"spikes": "ternary"}, "spikes: found 'ternary'"),
        ({"num_attention_heads": 3}, "does not divide"),
        ({"hidden_act": "mish"}, "hidden_act: found 'mish'"),
    ],
)
def test_bad_configurations_are_named(change, said):
    with pytest.raises(InputError, match=said):
        nanospike.init_student(asdict(SHAPE) | change)
