"""A corpus on disk: the same windows as of text in memory, made once, never half, and read without being loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import CORPUS, VOCABULARY, contents

import nanospike
from nanospike import InputError
from nanospike.data import corpus
from nanospike.data.corpus import TokenStore, read_corpus
from nanospike.data.text import Encoded, collate, read_lines
from nanospike.data.tokenizer import load_tokenizer
from nanospike.training.loop import Stage
from nanospike.training.options import TrainingOptions

STEPS = 60
PARAGRAPHS = [
    "the tea was hot and the cake was fresh .",
    "soup",
    "",
    " \t",
    "we laughed all evening and want to go back .",
]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return load_tokenizer(tmp_path)


def in_memory(tokenizer, paths, length):
    """Lists of ids: the windows, written down as briefly as it goes."""
    first, last = (tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]"))
    lines = [tokenizer.encode(text, add_special_tokens=False).ids for text in read_lines(paths)]
    return [[first, *ids[i : i + length - 2], last] for ids in lines for i in range(0, len(ids), length - 2)]


def stored(tokenizer, paths, length, where):
    return read_corpus(paths, tokenizer, length).tokenised(where)


def ids_of(store):
    return [ids.tolist() for ids, _ in store.examples(range(len(store)))]


def texts(tmp_path, *bodies):
    paths = [tmp_path / f"text{i}" for i in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return paths


# ---- windows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 5, 16, 10**5])
def test_windows_cut_nothing_off(length, tokenizer, tmp_path):
    paths = texts(tmp_path, "\n".join(PARAGRAPHS), CORPUS, "the tea\r\nwas hot\rthe end\n\n")
    store = stored(tokenizer, paths, length, tmp_path / "cache")
    whole = [i for text in read_lines(paths) for i in tokenizer.encode(text, add_special_tokens=False).ids]
    assert [i for ids in ids_of(store) for i in ids[1:-1]] == whole
    assert ids_of(store) == in_memory(tokenizer, paths, length)
    assert store.lengths.tolist() == [len(ids) for ids in ids_of(store)] and len(store) == len(store.lengths)


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 64, 10**4])
@pytest.mark.parametrize("length", [4, 9])
def test_a_line_that_is_read_in_parts_gives_the_windows_of_the_line(chunk, length, tokenizer, tmp_path, monkeypatch):
    lines = ["the tea was hot " * 9, "soup", "  ", "   was it  fresh  " * 3, "x"]
    paths = texts(tmp_path, "\n".join(lines), " the cake\n\n" * 5 + "was fresh and", "hot tea")
    monkeypatch.setattr(corpus, "CHUNK", max(chunk, 16) if chunk > 2 else chunk)
    if chunk <= 7:  # shorter than a word: words are cut, but no character is lost and no line is glued to the next
        found = [text for path in paths for text, _ in corpus.parts(path)]
        assert "".join("".join(found).split()) == "".join("".join(p.read_text() for p in paths).split())
        ends = sum(ends for path in paths for _, ends in corpus.parts(path))
        assert ends == len(read_lines(paths))
    else:
        assert ids_of(stored(tokenizer, paths, length, tmp_path / "cache")) == in_memory(tokenizer, paths, length)


def test_chunks_are_of_so_many_characters_or_lines(tmp_path, monkeypatch):
    """53 + 53 + 53 < 160 <= 4 * 53, and 160 = 4 * 40; of lines of one character, a sixteenth of 160."""
    monkeypatch.setattr(corpus, "CHUNK", 160)
    (tmp_path / "long.txt").write_text(("x" * 53 + "\n") * 10)
    (tmp_path / "short.txt").write_text("y\n" * 23)
    assert [len(some) for some in corpus.chunks([tmp_path / "long.txt"])] == [4, 4, 2]
    assert [len(some) for some in corpus.chunks([tmp_path / "short.txt"])] == [10, 10, 3]
    (tmp_path / "even.txt").write_text(("z" * 40 + "\n") * 8)
    assert [len(some) for some in corpus.chunks([tmp_path / "even.txt"])] == [4, 4]
    both = list(corpus.chunks([tmp_path / "long.txt", tmp_path / "short.txt"]))
    assert [len(some) for some in both] == [4, 4, 10, 10, 5] and both[2][:3] == [("x" * 53, True)] * 2 + [("y", True)]


def test_a_batch_of_the_store_is_that_of_lists(tokenizer, tmp_path):
    paths = texts(tmp_path, CORPUS)
    store = stored(tokenizer, paths, 16, tmp_path / "cache")
    windows = [np.array(ids) for ids in in_memory(tokenizer, paths, 16)]
    expected, found = (collate(d, np.array([4, 0, 2])) for d in (Encoded(windows, [w * 0 for w in windows]), store))
    for name in ("input_ids", "attention_mask", "token_type_ids", "index"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype == np.int64 and np.array_equal(a, b), name
    assert found.labels is None


def test_a_vocabulary_beyond_16_bits(tmp_path):
    pieces = [*VOCABULARY, *(f"w{i}" for i in range(2**16))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    store = stored(load_tokenizer(tmp_path), texts(tmp_path, "w65535 tea w3"), 8, tmp_path / "cache")
    assert store.tokens.dtype == np.uint32 and ids_of(store)[0][1] == pieces.index("w65535")


# ---- order --------------------------------------------------------------------------------------------------


def test_the_order_is_a_function_of_seed_and_step(tokenizer, tmp_path):
    store = stored(tokenizer, texts(tmp_path, CORPUS * 4), 6, tmp_path / "cache")
    windows = [np.array(ids) for ids in ids_of(store)]

    def batches(data, start, seed=3):
        options = TrainingOptions(output_dir=tmp_path, batch_size=4, seed=seed)
        found = Stage("general", data, None, 3.0, 0.1).batches(options, start)
        return [next(found).tolist() for _ in range(STEPS)]

    assert len(store) < 4 * STEPS  # more than an epoch
    whole = batches(store, 0)
    assert whole == batches(Encoded(windows, [w * 0 for w in windows]), 0) != batches(store, 0, seed=4)
    for step in (1, 17, 59):
        assert batches(store, step)[: STEPS - step] == whole[step:]


# ---- made once, and never half ------------------------------------------------------------------------------


def test_it_is_made_once_and_again_for_other_text_lengths_and_tokenizers(tokenizer, tmp_path, monkeypatch):
    made, write = [], corpus.write_store
    monkeypatch.setattr(corpus, "write_store", lambda *args: made.append(1) or write(*args))
    paths, cache = texts(tmp_path, CORPUS, "the tea"), tmp_path / "cache"
    for _ in range(2):
        stored(tokenizer, paths, 16, cache)
    (tmp_path / "moved").write_bytes(paths[0].read_bytes())
    stored(tokenizer, [tmp_path / "moved", paths[1]], 16, cache)  # what counts is the text
    assert len(made) == 1
    stored(tokenizer, paths[::-1], 16, cache)
    stored(tokenizer, paths, 15, cache)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[:-1]) + "\n", encoding="utf-8")
    stored(load_tokenizer(tmp_path), paths, 16, cache)
    paths[1].write_text("the tee")
    stored(tokenizer, paths, 16, cache)
    assert len(made) == 5 == len(list(cache.iterdir()))


DAMAGE = {
    "cut short": lambda p: (p / "tokens").write_bytes((p / "tokens").read_bytes()[:-2]),
    "another byte": lambda p: (p / "tokens").write_bytes(b"\x01" + (p / "tokens").read_bytes()[1:]),
    "a file is gone": lambda p: (p / "offsets").unlink(),
    "no listing": lambda p: (p / "complete.json").unlink(),
    "listing cut short": lambda p: (p / "complete.json").write_text("{"),
    "no kinds": lambda p: (p / "kinds.json").unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_store_is_made_again_with_one_line(name, tokenizer, tmp_path, capsys):
    paths = texts(tmp_path, CORPUS)
    expected = ids_of(stored(tokenizer, paths, 16, tmp_path / "cache"))
    (place,) = (tmp_path / "cache").iterdir()
    before = contents(place)
    DAMAGE[name](place)
    assert capsys.readouterr().err == ""
    assert ids_of(stored(tokenizer, paths, 16, tmp_path / "cache")) == expected
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(place) in said and "made again" in said
    assert contents(place) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_was_interrupted_leaves_nothing(error, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK", 32)
    paths, whole, calls = texts(tmp_path, CORPUS), corpus.windows, []

    def stopping(*args):
        for found in whole(*args):
            calls.append(1)
            if len(calls) == 3:
                raise error
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "windows", stopping)
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            stored(tokenizer, paths, 16, tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}
    assert ids_of(stored(tokenizer, paths, 16, tmp_path / "cache")) == in_memory(tokenizer, paths, 16)


# ---- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, said",
    [
        (b"", "no text in it, expected a paragraph a line"),
        (b"\n  \n\t\n", "no text in it"),
        (b"caf\xe9\n", "not UTF-8 text: .* at byte 3"),
        (b"tea\n" * 9 + "é".encode()[:1], "not UTF-8 text: .* at byte 36"),
        (b"tea\n" * 8 + "é".encode() * 20 + b"\xff", "not UTF-8 text: .* at byte 72"),
        (None, "No such file or directory"),
        ("folder", "not a plain file"),
        ("pipe", "not a plain file; a corpus is read more than once"),
    ],
)
def test_text_files_that_cannot_be_used(body, said, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK", 7)  # characters cut in two
    bad = tmp_path / "bad"
    {"folder": bad.mkdir, "pipe": lambda: os.mkfifo(bad), None: lambda: None}.get(body, lambda: bad.write_bytes(body))()
    with pytest.raises(InputError, match=f"{bad}: {said}"):
        read_corpus([*texts(tmp_path, "text"), bad], tokenizer, 16)


def test_text_without_word_pieces(tokenizer, tmp_path):
    with pytest.raises(InputError, match="text0: the tokenizer finds no word pieces"):
        stored(tokenizer, texts(tmp_path, "\x01\x02\n"), 16, tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


# ---- memory -------------------------------------------------------------------------------------------------

READ = """
import json, resource, sys
import numpy as np
from pathlib import Path
from nanospike.data.corpus import TokenStore
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
store, before = TokenStore(Path(sys.argv[1])), peak()
total = sum(len(ids) for i in range(0, len(store), 50) for ids, _ in store.examples(np.arange(i, i + 50)))
print(json.dumps([before, peak(), total]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back, and counted in KiB, on Linux")
def test_reading_all_of_a_store_does_not_hold_it(tmp_path):
    """100 MB of tokens, every one of them read."""
    n = 50_000
    (tmp_path / "kinds.json").write_text(json.dumps({"tokens": "<u2", "lengths": "<u2", "offsets": "<i8"}))
    np.ones(1000 * n, np.uint16).tofile(tmp_path / "tokens")
    np.full(n, 1000, np.uint16).tofile(tmp_path / "lengths")
    np.arange(0, 1000 * n + 1, 1000).tofile(tmp_path / "offsets")
    environment = os.environ | {"PYTHONPATH": str(Path(nanospike.__file__).resolve().parent.parent)}
    code = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, env=environment, check=True)
    before, after, total = json.loads(code.stdout)
    assert total == 1000 * n and after - before < 20
    assert len(TokenStore(tmp_path)) == n
