"""A tokenizer is the one that transformers makes of the files, or it is refused: file and key are named."""

import json

import numpy as np
import pytest
from tiny import VOCABULARY

from nanospike import InputError
from nanospike.data.corpus import read_corpus
from nanospike.data.text import encode
from nanospike.data.tokenizer import frame, ids_end, load_tokenizer, save_tokenizer

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "t",
    "##e",
    "##a",
    "Tea",
    "tea",
    "Café",
    "café",
    "cafe",
    "文",
    "字",
]
TEXT = "Tea Café 文字"


def write(directory, words=WORDS, settings=None, **changes):
    """vocab.txt, with changes (of its parts) tokenizer.json too; and tokenizer_config.json if there are settings."""
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if changes:
        described = json.loads(load_tokenizer(directory).to_str())
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(described[key], dict) and "type" not in value:
                value = described[key] | value
            described[key] = value
        (directory / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    if settings is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def pieces(tokenizer, text=TEXT):
    return [tokenizer.id_to_token(i) for i in encode(tokenizer, [text], 64).ids[0]]


def described(key, value):
    return {"normalizer": {key: value}}


# tokenizer_config.json, changes of tokenizer.json, and what transformers 4.57 and 5.24 both make of TEXT
LOWER = ["tea", "cafe", "文", "字"]
CASES = {
    "json says false, settings true": ({"do_lower_case": True}, described("lowercase", False), LOWER),
    "json says false, a class": ({"tokenizer_class": "BertTokenizer"}, described("lowercase", False), LOWER),
    "json says false, no settings": (None, described("lowercase", False), LOWER),
    "json says true, settings false": (
        {"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, described("lowercase", True),
        ["Tea", "Café", "文", "字"],
    ),
    "a general class": (
        {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, described("lowercase", True), LOWER
    ),
    "accents": ({"strip_accents": False}, described("strip_accents", None), ["tea", "café", "文", "字"]),
    "characters": ({"tokenize_chinese_chars": False}, described("lowercase", True), ["tea", "cafe", "[UNK]"]),
    "vocabulary alone": ({"do_lower_case": False}, {}, ["Tea", "Café", "文", "字"]),
    "vocabulary alone, accents": ({"strip_accents": False}, {}, ["tea", "café", "文", "字"]),
    "vocabulary alone, characters": ({"tokenize_chinese_chars": False}, {}, ["tea", "cafe", "[UNK]"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*normalizer")
@pytest.mark.parametrize("name", CASES)
def test_case_accents_and_characters_are_those_of_transformers(name, tmp_path):
    settings, changes, expected = CASES[name]
    tokenizer = load_tokenizer(write(tmp_path, settings=settings, **changes))
    assert pieces(tokenizer) == ["[CLS]", *expected, "[SEP]"]


def test_what_is_taken_from_elsewhere_is_said(tmp_path):
    write(tmp_path, settings={"do_lower_case": True}, **described("lowercase", False))
    with pytest.warns(
        UserWarning, match="tokenizer.json: normalizer: tokenizer_config.json says .*do_lower_case true$"
    ):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.warns(UserWarning, match="tokenizer_config.json or BERT's default says otherwise"):
        load_tokenizer(tmp_path)


def test_other_special_tokens_and_added_ones(tmp_path):
    words = [w.replace("[CLS]", "<s>").replace("[UNK]", "<unk>") for w in WORDS]
    settings = {"cls_token": {"content": "<s>"}, "unk_token": "<unk>"}
    write(tmp_path, words, settings)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[NEW]": 15, "[SEP]": 3}))
    tokenizer = load_tokenizer(tmp_path, 16)
    assert pieces(tokenizer, "tea [NEW] zzz") == ["<s>", "tea", "[NEW]", "<unk>", "[SEP]"]
    assert ids_end(tokenizer) == 16 and frame(tokenizer) == (2, 3)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[NEW]": 20}))
    with pytest.raises(InputError, match="added_tokens.json: found ids \\[20\\], expected them to follow 14"):
        load_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    decoder = {"15": {"content": "[NEW]"}, "2": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": decoder}))
    assert pieces(load_tokenizer(tmp_path, 16), "[NEW]") == ["<s>", "[NEW]", "[SEP]"]


def beyond(words, at):
    """A vocabulary of as many words, the last of which has another id."""
    return {w: i for i, w in enumerate(words[:-1])} | {words[-1]: at}


def special(piece, number):
    return {"id": piece, "ids": [number], "tokens": [piece]}


CASED = {"word_tokenizer_type": "mecab", "tokenizer_class": "BertJapaneseTokenizer"}
REFUSED = {
    "no [CLS]": (None, {"post_processor": None}, "tokenizer.json: post_processor: puts nothing around a text"),
    "japanese": (CASED, {}, "tokenizer_config.json: tokenizer_class: BertJapaneseTokenizer splits words by a program"),
    "japanese with a file": (CASED, described("lowercase", True), "tokenizer_class: BertJapaneseTokenizer"),
    "another class": ({"tokenizer_class": "XLNetTokenizer"}, {}, "tokenizer_class: found XLNetTokenizer; vocab"),
    "case of another type": ({"do_lower_case": "no"}, {}, "_config.json: do_lower_case: found 'no', expected true"),
    "case as a number": ({"do_lower_case": 0}, described("lowercase", True), "do_lower_case: found 0"),
    "accents of another type": ({"strip_accents": []}, {}, r"strip_accents: found \[\], expected true, false or null"),
    "characters of another type": ({"tokenize_chinese_chars": None}, {}, "tokenize_chinese_chars: found None"),
    "an id beyond the embedding": (
        None, {"model": {"vocab": beyond(WORDS, 900)}}, "tokenizer.json: has an id 900, the model has 15 word pieces"
    ),
    "too many": (None, {"model": {"vocab": beyond([*WORDS, "x"], 15)}}, "has an id 15, the model has 15 word pieces"),
    "no [UNK]": (
        None, {"model": {"vocab": {w: i for i, w in enumerate(WORDS) if w != "[UNK]"}}, "added_tokens": []},
        r"tokenizer.json: model: no \[UNK\] in the vocabulary",
    ),
    "another [CLS]": ({"cls_token": "[MASK]"}, described("lowercase", True), r"cls_token: found \[MASK\], and \[CLS\]"),
    "an id of the template": (
        None,
        {"post_processor": {"special_tokens": {"[CLS]": special("[CLS]", 77), "[SEP]": special("[SEP]", 3)}}},
        "has an id 77",
    ),
    "no object": (None, {"model": 5}, "tokenizer.json: model: found 5, expected an object"),
    "an empty vocabulary": (None, {"model": {"vocab": {}}}, "tokenizer.json: "),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*normalizer")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_give_other_ids_is_refused(name, tmp_path):
    settings, changes, said = REFUSED[name]
    write(tmp_path, settings=settings, **changes)
    with pytest.raises(InputError, match=said) as caught:
        load_tokenizer(tmp_path, 15)
    assert str(tmp_path) in str(caught.value)


def unigram(directory):
    """A tokenizer of another kind, whose frame is <s> and </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [(c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz."]
    tokenizer = Tokenizer(models.Unigram([("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("the", -1.0), *letters], 2))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return load_tokenizer(directory)


def test_windows_of_a_corpus_have_the_tokenizer_s_own_frame(tmp_path):
    tokenizer = unigram(tmp_path)
    (tmp_path / "corpus.txt").write_text("the cat saw the dog\n")
    store = read_corpus([tmp_path / "corpus.txt"], tokenizer, 6).tokenised(tmp_path)
    rows = [ids.tolist() for ids, _ in store.examples(np.arange(len(store)))]
    assert all(row[0] == 0 and row[-1] == 1 for row in rows)
    body = [i for row in rows for i in row[1:-1]]
    assert body == tokenizer.encode("the cat saw the dog", add_special_tokens=False).ids


def test_a_text_that_is_not_unicode_is_refused(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path, VOCABULARY))
    for texts in (["fine", "\ud800 tea"], [("tea", "x\udfff")]):
        with pytest.raises(InputError, match="text [01]: half a surrogate pair at character"):
            encode(tokenizer, texts, 8)


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", "null", '{"model": null}', '{"model": {"type": "WordPiece"}}', "\x00" * 50, '{"model": {}}'],
)
def test_files_that_are_no_tokenizer(body, tmp_path):
    (tmp_path / "tokenizer.json").write_text(body)
    with pytest.raises(InputError, match="tokenizer.json: "):
        load_tokenizer(tmp_path)


@pytest.mark.filterwarnings("ignore:.*normalizer")
def test_the_tokenizer_that_is_saved_gives_the_same(tmp_path):
    write(tmp_path, settings={"do_lower_case": True}, **described("lowercase", False))
    tokenizer = load_tokenizer(tmp_path)
    (tmp_path / "out").mkdir()
    save_tokenizer(tokenizer, tmp_path / "out")
    assert pieces(load_tokenizer(tmp_path / "out")) == pieces(tokenizer)
