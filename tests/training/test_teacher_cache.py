"""The teacher's activations from disk are those it would compute, but for their rounding, and training uses them."""

import json
import os
import shutil

import numpy as np
import pytest
from models import random_teacher
from tiny import CORPUS, contents, interrupt, log_lines, run, write_sst2, write_teacher

from nanospike import InputError, distill
from nanospike.data.text import Encoded, batch_order, collate
from nanospike.files import cache
from nanospike.files.cache import size
from nanospike.model import loss
from nanospike.training import teacher_cache
from nanospike.training.teacher_cache import Parts, computed, parts_of, shards, targets

ALL = Parts((0, 1, 2), (0, 1), True)
LIMIT = 10**9


def some_data(seed=0, n=90, vocabulary=40):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, vocabulary, rng.integers(2, 11)) for _ in range(n)]
    return Encoded(ids, [np.sort(rng.integers(0, 2, len(i))) for i in ids])


@pytest.fixture
def teacher():
    return random_teacher(1, 3, dtype="float32")


def made(monkeypatch):
    """A list that grows with every time that activations are written."""
    calls, shards = [], teacher_cache.shards
    monkeypatch.setattr(teacher_cache, "shards", lambda *args: calls.append(1) or shards(*args))
    return calls


def forwards(monkeypatch):
    calls, forward = [], teacher_cache.computed
    monkeypatch.setattr(teacher_cache, "computed", lambda *args, **how: calls.append(1) or forward(*args, **how))
    return calls


def close(found, expected, mask):
    """Within float16 on real tokens, and 0 elsewhere."""
    real = np.broadcast_to(mask, expected.shape)
    np.testing.assert_allclose(found[real], expected[real], rtol=2**-11 + 1e-5, atol=1e-5)
    assert not found[~real].any() and found.dtype == expected.dtype and found.shape == expected.shape


# ---- what is read is what the teacher computes --------------------------------------------------------------


@pytest.mark.parametrize("shard, files", [(1, 10**9), (1, 2), (2**25, 256)])
@pytest.mark.parametrize("parts", [ALL, Parts((0, 2), (1,), False), Parts((), (0, 1), False), Parts((), (), True)])
def test_activations_within_their_rounding(parts, shard, files, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD", shard)
    monkeypatch.setattr(teacher_cache, "FILES", files)
    data = some_data()
    source = targets(teacher, data, parts, tmp_path, LIMIT)()
    calls = None
    for index in batch_order(data.lengths, 7, 5):
        batch = collate(data, index)
        expected = computed(teacher, batch)
        found = source(batch)
        calls = forwards(monkeypatch) if calls is None else calls
        real = batch.attention_mask != 0
        assert (found.hidden_states is None) == (not parts.hidden) and (found.logits is None) != parts.logits
        assert (found.attention_scores is None) == (not parts.attention)
        for i, h in enumerate(found.hidden_states or ()):
            assert (h is None) == (i not in parts.hidden)
            if h is not None:
                close(h, expected.hidden_states[i], real[:, :, None])
        for i, a in enumerate(found.attention_scores or ()):
            assert (a is None) == (i not in parts.attention)
            if a is not None:
                close(a, expected.attention_scores[i], (real[:, :, None] & real[:, None, :])[:, None])
        if parts.logits:
            np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    assert not calls  # after the first batch the teacher is not asked
    (place,) = tmp_path.iterdir()
    found = len(list(place.glob("*.safetensors")))
    assert found == 3 if files > 256 else 1 <= found <= 2  # 3 forward passes
    assert size(place) <= parts.nbytes(teacher.config, data.lengths)


def test_bytes_on_disk_by_hand(teacher):
    """Two texts of 3 and 5 pieces: 2 bytes for each number of a state and a score, 4 for a logit, 16 for a text."""
    config, lengths = teacher.config, np.array([3, 5], np.uint16)
    states, scores = 2 * 8 * config.hidden_size * 3, 2 * (9 + 25) * config.num_attention_heads * 2
    listing = 2 * 1024
    assert Parts((0, 1, 2), (0, 1), False).nbytes(config, lengths) == 32 + states + scores + listing
    assert Parts((), (), True).nbytes(config, lengths) == 32 + 2 * 4 * config.num_labels + listing


def test_the_same_targets_in_every_order_bit_for_bit(teacher, tmp_path):
    data = some_data()
    source = targets(teacher, data, ALL, tmp_path, LIMIT)()
    many, alone = source(collate(data, np.arange(30))), source(collate(data, np.array([17])))
    n = len(data.ids[17])
    assert np.array_equal(many.hidden_states[1][17, :n], alone.hidden_states[1][0])
    assert np.array_equal(many.attention_scores[1][17, :, :n, :n], alone.attention_scores[1][0])
    assert np.array_equal(many.logits[17], alone.logits[0])


def test_numbers_beyond_float16_are_cut_at_its_largest():
    assert teacher_cache._half(np.array([1e9, -1e9, 3.0], np.float32)).tolist() == [65504, -65504, 3]


@pytest.mark.parametrize("layer_map", [None, [2], [1, 2], [0, 2]])
@pytest.mark.parametrize("weights", [(1.0, 0.1, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
def test_the_loss_finds_what_it_needs(weights, layer_map, teacher, tmp_path):
    """For a student of one encoder: distillation() of the kept parts is that of the whole output."""
    data, rng = some_data(), np.random.default_rng(2)
    terms = dict(zip(("hidden", "attention", "logits"), weights, strict=True))
    weights = loss.LossWeights(**terms, layer_map=layer_map)
    batch = collate(data, np.arange(8))
    width, heads, length = teacher.config.hidden_size, teacher.config.num_attention_heads, batch.input_ids.shape[1]
    states = [rng.normal(size=(8, length, width)).astype(np.float32) for _ in range(2)]
    scores, logits = [rng.normal(size=(8, heads, length, length))], rng.normal(size=(8, 3))
    distill_map = {"weight": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}

    def value(out):
        mask = batch.attention_mask
        found, _ = loss.distillation((states, scores, logits), loss.Targets(out), mask, distill_map, weights)
        return {name: float(v) for name, v in found.items()}

    source = targets(teacher, data, parts_of(1, teacher, weights), tmp_path, LIMIT)()
    assert value(source(batch)) == pytest.approx(value(computed(teacher, batch)), rel=1e-3)


# ---- kept once, within a limit ------------------------------------------------------------------------------


def first_batch(teacher, data, parts, *where):
    return targets(teacher, data, parts, *where)()(collate(data, np.arange(3)))


def test_one_cache_for_one_teacher_data_and_parts(teacher, tmp_path, monkeypatch):
    calls, data = made(monkeypatch), some_data()
    for _ in range(2):
        first_batch(teacher, data, ALL, tmp_path, LIMIT)
    assert len(calls) == 1
    first_batch(random_teacher(2, 3, dtype="float32"), data, ALL, tmp_path, LIMIT)
    first_batch(teacher, some_data(1), ALL, tmp_path, LIMIT)
    first_batch(teacher, Encoded(data.ids, [t * 0 for t in data.types]), ALL, tmp_path, LIMIT)
    first_batch(teacher, data, Parts((0, 1, 2), (0, 1), False), tmp_path, LIMIT)
    assert len(calls) == 5 == len(list(tmp_path.iterdir()))


def test_nothing_is_written_before_the_first_batch(teacher, tmp_path):
    targets(teacher, some_data(), ALL, tmp_path / "cache", LIMIT)
    assert contents(tmp_path) == {}


def test_too_large_is_said_once_and_computed(teacher, tmp_path, capsys):
    data = some_data()
    needed = ALL.nbytes(teacher.config, data.lengths)
    source = targets(teacher, data, ALL, tmp_path / "cache", needed - 1)()
    batch = collate(data, np.arange(5))
    expected = computed(teacher, batch)
    for _ in range(2):
        assert np.array_equal(source(batch).hidden_states[2], expected.hidden_states[2])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--teacher-cache allows" in said and contents(tmp_path) == {}
    first_batch(teacher, data, ALL, tmp_path / "cache", needed)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_logits_alone_need_one_token_of_the_last_encoder(teacher):
    batch = collate(some_data(), np.arange(6))
    expected = computed(teacher, batch)
    found = computed(teacher, batch, Parts((), (), True))
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    assert found.hidden_states is None and found.attention_scores is None
    for parts in (ALL, Parts((2,), (), True), Parts((), (1,), True)):
        assert computed(teacher, batch, parts).hidden_states[-1].shape == expected.hidden_states[-1].shape


def test_all_caches_together_stay_within_the_limit(teacher, tmp_path, monkeypatch):
    calls, data = made(monkeypatch), [some_data(seed) for seed in range(4)]
    limit = int(2.5 * max(ALL.nbytes(teacher.config, d.lengths) for d in data))
    (tmp_path / "corpus-0").mkdir()
    for d, time in zip(data[:2], (1000, 2000), strict=True):
        before = set(tmp_path.iterdir())
        first_batch(teacher, d, ALL, tmp_path, limit)
        os.utime(*(set(tmp_path.iterdir()) - before), (time, time))
    first_batch(teacher, data[0], ALL, tmp_path, limit)  # now the second is the older one
    first_batch(teacher, data[2], ALL, tmp_path, limit)
    assert len(calls) == 3 and sum(map(size, tmp_path.iterdir())) <= limit
    first_batch(teacher, data[0], ALL, tmp_path, limit)
    assert len(calls) == 3  # it was not the one that had to go
    first_batch(teacher, data[1], ALL, tmp_path, limit)
    assert len(calls) == 4 and (tmp_path / "corpus-0").exists()


def listed(place):
    """Say in a directory's list that what is in it now is all."""
    (place / "complete.json").unlink()
    found = {p.name: cache._described(p) for p in sorted(place.iterdir())}
    (place / "complete.json").write_text(json.dumps(found))


def test_every_example_must_have_a_shard(teacher, tmp_path, capsys, monkeypatch):
    """A directory whose list knows of no loss, such as two processes could make of one: it is made again."""
    data = some_data()
    monkeypatch.setattr(teacher_cache, "SHARD", 1)
    first_batch(teacher, data, ALL, tmp_path, LIMIT)
    (place,) = tmp_path.iterdir()
    before = contents(tmp_path)
    (place / "00001.safetensors").unlink()
    listed(place)
    capsys.readouterr()
    found = first_batch(teacher, data, ALL, tmp_path, LIMIT)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{place}: 32 of 90 examples are in none of its files; made again" and len(said) == 2
    assert contents(tmp_path) == before and all(h.any() for h in found.hidden_states)
    monkeypatch.setattr(teacher_cache, "shards", lambda *args: iter(list(shards(*args))[1:]))
    with pytest.raises(InputError, match="examples are missing in it again and again"):
        first_batch(teacher, some_data(1), ALL, tmp_path, LIMIT)


def test_a_directory_that_another_run_removes_is_made_again(teacher, tmp_path, monkeypatch):
    """In between, to keep to its limit: the caches of both are whole in the end."""
    removals, whole = [1, 1], teacher_cache.kept

    def removed(directory, make):
        whole(directory, make)
        if removals:
            removals.pop()
            shutil.rmtree(directory)

    monkeypatch.setattr(teacher_cache, "kept", removed)
    first_batch(teacher, some_data(), ALL, tmp_path, LIMIT)
    removals += [1, 1, 1]
    with pytest.raises(FileNotFoundError):
        first_batch(teacher, some_data(1), ALL, tmp_path, LIMIT)


def test_two_runs_that_prune(teacher, tmp_path, monkeypatch):
    """What one of them is about to look at or to remove, the other has removed."""
    for seed in range(3):
        first_batch(teacher, some_data(seed), ALL, tmp_path, LIMIT)
    places, look = list(tmp_path.iterdir()), teacher_cache.last_used
    monkeypatch.setattr(teacher_cache, "last_used", lambda p: shutil.rmtree(places[1], ignore_errors=True) or look(p))
    room = size(places[2])
    teacher_cache.forget_oldest(places, room)
    assert len(list(tmp_path.iterdir())) == 1 and sum(map(size, places)) <= room


def test_what_is_being_made_counts_and_what_was_left_goes(teacher, tmp_path):
    first_batch(teacher, some_data(), ALL, tmp_path, LIMIT)
    (kept,) = tmp_path.iterdir()
    begun, stale = (tmp_path / f".teacher-{n}.0123456789abcdef.tmp" for n in ("begun", "stale"))
    for place in (begun, stale):
        shutil.copytree(kept, place)
    for p in (*stale.iterdir(), stale):
        os.utime(p, (0, 0))
    other = some_data(1)
    needed = ALL.nbytes(teacher.config, other.lengths)
    first_batch(teacher, other, ALL, tmp_path, needed + size(begun) + size(kept) - 1)
    assert not stale.exists() and not kept.exists() and begun.exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def flip(path):
    body = bytearray(path.read_bytes())
    body[-2] ^= 1
    path.write_bytes(bytes(body))


@pytest.mark.parametrize("spoil", [cut, flip, lambda path: path.unlink()], ids=["cut short", "flipped", "gone"])
def test_a_damaged_shard_is_made_again_with_one_line(spoil, teacher, tmp_path, capsys):
    data = some_data()
    first_batch(teacher, data, ALL, tmp_path, LIMIT)
    before = contents(tmp_path)
    (place,) = tmp_path.iterdir()
    spoil(next(place.glob("*.safetensors")))
    capsys.readouterr()
    first_batch(teacher, data, ALL, tmp_path, LIMIT)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "made again" in lines[0] and lines[1].startswith("keeping")
    assert contents(tmp_path) == before


def test_what_was_interrupted_leaves_nothing(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD", 1)
    whole, calls = teacher_cache.write_tensors, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(*args)

    source = targets(teacher, some_data(), ALL, tmp_path, LIMIT)
    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache, "write_tensors", stopping)
        with pytest.raises(KeyboardInterrupt):
            source()
    assert contents(tmp_path) == {}
    source()
    assert len(list(tmp_path.iterdir())) == 1


# ---- training -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("places")
    (root / "corpus.txt").write_text(CORPUS * 3)
    write_teacher(root / "bert")
    write_sst2(root / "data")
    return root


def argv(places, out, *more):
    where = ("--teacher", places / "bert", "--task", "sst-2", "--data-dir", places / "data", "--output-dir", out)
    where += ("--corpus", places / "corpus.txt", "--batch-size", 8, "--epochs", "2,2,1.5", "--time-steps", 2)
    where += ("--classifier", "learnt")  # a fit to so few texts amplifies what is rounded
    return *where, "--v-th", 2, "--log-every", 1, "--save-every", 4, *more


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    """A run in three stages that was not interrupted, and its cache."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(distill.main, *argv(places, out, "--cache-dir", out.parent / "cache")) == 0
    return out


def test_a_run_keeps_tokens_and_activations_where_it_is_told(whole):
    assert not (whole / "cache").exists()
    kinds = [p.name.partition("-")[0] for p in sorted((whole.parent / "cache").iterdir())]
    assert kinds == ["corpus", "teacher", "teacher", "teacher"]


def test_without_a_place_the_cache_goes_with_the_run(places, whole, tmp_path):
    assert run(distill.main, *argv(places, tmp_path / "out")) == 0
    assert sorted(contents(tmp_path / "out")) == sorted(contents(whole))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_another_seed_uses_the_cache(places, whole, tmp_path, monkeypatch):
    calls, before = made(monkeypatch), contents(whole.parent / "cache")
    assert run(distill.main, *argv(places, tmp_path / "out", "--cache-dir", whole.parent / "cache", "--seed", 1)) == 0
    assert not calls and contents(whole.parent / "cache") == before


def test_cached_training_is_training_within_the_rounding(places, whole, tmp_path):
    assert run(distill.main, *argv(places, tmp_path / "out", "--teacher-cache", 0, "--cache-dir", tmp_path / "c")) == 0
    assert [p.name[:7] for p in (tmp_path / "c").iterdir()] == ["corpus-"]
    lines, expected = log_lines(whole), log_lines(tmp_path / "out")
    assert [(x["stage"], x["step"]) for x in lines] == [(x["stage"], x["step"]) for x in expected]
    np.testing.assert_allclose([x["loss"] for x in lines], [x["loss"] for x in expected], rtol=1e-3)
    assert lines != expected


# 4 windows a text, 12 in all: 2 updates an epoch, 4 in the general stage; then 28 texts: 8 internal, 6 prediction
@pytest.mark.parametrize("update", [3, 4, 8, 10, 16])
def test_resuming_equals_never_stopping_bit_for_bit(update, places, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, update)
        assert run(distill.main, *argv(places, out, "--save-every", 1)) == 130
    if update == 10:
        shutil.rmtree(out / "cache")  # what is kept can be made again
    assert run(distill.main, *argv(places, out, "--save-every", 1, "--resume")) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert log_lines(out) == log_lines(whole)
    assert not (out / "cache").exists()


def test_what_does_not_repeat_needs_no_cache(places, tmp_path, monkeypatch):
    calls = made(monkeypatch)
    assert run(distill.main, *argv(places, tmp_path / "out", "--epochs", 1)) == 0
    assert run(distill.main, *argv(places, tmp_path / "less", "--epochs", 3, "--max-steps", 2)) == 0
    assert run(distill.main, *argv(places, tmp_path / "masked", "--epochs", 2, "--mask", 0.3)) == 0
    assert not calls


def test_a_limit_below_0(places, tmp_path, capsys):
    with pytest.raises(InputError, match="--teacher-cache: found -1.0, expected at least 0"):
        distill.Distill(teacher_cache=-1.0)
