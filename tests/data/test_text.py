"""Tokenizing against Hugging Face's ids, cutting, windows, and batches that cover every example once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import VOCABULARY

from nanospike import InputError
from nanospike.data.text import (
    POOL,
    Encoded,
    Masking,
    batch_order,
    collate,
    encode,
    in_length_order,
    label_names,
    read_lines,
)
from nanospike.data.tokenizer import load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return load_tokenizer(tmp_path)


def pieces(tokenizer, ids):
    return [tokenizer.id_to_token(i) for i in ids]


# ---- tokenizers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    if not (GOLDEN / "tokens.json").exists():
        pytest.skip("tests/golden/tokens.json is absent: tools/make_golden.py writes it")
    return json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))


def same_as_golden(tokenizer, golden):
    texts = [row["text"] if row["pair"] is None else (row["text"], row["pair"]) for row in golden]
    encoded = encode(tokenizer, texts, max_length=10**6)
    for row, ids, types in zip(golden, encoded.ids, encoded.types, strict=True):
        assert ids.tolist() == row["input_ids"] and types.tolist() == row["token_type_ids"], row["text"]


def test_vocabulary_alone_gives_hugging_face_s_ids(golden, tmp_path):
    shutil.copy(GOLDEN / "tiny_bert" / "vocab.txt", tmp_path)
    same_as_golden(load_tokenizer(tmp_path), golden)


def test_tokenizer_json_gives_the_same_and_its_padding_and_truncation_are_neutralised(golden, tmp_path):
    tokenizer = load_tokenizer(GOLDEN / "tiny_bert")
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(6)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    stored = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert stored["padding"] and stored["truncation"]
    loaded = load_tokenizer(tmp_path)
    assert loaded.padding is None and loaded.truncation is None
    same_as_golden(loaded, golden)


def test_case_is_kept_where_the_settings_say_so(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nTea\ntea\ncafé\ncafe\n", encoding="utf-8")
    assert pieces(t := load_tokenizer(tmp_path), encode(t, ["Tea café"], 9).ids[0])[1:-1] == ["tea", "cafe"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert pieces(t := load_tokenizer(tmp_path), encode(t, ["Tea café"], 9).ids[0])[1:-1] == ["Tea", "café"]
    (tmp_path / "tokenizer_config.json").write_text('{"strip_accents": false}')
    assert pieces(t := load_tokenizer(tmp_path), encode(t, ["Tea café"], 9).ids[0])[1:-1] == ["tea", "café"]


@pytest.mark.parametrize(
    "files, said",
    [
        ({}, "found neither tokenizer.json nor vocab.txt"),
        ({"vocab.txt": b"the\n[UNK]\n[CLS]\n"}, r"vocab.txt: no \[SEP\]"),
        ({"vocab.txt": b""}, r"vocab.txt: no \[UNK\], \[CLS\], \[SEP\]"),
        ({"vocab.txt": b"[UNK]\n[CLS]\n[SEP]\ncaf\xe9\n"}, "vocab.txt: not UTF-8 text"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json: model: found None"),
        ({"tokenizer.json": b"not json"}, "tokenizer.json: not JSON"),
        ({"vocab.txt": b"[UNK]\n[CLS]\n[SEP]\n", "tokenizer_config.json": b"["}, "tokenizer_config.json: not JSON"),
    ],
)
def test_tokenizer_that_cannot_be_used(files, said, tmp_path):
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=f"{tmp_path}.*{said}") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


# ---- encoding -----------------------------------------------------------------------------------------------


def test_a_text_and_a_pair(tokenizer):
    encoded = encode(tokenizer, ["The tea !", ("the tea", "was hot .")], 16)
    assert pieces(tokenizer, encoded.ids[0]) == ["[CLS]", "the", "tea", "[UNK]", "[SEP]"]
    assert pieces(tokenizer, encoded.ids[1]) == ["[CLS]", "the", "tea", "[SEP]", "was", "hot", ".", "[SEP]"]
    assert encoded.types[0].tolist() == [0] * 5 and encoded.types[1].tolist() == [0] * 4 + [1] * 4
    assert encoded.labels is None and len(encoded) == 2
    assert encode(tokenizer, [["the tea", "was hot ."]], 16).ids[0].tolist() == encoded.ids[1].tolist()


def test_long_texts_are_cut_with_exactly_one_warning(tokenizer):
    texts = ["the tea", "the tea was hot and the cake was fresh", ("the tea was hot", "the cake"), "was hot . . . . ."]
    with pytest.warns(UserWarning, match="3 of 4 texts are longer than 6 word pieces and were cut") as seen:
        encoded = encode(tokenizer, texts, 6)
    assert len(seen) == 1
    assert [pieces(tokenizer, ids) for ids in encoded.ids] == [
        ["[CLS]", "the", "tea", "[SEP]"],
        ["[CLS]", "the", "tea", "was", "hot", "[SEP]"],
        ["[CLS]", "the", "tea", "[SEP]", "the", "[SEP]"],
        ["[CLS]", "was", "hot", ".", ".", "[SEP]"],
    ]
    assert encoded.types[2].tolist() == [0, 0, 0, 0, 1, 1]
    assert len(encode(tokenizer, texts[1:2], 16).ids[0]) == 11  # the cut is not remembered


def test_a_text_of_exactly_the_length_is_whole_and_silent(tokenizer):
    assert len(encode(tokenizer, ["the tea was hot"], 6).ids[0]) == 6


def test_no_texts_and_an_empty_text(tokenizer):
    assert len(encode(tokenizer, [], 8)) == 0
    assert pieces(tokenizer, encode(tokenizer, [""], 8).ids[0]) == ["[CLS]", "[SEP]"]


# ---- batches ------------------------------------------------------------------------------------------------

lengths_of = st.lists(st.integers(2, 40), min_size=1, max_size=300)


@given(lengths_of, st.integers(1, 9), st.integers(0, 2**31))
def test_each_example_exactly_once_per_epoch(lengths, batch_size, seed):
    batches = batch_order(np.array(lengths), batch_size, (seed, 3, 0))
    assert sorted(int(i) for b in batches for i in b) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size) and max(map(len, batches)) <= batch_size


@given(lengths_of, st.integers(1, 9), st.integers(0, 2**31))
def test_order_is_a_function_of_the_seed(lengths, batch_size, seed):
    a, b = (batch_order(np.array(lengths), batch_size, (seed, 3, 1)) for _ in range(2))
    assert [x.tolist() for x in a] == [x.tolist() for x in b]


def test_seed_stage_and_epoch_each_change_the_order():
    lengths = np.random.default_rng(0).integers(3, 40, 200)
    orders = [batch_order(lengths, 8, s) for s in ((1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0))]
    flat = {tuple(int(i) for b in order for i in b) for order in orders}
    assert len(flat) == 4


@given(lengths_of, st.integers(1, 9), st.integers(0, 2**31))
def test_batches_made_when_asked_for_are_those_of_the_whole_list(lengths, batch_size, seed):
    """The order that version 0.1 used: results made with it can be made again."""
    lengths, rng = np.array(lengths), np.random.default_rng(seed)
    order, batches = rng.permutation(len(lengths)), []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    expected = [batches[i].tolist() for i in rng.permutation(len(batches))]
    found = batch_order(lengths, batch_size, seed)
    assert [b.tolist() for b in found] == expected == [found[i].tolist() for i in range(len(found))]
    assert all(b.dtype == np.int64 for b in found)


def test_lengths_within_a_batch_are_similar():
    lengths = np.random.default_rng(1).integers(3, 128, 64 * POOL)
    padded = sum(len(b) * lengths[b].max() for b in batch_order(lengths, 8, 0))
    random = np.random.default_rng(2).permutation(lengths).reshape(-1, 8)
    assert padded < 1.05 * lengths.sum() < 1.6 * lengths.sum() < 8 * random.max(axis=1).sum()


def test_long_and_short_batches_are_mixed():
    lengths = np.arange(8 * POOL * 2)
    means = [lengths[b].mean() for b in batch_order(lengths, 8, 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_evaluation_goes_through_all_examples_by_length():
    encoded = Encoded([np.zeros(n, int) for n in (5, 2, 9, 2, 7)], [np.zeros(n, int) for n in (5, 2, 9, 2, 7)])
    assert [b.tolist() for b in in_length_order(encoded, 2)] == [[1, 3], [0, 4], [2]]


def test_collate_pads_and_masks():
    ids = [np.array([2, 7, 3]), np.array([2, 9, 8, 6, 3]), np.array([2, 3])]
    types = [np.array([0, 0, 0]), np.array([0, 0, 1, 1, 1]), np.array([0, 0])]
    batch = collate(Encoded(ids, types, np.array([1, 0, 1])), np.array([1, 0]))
    assert batch.input_ids.tolist() == [[2, 9, 8, 6, 3], [2, 7, 3, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [0, 1] and batch.index.tolist() == [1, 0]
    assert {a.dtype for a in (batch.input_ids, batch.attention_mask, batch.token_type_ids)} == {np.dtype(np.int64)}
    assert collate(Encoded(ids, types), [2]).labels is None
    wide = collate(Encoded(ids, types), np.array([1, 0]), length=9)
    assert wide.input_ids.shape == (2, 9) and wide.attention_mask.sum() == batch.attention_mask.sum()
    assert np.array_equal(wide.input_ids[:, : batch.input_ids.shape[1]], batch.input_ids)
    assert collate(Encoded(ids, types), np.array([1, 0]), length=1).input_ids.shape == batch.input_ids.shape


def test_masking_is_a_function_of_the_seed_and_the_example():
    rng = np.random.default_rng(0)
    ids = [np.r_[2, rng.integers(5, 30, n), 3] for n in rng.integers(1, 40, 200)]
    data = Encoded(ids, [np.zeros_like(i) for i in ids])
    masking = Masking(0.2, 4, (2, 3))
    index = np.arange(200)
    whole = collate(data, index)
    found = masking(whole, (0, 3, 7))
    changed = found.input_ids != whole.input_ids
    text = (whole.attention_mask == 1) & ~np.isin(whole.input_ids, (2, 3))
    assert (found.input_ids[changed] == 4).all() and not changed[~text].any()
    assert abs(changed[text].mean() - 0.2) < 4 * (0.2 * 0.8 / text.sum()) ** 0.5
    assert not (whole.input_ids == 4).any()  # the batch that came in is as it was
    for part in (index[:77], index[77:]):  # however it is split and padded
        some = masking(collate(data, part), (0, 3, 7))
        length = some.input_ids.shape[1]
        assert np.array_equal(some.input_ids, found.input_ids[part][:, :length])
    other = masking(whole, (0, 3, 8)).input_ids != whole.input_ids
    assert abs((changed & other)[text].mean() - 0.04) < 0.02


def test_a_tokenizer_without_a_mask_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\n")
    with pytest.raises(InputError, match="--mask: the teacher's tokenizer has no"):
        Masking.of(load_tokenizer(tmp_path), 0.1)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    assert Masking.of(load_tokenizer(tmp_path), 0.1) == Masking(0.1, 4, (2, 3))


# ---- files --------------------------------------------------------------------------------------------------


def test_lines_of_several_files(tmp_path):
    (tmp_path / "a").write_text("one\n\n  two  \n", encoding="utf-8")
    (tmp_path / "b").write_text("dreißig\u2028vier", encoding="utf-8")
    assert read_lines([tmp_path / "a", tmp_path / "b"]) == ["one", "two", "dreißig\u2028vier"]


@pytest.mark.parametrize(
    "body, said",
    [
        (b"", "no text in it, expected a paragraph a line"),
        (b"\n  \n\t\n", "no text in it"),
        (b"caf\xe9\n", "not UTF-8 text: .* at byte 3"),
        (None, "No such file or directory"),
    ],
)
def test_text_files_that_cannot_be_used(body, said, tmp_path):
    (tmp_path / "good").write_text("text\n")
    if body is not None:
        (tmp_path / "bad").write_bytes(body)
    with pytest.raises(InputError, match=f"{tmp_path}/bad: {said}"):
        read_lines([tmp_path / "good", tmp_path / "bad"])


def test_label_names(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    assert label_names(tmp_path) == {0: "no", 1: "yes"}
    (tmp_path / "config.json").write_text("{}")
    assert label_names(tmp_path) == {}


def test_lengths_are_counted_once():
    """At 67,000 examples a count takes 10 ms, every step of training asks for it, and nothing else can run then."""
    data = Encoded([np.zeros(3, np.int64), np.zeros(5, np.int64)], [])
    assert data.lengths.tolist() == [3, 5] and data.lengths is data.lengths
