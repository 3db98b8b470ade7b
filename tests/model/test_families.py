"""BERT's family against transformers on PyTorch, by tools/make_golden_families.py, and what a student takes over."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from models import SHAPE
from safetensors.numpy import load_file
from tiny import edit_json, run, write_sst2

import nanospike
from nanospike import distill, finetune
from nanospike.arrays import ops
from nanospike.arrays.tree import dense_gradients
from nanospike.config.errors import InputError
from nanospike.config.models import ACTIVATIONS
from nanospike.data.corpus import windows
from nanospike.data.text import Masking, collate, encode
from nanospike.data.tokenizer import frame, load_tokenizer
from nanospike.model import bert
from nanospike.model.families import FAMILIES, student_embeddings, student_shape
from nanospike.model.loss import label_loss
from nanospike.model.teacher import with_classifier

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "families"
NAMES = ("distilbert", "roberta", "xlm-roberta", "electra")
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}


def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def inputs_of(vectors):
    types = vectors.get("token_type_ids", np.zeros_like(vectors["input_ids"]))
    return vectors["input_ids"], vectors["attention_mask"], types


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_match(name, dtype):
    vectors = golden(name)
    out = nanospike.load_teacher(GOLDEN / name, dtype=dtype)(*inputs_of(vectors))
    found = {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    found |= {f"attention_scores.{i}": s for i, s in enumerate(out.attention_scores)} | {"logits": out.logits}
    assert len(found) == 6
    real = vectors["attention_mask"].astype(bool)
    for key, array in found.items():
        expected = vectors[key]
        if key.startswith("hidden"):
            array, expected = array[real], expected[real]
        assert array.dtype == dtype
        atol = TOLERANCE[dtype] * np.abs(expected).max()
        np.testing.assert_allclose(array, expected, rtol=0, atol=atol, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match(name):
    """Of every parameter, under the names of the file."""
    vectors, teacher = golden(name), nanospike.load_teacher(GOLDEN / name, dtype="float64")
    out, vjp = teacher.forward(inputs_of(vectors))
    grads = {}
    vjp(None, None, label_loss(out.logits, vectors["labels"])[1](1.0), grads)
    found = dense_gradients(grads, teacher.parameters())
    theirs = teacher.family.file_names(found)
    expected = {n.removeprefix("grad."): v for n, v in vectors.items() if n.startswith("grad.")}
    assert set(theirs.values()) == expected.keys() and len(expected) > 35
    for ours, gradient in found.items():
        wanted = expected[theirs[ours]]
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-10 * max(1, abs(wanted).max()), err_msg=ours)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_teacher_has_the_names_of_its_family(name, tmp_path):
    teacher = nanospike.load_teacher(GOLDEN / name)
    teacher.save(tmp_path)
    before, after = (load_file(p / "model.safetensors") for p in (GOLDEN / name, tmp_path))
    assert before.keys() == after.keys() and all(np.array_equal(before[n], after[n]) for n in before)
    configs = [json.loads((p / "config.json").read_text()) for p in (GOLDEN / name, tmp_path)]
    assert {k: configs[1].get(k) for k in configs[0]} == configs[0]
    again = nanospike.load_teacher(tmp_path)
    assert again.config == teacher.config and again.family is teacher.family


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_without_a_head_gets_the_one_of_its_family(name, tmp_path):
    teacher = nanospike.load_teacher(GOLDEN / name)
    for part in ("pooler", "classifier"):
        teacher.tree.pop(part)
    teacher.save(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert not any(n.startswith(FAMILIES[name].prefix) for n in names)  # a bare model's have no prefix
    bare = nanospike.load_teacher(tmp_path)
    assert bare(*inputs_of(golden(name))).logits is None
    headed = with_classifier(bare, 2, seed=0)
    headed.save(tmp_path / "headed")
    expected = {n: t.shape for n, t in load_file(GOLDEN / name / "model.safetensors").items()}
    found = {n: t.shape for n, t in load_file(tmp_path / "headed" / "model.safetensors").items()}
    assert found.keys() == expected.keys()
    assert nanospike.load_teacher(tmp_path / "headed")(*inputs_of(golden(name))).logits.shape == (3, 2)


def test_roberta_s_own_pooler_is_not_taken_for_its_head(tmp_path):
    teacher = nanospike.load_teacher(GOLDEN / "roberta")
    teacher.tree.pop("classifier")  # what is left is named classifier.dense
    teacher.tree.pop("pooler")
    teacher.save(tmp_path)
    path = tmp_path / "model.safetensors"
    from safetensors.numpy import save_file

    square = {"pooler.dense.weight": np.ones((16, 16), "f"), "pooler.dense.bias": np.ones(16, "f")}
    save_file(load_file(path) | square, path, metadata={"format": "pt"})
    loaded = nanospike.load_teacher(tmp_path)  # -W error: without a warning
    assert "pooler" not in loaded.tree


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_an_answer_does_not_depend_on_what_an_example_is_padded_with(name):
    vectors = golden(name)
    ids, mask, types = inputs_of(vectors)
    teacher = nanospike.load_teacher(GOLDEN / name, dtype="float64")
    with_zeros = teacher(ids * mask, mask, types).logits  # 0 is <s>, not <pad>
    np.testing.assert_allclose(with_zeros, vectors["logits"], rtol=0, atol=1e-12)
    alone = teacher(ids[1:2, :4], mask[1:2, :4], types[1:2, :4]).logits
    np.testing.assert_allclose(alone, vectors["logits"][1:2], rtol=0, atol=1e-12)


def test_usable_positions_are_those_behind_the_padding():
    teacher = nanospike.load_teacher(GOLDEN / "roberta")
    assert (teacher.config.max_position_embeddings, teacher.config.usable_positions) == (14, 12)
    assert teacher(np.full((1, 12), 7)).logits.shape == (1, 3)
    with pytest.raises(InputError, match="13 tokens, the model has 12 positions"):
        teacher(np.full((1, 13), 7))


def test_distilbert_ignores_segments():
    teacher, (ids, mask, types) = nanospike.load_teacher(GOLDEN / "distilbert"), inputs_of(golden("distilbert"))
    assert np.array_equal(teacher(ids, mask, types).logits, teacher(ids, mask, 1 - types).logits)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"model_type": "gpt2"}, "model_type: found 'gpt2', expected one of bert, distilbert, roberta"),
        ({"pad_token_id": "x"}, "pad_token_id: found 'x'"),
        ({"pad_token_id": 13}, "max_position_embeddings: found 14, of which the first 14 are for padding"),
        ({"hidden_act": "mish"}, "hidden_act: found 'mish', expected one of gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: found 'relative_key'"),
        ({"max_position_embeddings": 15}, "roberta: mis-shaped tensors: embeddings.position_embeddings.weight"),
        ({"id2label": {"0": "a"}, "num_labels": None}, "classifier.weight has 3 labels, config.json says 1"),
    ],
)
def test_what_is_wrong_is_named(change, said, tmp_path):
    directory = tmp_path / "roberta"
    nanospike.load_teacher(GOLDEN / "roberta").save(directory)
    edit_json(directory / "config.json", **change)
    with pytest.raises(InputError, match=said.replace("(", "\\(")):
        nanospike.load_teacher(directory)


def test_every_activation_has_its_op():
    assert set(ACTIVATIONS) == bert.ACTIVATIONS.keys() - {"tanh"}
    assert bert.ACTIVATIONS["gelu_new"] is ops.gelu_tanh and bert.ACTIVATIONS["gelu_python"] is ops.gelu


# ---- tokenizers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_tokenizers_give_the_ids_of_the_slow_ones(name):
    rows = json.loads((GOLDEN / "tokens.json").read_text())[name]
    texts = [r["text"] if r["pair"] is None else (r["text"], r["pair"]) for r in rows]
    found = encode(load_tokenizer(GOLDEN / name), texts, 99)
    for row, ids, types in zip(rows, found.ids, found.types, strict=True):
        assert ids.tolist() == row["input_ids"], row
        assert not types.any()


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_masks_and_windows_use_the_tokens_of_the_family(name, tmp_path):
    tokenizer = load_tokenizer(GOLDEN / name)
    assert frame(tokenizer) == (0, 2)
    masking = Masking.of(tokenizer, 0.5)
    assert masking.piece == tokenizer.token_to_id("<mask>") and masking.special == (0, 2)
    data = encode(tokenizer, ["the movie was very good . is it good ? yes ."], 40)
    hidden = masking(collate(data, [0]), (1, 2)).input_ids[0]
    assert (hidden[0], hidden[-1]) == (0, 2) and 0 < (hidden == masking.piece).sum() < len(hidden) - 2
    (tmp_path / "corpus.txt").write_text("the movie was very good . is it good ? yes .\n")
    (found,) = windows(tokenizer, [tmp_path / "corpus.txt"], 6)
    assert len(found) > 2 and all((w[0], w[-1]) == (0, 2) and len(w) <= 6 for w in found)


def test_half_a_byte_level_tokenizer_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"<s>": 0}')
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(InputError, match="vocab.json: no <pad>, </s>"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}')
    (tmp_path / "merges.txt").write_text("a b c d\n")
    with pytest.raises(InputError, match="merges.txt: not a tokenizer"):
        load_tokenizer(tmp_path)


# ---- what a student takes over ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_student_without_spikes_begins_as_its_teacher(name):
    """An ann student of the same sizes has the teacher's hidden states; ELECTRA's only beyond the embedding's norm."""
    teacher, (ids, mask, types) = nanospike.load_teacher(GOLDEN / name, dtype="float64"), inputs_of(golden(name))
    config = student_shape(teacher.config) | {"activation": "ann", "num_labels": 3}
    student = nanospike.init_student(config, teacher, dtype="float64")
    assert student.config.max_position_embeddings == teacher.config.usable_positions
    theirs, ours = teacher(ids, mask, types).hidden_states, student.equilibrium(ids, mask, types).hidden_states
    real = mask.astype(bool)
    if name != "electra":
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a[real], b[real], rtol=0, atol=1e-10)
        return
    spread = [h[0][real].std() for h in (ours, theirs)]
    assert 0.5 < spread[0] / spread[1] < 2  # currents of the same size
    similar = np.corrcoef(ours[0][real].ravel(), theirs[0][real].ravel())[0, 1]
    assert 0.8 < similar < 0.9999, similar


def test_electra_s_rows_are_projected_with_the_gain_of_its_norm():
    teacher = nanospike.load_teacher(GOLDEN / "electra", dtype="float64")
    p, tensors = teacher.parameters(), student_embeddings(teacher)
    row = p["embeddings.word_embeddings.weight"][7] * p["embeddings.LayerNorm.weight"]
    expected = p["embeddings_project.weight"] @ row
    np.testing.assert_allclose(tensors["embeddings.word_embeddings.weight"][7], expected, rtol=1e-12)
    shift = p["embeddings_project.weight"] @ p["embeddings.LayerNorm.bias"] + p["embeddings_project.bias"]
    np.testing.assert_allclose(tensors["embeddings.LayerNorm.bias"], shift, rtol=1e-12)


# ---- the commands -------------------------------------------------------------------------------------------


def test_a_roberta_is_taught_a_task_and_teaches_a_student(tmp_path, capsys):
    """With a corpus and masks, up to the held classifier, which is given a pair without segments."""
    where = ("--task", "sst-2", "--data-dir", write_sst2(tmp_path / "data"), "--batch-size", 8, "--max-steps", 3)
    argv = ("--model", GOLDEN / "roberta", *where, "--output-dir", tmp_path / "teacher")
    assert run(finetune.main, *argv) == 0
    (tmp_path / "corpus.txt").write_text("the movie was very good . is it good ? yes .\n" * 3)
    argv = ("--teacher", tmp_path / "teacher", *where, "--output-dir", tmp_path / "student", "--time-steps", "2")
    more = ("--corpus", tmp_path / "corpus.txt", "--stages", "general,prediction", "--mask", 0.2)
    assert run(distill.main, *argv, *more) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (config["max_position_embeddings"], config["type_vocab_size"]) == (12, 1)
    assert config["hidden_act"] == "gelu_new" and config["model_type"] == "nanospike"
    answers = nanospike.Classifier(tmp_path / "student")(["the movie was good.", ("is it?", "yes.")])
    assert all(a["label"] in ("negative", "positive") for a in answers)


def test_what_a_config_json_means_where_it_is_silent():
    """As transformers' configurations have it: ElectraConfig.embedding_size, RobertaConfig.pad_token_id."""
    raw = {n: v for n, v in asdict(SHAPE).items() if n not in ("embedding_size", "pad_token_id")}
    electra = FAMILIES["electra"].config(raw, 2, "config.json")
    assert electra.embedding_size == 128 and electra.first_position == 0
    roberta = FAMILIES["roberta"].config(raw, 2, "config.json")
    assert roberta.first_position == 2 and FAMILIES["bert"].config(raw, 2, "config.json").first_position == 0
