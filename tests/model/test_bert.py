"""The teacher against an independent implementation: transformers on PyTorch, by tools/make_golden.py."""

import json
from dataclasses import replace

import numpy as np
import pytest
from check import check_vjp
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SHAPE, random_batch, random_teacher
from safetensors.numpy import load_file

import nanospike
from nanospike.arrays import ops
from nanospike.arrays.backend import to_device, to_host
from nanospike.arrays.tree import dense_gradients
from nanospike.data.text import encode
from nanospike.data.tokenizer import load_tokenizer
from nanospike.model import bert
from nanospike.model.loss import label_loss
from nanospike.model.teacher import run as run_teacher
from nanospike.model.teacher import with_classifier

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


@pytest.fixture(scope="module")
def golden(request):
    return load_file(request.path.parents[1] / "golden" / "tiny_bert.safetensors")


@pytest.fixture
def tiny_bert(request):
    return request.path.parents[1] / "golden" / "tiny_bert"


def inputs_of(golden, device="cpu"):
    return tuple(to_device(golden[n], device) for n in ("input_ids", "attention_mask", "token_type_ids"))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_outputs_match(dtype, golden, tiny_bert, xp, device):
    inputs = inputs_of(golden, device)
    out = nanospike.load_teacher(tiny_bert, device=device, dtype=dtype)(*inputs)
    found = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    found |= {f"attention_scores.{i}": s for i, s in enumerate(out.attention_scores)} | {"logits": out.logits}
    real = golden["attention_mask"].astype(bool)
    for name, array in found.items():
        assert type(array) is type(xp.zeros(1)) and array.dtype == dtype
        pick = (lambda a: a[real]) if name.startswith("hidden") else (lambda a: a)
        scale = np.abs(golden[name]).max()
        np.testing.assert_allclose(
            pick(to_host(array)) / scale, pick(golden[name]) / scale, atol=TOLERANCE[dtype], err_msg=name
        )


def test_gradients_match(golden, tiny_bert):
    teacher = nanospike.load_teacher(tiny_bert, dtype="float64")
    out, vjp = teacher.forward(inputs_of(golden))
    _, loss_vjp = label_loss(out.logits, golden["labels"])
    grads = {}
    vjp(None, None, loss_vjp(1.0), grads)
    found = dense_gradients(grads, teacher.parameters())
    expected = {n.removeprefix("grad.").removeprefix("bert."): g for n, g in golden.items() if n.startswith("grad.")}
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        np.testing.assert_allclose(found[name], g, rtol=1e-8, atol=1e-12, err_msg=name)


def test_the_real_minilm_matches(data_root, request):
    """The pretrained all-MiniLM-L6-v2, where it is at hand: values at fixed places of all hidden states and scores."""
    directory = data_root / "teachers" / "all-MiniLM-L6-v2"
    if not directory.exists():
        pytest.skip(f"{directory} is not there")
    records = json.loads((request.path.parents[1] / "golden" / "minilm.json").read_text())
    for dtype in TOLERANCE:
        teacher = nanospike.load_teacher(directory, dtype=dtype)
        for record in records:
            ids, types = (np.array([record[n]]) for n in ("input_ids", "token_type_ids"))
            out = teacher(ids, None, types)
            for name, arrays in (("hidden_states", out.hidden_states), ("attention_scores", out.attention_scores)):
                for array, wanted in zip(arrays, record[name]["layers"], strict=True):
                    values = array.reshape(-1)[record[name]["indices"]]
                    scale = max(1.0, np.abs(wanted["values"]).max())
                    np.testing.assert_allclose(
                        values / scale, np.array(wanted["values"]) / scale, atol=TOLERANCE[dtype]
                    )
                    np.testing.assert_allclose(np.linalg.norm(array), wanted["l2"], rtol=TOLERANCE[dtype])


def test_the_real_tokenizer_matches(data_root, request):
    directory = data_root / "teachers" / "all-MiniLM-L6-v2"
    if not directory.exists():
        pytest.skip(f"{directory} is not there")
    for record in json.loads((request.path.parents[1] / "golden" / "minilm.json").read_text()):
        text = record["text"] if record.get("pair") is None else (record["text"], record["pair"])
        found = encode(load_tokenizer(directory), [text], 512)
        assert found.ids[0].tolist() == record["input_ids"] and found.types[0].tolist() == record["token_type_ids"]


@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    labels=st.sampled_from([0, 3]),
    of=st.sampled_from([bert.ALL, bert.FIRST]),
)
@settings(max_examples=8)
def test_teacher_gradient(seed, lengths, labels, of):
    """Every parameter, with cotangents on all hidden states, all scores and the logits, under dropout."""
    teacher, inputs = random_teacher(seed, labels=labels), random_batch(seed, tuple(lengths))
    shapes = []

    def run(x, tree):
        fixed = np.random.default_rng(seed)
        drop = lambda a: ops.dropout(a, 0.2, fixed)  # noqa: E731
        out, vjp = run_teacher(tree, teacher.config, inputs, bert.Flow(drop=drop, drop_attention=drop), of=of)
        parts = [*out.hidden_states, *out.attention_scores] + ([out.logits] if labels else [])
        shapes[:] = [p.shape for p in parts]

        def pull(d, grads):
            cuts = np.cumsum([np.prod(s) for s in shapes])[:-1]
            pieces = [a.reshape(s) for a, s in zip(np.split(d, cuts), shapes, strict=True)]
            n = len(out.hidden_states)
            vjp(pieces[:n], pieces[n : 2 * n - 1], pieces[-1] if labels else None, grads)

        return np.concatenate([p.reshape(-1) for p in parts]), pull

    check_vjp(run, None, teacher.tree, np.random.default_rng(seed), rtol=2e-5)


@given(seed=st.integers(0, 2**31), length=st.integers(1, 4), heads=st.sampled_from([1, 2, 4]))
@settings(max_examples=12)
def test_encoder_gradient(seed, length, heads):
    """One encoder, by its input and its parameters, with neurons on every population."""
    from nanospike.model.neuron import rate

    rng = np.random.default_rng(seed)
    p = random_teacher(seed).tree["encoder"]["layer"][0]
    bias = ops.mask_bias(np.ones((2, length)), np.float64)
    config, flow = replace(SHAPE, num_attention_heads=heads), bert.Flow(fire=lambda name, current: rate(current, 2.0))

    def run(x, tree):
        y, _, vjp = bert.encoder(x, tree, config, bias, flow, "encoder.0")
        return y, lambda d, grads=None: vjp(d, None, grads)

    check_vjp(run, rng.uniform(0, 1, (2, length, 8)), p, rng, rtol=2e-5)


def test_a_layer_without_a_cotangent_has_one_of_zeros():
    """The last encoder's too: a loss may look at others only."""
    teacher, (ids, mask, _) = random_teacher(3), random_batch(3)
    current, layers = teacher.tree["embeddings"]["word_embeddings"]["weight"][ids], teacher.tree["encoder"]["layer"]
    trace = bert.encoders(current, layers, teacher.config, mask, bert.Flow(), differentiable=True)
    given = [np.random.default_rng(i).standard_normal(h.shape) for i, h in enumerate(trace.hidden_states)]
    for missing in range(len(given)):
        none, zeros = ([g if i != missing else other for i, g in enumerate(given)] for other in (None, given[0] * 0))
        np.testing.assert_allclose(trace.vjp(none), trace.vjp(zeros), rtol=1e-12)


def test_a_fresh_classifier_is_as_berts_are_begun():
    """Normal numbers of initializer_range, biases of 0; of another seed others."""
    bare = random_teacher(0, labels=0, hidden_size=64, initializer_range=0.05)
    first, again, other = (with_classifier(bare, 500, seed).parameters() for seed in (1, 1, 2))
    weight = first["classifier.weight"]
    assert weight.shape == (500, 64) and weight.std() == pytest.approx(0.05, rel=0.02) and abs(weight.mean()) < 1e-3
    assert not first["classifier.bias"].any()
    assert np.array_equal(weight, again["classifier.weight"])
    assert not np.array_equal(weight, other["classifier.weight"])


def test_some_tokens_of_the_last_encoder_are_what_they_are_among_all():
    teacher, inputs = random_teacher(2), random_batch(2)
    (all_of_it, _), (some, _) = (teacher.forward(inputs, of=of) for of in (bert.ALL, bert.FIRST))
    np.testing.assert_allclose(some.hidden_states[-1], all_of_it.hidden_states[-1][:, :1], rtol=1e-12)
    np.testing.assert_allclose(some.attention_scores[-1], all_of_it.attention_scores[-1][:, :, :1], rtol=1e-12)
    np.testing.assert_allclose(some.logits, all_of_it.logits, rtol=1e-12)
    assert np.array_equal(some.hidden_states[1], all_of_it.hidden_states[1])


def test_padding_changes_nothing(tiny_bert):
    teacher = nanospike.load_teacher(tiny_bert, dtype="float64")
    ids, mask, types = random_batch(0, (5, 3), vocabulary=100)
    whole = teacher(ids, mask, types)
    alone = teacher(ids[1:, :3], mask[1:, :3], types[1:, :3])
    np.testing.assert_allclose(alone.logits[0], whole.logits[1], rtol=1e-12)
    np.testing.assert_allclose(alone.hidden_states[2][0], whole.hidden_states[2][1, :3], rtol=1e-11, atol=1e-13)
