"""What a distillation step gives to the teacher and to the student: masks and dropout of an update; graphs of them."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from models import random_student, random_teacher

from nanospike.arrays import recorded
from nanospike.arrays.backend import has_kernels, to_host
from nanospike.arrays.recorded import can_record
from nanospike.arrays.tree import RowSum, leaves
from nanospike.arrays.workers import Workers
from nanospike.data.text import Encoded, Masking, collate
from nanospike.distill_options import Distill
from nanospike.model import equilibrium
from nanospike.model.loss import Totals
from nanospike.solvers.adjoint import Code
from nanospike.training import teaching
from nanospike.training.optim_device import optimizer_of
from nanospike.training.pruning import Pruning
from nanospike.training.teacher_cache import computed
from nanospike.training.teaching import can_graph, in_few_lengths, in_places

MASK = 4
FEW = {"few_steps": (1, 2), "settled_share": 0.5}


@pytest.fixture
def told(device):
    """step(seed) -> a record for each of the two parts of the same batch: what the models got of it."""
    student, teacher = random_student(1, device=device, dtype="float32"), random_teacher(2, device=device)
    ids = np.random.default_rng(0).integers(5, 40, (8, 10))
    ids[:, 0], ids[:, -1] = 2, 3
    data = Encoded(list(ids), list(np.zeros_like(ids)))
    read, learnt, learn = [], [], student.gradients

    def teacher_output(batch):
        read.append(to_host(batch.input_ids))
        return teacher.forward((batch.input_ids, batch.attention_mask, batch.token_type_ids), differentiable=False)[0]

    def gradients(inputs, targets, weights, loop, simulation, dropout):
        found = learn(inputs, targets, weights, loop, simulation, dropout)
        scales = [to_host(s) for s in dropout.scales]
        learnt.append(SimpleNamespace(ids=to_host(inputs[0]), scales=scales, probability=dropout.probability))
        return found

    student.gradients = gradients
    options = Distill(mask=0.3, dropout=0.25, stages=("prediction",))
    masking = Masking(options.mask, MASK, (2, 3))
    learn_step = teaching.gradients(lambda: teacher_output, student, options, "prediction", Workers(1), masking=masking)

    def step(*seed):
        read.clear(), learnt.clear()
        parts = [collate(data, index, device) for index in (np.arange(4), np.arange(4, 8))]
        lengths = np.full(8, ids.shape[1])
        learn_step(parts, seed, Totals(8, lengths.sum(), (lengths * lengths).sum()))
        for theirs, ours in zip(read, learnt, strict=True):
            assert np.array_equal(theirs, ours.ids)
        return list(learnt)

    return step


def test_teacher_and_student_read_the_same_masks_which_are_new_in_every_update(told):
    ids = lambda *seed: np.concatenate([part.ids for part in told(*seed)])  # noqa: E731
    first = ids(0, 4, 7, 0)
    assert 5 < (first == MASK).sum() < 40 and not (first[:, [0, -1]] == MASK).any()
    assert np.array_equal(first, ids(0, 4, 7, 0)) and np.array_equal(first, ids(0, 4, 7, 2))  # on any rank
    for other in ((1, 4, 7, 0), (0, 3, 7, 0), (0, 4, 8, 0)):  # run, stage, step
        assert not np.array_equal(first, ids(*other))


def test_dropout_is_new_in_every_update_and_part(told):
    first = told(0, 4, 7, 0)
    assert [part.probability for part in first] == [0.25, 0.25]
    kept = np.concatenate([s.reshape(-1) for part in first for s in part.scales])
    assert abs((kept == 0).mean() - 0.25) < 0.05 and np.allclose(kept[kept > 0], 4 / 3)
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(a.scales, b.scales, strict=True))  # noqa: E731
    assert same(first[0], told(0, 4, 7, 0)[0]) and not same(first[0], first[1])
    for other in ((1, 4, 7, 0), (0, 3, 7, 0), (0, 4, 8, 0), (0, 4, 7, 2)):  # and rank
        assert not same(first[0], told(*other)[0])


@pytest.mark.parametrize("share, settled", [(0.0, []), (0.25, [4, 8, 12]), (0.29, [4, 7, 11]), (1.0, range(13))])
def test_a_share_of_the_updates_is_at_the_equilibrium(share, settled):
    assert [step for step in range(13) if teaching.at_equilibrium(step, share)] == list(settled)


def test_examples_that_failed_are_left_out_of_the_gradient_of_a_step(monkeypatch):
    """In training too: what a step gives is that of the other examples, divided by the totals of all."""
    student, teacher = random_student(1, feedback=True), random_teacher(2)
    ids = np.random.default_rng(0).integers(5, 40, (3, 6))
    data, failing = Encoded(list(ids), list(np.zeros_like(ids))), set()
    solve = equilibrium.fixed_point

    def solver(*args, **more):
        found, codes = solve(*args, **more), np.zeros(3, int)
        codes[list(failing)] = Code.STAGNATION
        return replace(found, converged=not failing, message="failed", codes=codes[: len(found.codes)])

    monkeypatch.setattr(equilibrium, "fixed_point", solver)

    def output(batch):
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return teacher.forward(inputs, differentiable=False)[0]

    learn = teaching.gradients(lambda: output, student, Distill(feedback=True), "internal", Workers(1))
    totals = Totals(3, 18, 108)
    _, wanted, _ = learn([collate(data, np.array([0, 2]))], (0, 3, 0, 0), totals)
    failing.add(1)
    _, found, notes = learn([collate(data, np.arange(3))], (0, 3, 1, 0), totals)
    assert notes()["failed"] == 1
    for name, g in wanted.items():
        ours, theirs = (x.dense() if hasattr(x, "dense") else x for x in (found[name], g))
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10, err_msg=name)


def test_prediction_and_few_steps_have_one_loss_and_the_others_another():
    weights = {"hidden": 2.0, "attention": 0.5, "logits": 3.0, "labels": 0.25, "keep_internal": 0.1}
    options = Distill(stages=("internal", "prediction", "few-steps"), **weights)
    internal, prediction, few = (teaching.loss_terms(options, stage) for stage in options.stages)
    found = [(w.hidden, w.attention, w.logits, w.labels) for w in (internal, prediction, few)]
    assert found[0] == (2.0, 0.5, 0.0, 0.0)
    assert found[1] == found[2] == (pytest.approx(0.2), pytest.approx(0.05), 3.0, 0.25)


def test_pruning_is_of_the_last_stage_and_its_texts(monkeypatch):
    made = []
    monkeypatch.setattr(teaching, "Pruning", lambda *given: made.append(given) or Pruning(*given))
    student, teacher = random_student(1, dtype="float32"), random_teacher(2)
    data = {n: Encoded([np.array([2, 5 + i, 3])], [np.zeros(3, int)]) for i, n in enumerate(("internal", "prediction"))}
    options = Distill(stages=tuple(data), epochs=(1.0,), learning_rate=(1e-3,), prune=0.02)
    first, last = teaching.stages_of(options, teacher, student, data, Workers(1))
    (_, texts, below, _), none = made[0], first.begin(0)
    assert len(made) == 1 and texts is data["prediction"] and below == 0.02 and none is None
    assert isinstance(last.begin.__self__, Pruning) and last.project.__self__ is last.begin.__self__


@pytest.mark.parametrize("longest, most, length", [(1, 64, 8), (8, 64, 8), (9, 64, 16), (60, 64, 64), (41, 44, 44)])
def test_batches_of_a_gpu_have_few_lengths(longest, most, length):
    assert in_few_lengths(longest, most) == length


@pytest.mark.parametrize(
    "changes",
    [{"graphs": False}, {"dropout": 0.1}, {"device": "cpu"}],
)
def test_where_updates_are_no_graphs(monkeypatch, changes):
    monkeypatch.setattr(teaching, "can_record", lambda: True)
    student, options = random_student(1, dtype="float32"), Distill(device="cuda", output_dir="out")
    assert can_graph(options, student) and not can_graph(replace(options, **changes), student)
    assert not can_graph(options, random_student(1, dtype="float32", feedback=True))
    monkeypatch.setattr(teaching, "can_record", lambda: False)
    assert not can_graph(options, student)
    monkeypatch.setattr(teaching, "can_record", lambda: True)
    monkeypatch.setattr(teaching, "world", lambda: SimpleNamespace(size=2))
    assert not can_graph(options, student)


def test_graphs_share_the_places_of_large_gradients():
    large, small, rows = np.ones((65, 64)), np.ones(3), RowSum((4, 2))
    shared = {}
    first = in_places({"a": large, "b": small, "e": rows}, shared)
    assert first["a"] is large and first["b"] is small and first["e"] is rows and list(shared) == ["a"]
    other = np.full((65, 64), 2.0)
    second = in_places({"a": other, "b": small + 1}, shared)
    assert second["a"] is large and (large == 2).all() and (second["b"] == 2).all()


@pytest.mark.parametrize(
    "given, kind",
    [
        ({"mask": 0.2}, {"operators": "shift", "weights": "ternary"}),
        ({"stages": ("few-steps",), **FEW}, {"operators": "shift", "weights": "ternary", "spikes": "signed"}),
        ({"spike_penalty": (0.1,), "stages": ("prediction",), "labels": 1.0}, {"weights": "binary"}),
        ({"forward": "spikes", "time_steps": (4,), "drive": "instant", "operators": "float"}, {"leak": 0.9}),
        ({}, {"activation": "ann", "weights": "ternary", "activation_bits": 4}),
        ({}, {"spikes": "signed", "operators": "query,softmax"}),
    ],
    ids=["ternary, masked", "few steps", "binary, spike penalty", "leaky, simulated", "ann", "spiking queries"],
)
def test_updates_from_graphs_are_those_that_are_asked_for_launch_by_launch(cupy, monkeypatch, recwarn, given, kind):
    if not has_kernels(cupy) or not can_record():
        pytest.skip("no GPU that records a stream")
    rng, lengths = np.random.default_rng(0), (7, 8, 3, 10, 9, 4)
    ids, labels = [rng.integers(5, 40, n) for n in lengths], np.array([0, 1, 1, 0, 1, 0])
    data = Encoded(ids, [np.zeros(n, int) for n in lengths], labels)
    options = Distill(**({"device": "cuda", "output_dir": "out", "stages": ("internal",)} | given))
    masking = Masking(options.mask, MASK, (2, 3)) if options.mask else None
    found = []
    for shapes in (recorded.SHAPES, 0):
        monkeypatch.setattr(recorded, "SHAPES", shapes)
        student = random_student(1, device="cuda", dtype="float32", **kind)
        outputs, stage = (
            functools.partial(computed, random_teacher(2, device="cuda", dtype="float32")),
            options.stages[0],
        )
        learn = teaching.gradients(
            lambda outputs=outputs: outputs, student, options, stage, Workers(1), masking=masking
        )
        optimizer, said = optimizer_of(student.parameters()), []
        for step in range(16):
            index = np.arange(2) + 2 * (step % 3 > 0)  # of two lengths, as many as they have positions
            batch = collate(data, index, "cuda", in_few_lengths(int(data.lengths[index].max()), 10))
            terms, grads, notes = learn([batch], (0, 1, step, 0), Totals.of_lengths(data.lengths[index]))
            optimizer.update(grads, 1e-3, 1.0)
            said.append({n: float(v) for n, v in terms.items()} | {"rate": notes()["mean_rate"]})
        found.append((said, {n: to_host(p) for n, p in leaves(student.tree)}))
    (said, weights), (expected, known) = found
    assert said == expected
    assert all(np.array_equal(weights[n], known[n]) for n in known)
    assert not [w for w in recwarn if "no graph" in str(w.message)]
