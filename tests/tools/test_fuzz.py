"""Files with something wrong in them: results, or one line each; and the instrument itself finds what is planted."""

import json
import random
import time
from dataclasses import replace

import fuzz
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import run

from nanospike import InputError
from nanospike.data.tokenizer import load_tokenizer
from nanospike.model.teacher import load_teacher
from nanospike.training.resume import restore_weights


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return fuzz.Bench(tmp_path_factory.mktemp("fuzz"), seed=1, seconds=60)


@given(st.integers(0, 10**9))
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_every_input_gives_a_result_or_one_line(bench, number):
    name, outcome, _ = bench.try_out(number)
    assert name in fuzz.TARGETS and outcome in ("result", "refused")


def test_an_input_is_a_function_of_its_number_and_leaves_nothing(bench):
    files = {p: p.read_bytes() for p in bench.directory.rglob("*") if p.is_file()}
    first = [bench.try_out(n)[:2] for n in range(40)]
    assert first == [bench.try_out(n)[:2] for n in range(40)]
    assert {p: p.read_bytes() for p in bench.directory.rglob("*") if p.is_file()} == files
    assert {outcome for _, outcome in first} == {"result", "refused"} and len({name for name, _ in first}) > 8


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl", "a.bin", "run.toml"])
def test_most_inputs_are_changed(name):
    body = json.dumps({"a": [1, 2.5, {"b": "text"}], "c": None}).encode()
    changed = [fuzz.spoilt(name, body, random.Random(i)) for i in range(100)]
    assert len(set(changed)) > 60 and sum(c == body for c in changed) < 30


def test_what_is_planted_is_found(bench, monkeypatch):
    """Another exception, a message on two lines, an input that takes long, one that takes much memory."""

    def planted(use):
        for name, target in fuzz.TARGETS.items():
            monkeypatch.setitem(fuzz.TARGETS, name, replace(target, use=use))
        with pytest.raises(AssertionError, match="input 7 of seed 1, ") as caught:
            bench.try_out(7)
        return str(caught.value)

    assert "KeyError: 'x'" in planted(lambda directory: {}["x"])
    monkeypatch.setattr(bench, "seconds", 0.05)
    assert "TooLong" in planted(lambda directory: time.sleep(5))
    monkeypatch.setattr(bench, "seconds", 60)
    assert "MemoryError" in planted(lambda directory: np.empty(2 * fuzz.ADDRESSES * fuzz.SPARE, np.uint8))


def test_the_figures_are_printed_and_written(tmp_path, capsys):
    assert run(fuzz.main, "--inputs", 30, "--seed", 3, "--json", tmp_path / "f.json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "f.json").read_text()) and found["inputs"] == 30 and not found["faults"]
    assert sum(sum(counts.values()) for counts in found["targets"].values()) == 30


# ---- what was found by it -----------------------------------------------------------------------------------


def test_a_model_type_of_any_type(tmp_path):
    fuzz.model(tmp_path)
    for wrong in ({}, [], 5, None):
        config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": wrong}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="model_type: found"):
            load_teacher(tmp_path)


def test_a_checkpoint_of_another_model():
    for weights in ({}, {"a": np.zeros(3)}):
        with pytest.raises(InputError, match="the checkpoint is of another model: .* a$"):
            restore_weights({"a": np.zeros(2)}, weights)


def test_a_template_that_names_a_piece_it_does_not_have(tmp_path, capfd):
    fuzz.tokenizer(tmp_path)
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    del described["post_processor"]["special_tokens"]["[SEP]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"tokenizer.json: post_processor: no \[SEP\] in its special_tokens"):
        load_tokenizer(tmp_path)
    assert "panicked" not in capfd.readouterr().err


def test_half_a_surrogate_pair_in_a_tokenizer_s_files(tmp_path):
    fuzz.vocabulary(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"\ud800": len(fuzz.WORDS)}))
    with pytest.raises(InputError, match="half a surrogate pair in a file of its tokenizer"):
        load_tokenizer(tmp_path)


def test_whole_numbers_that_no_float_holds(tmp_path):
    fuzz.model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"layer_norm_eps": 10**400}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="layer_norm_eps: found 1"):
        load_teacher(tmp_path)
    (tmp_path / "c").mkdir()
    fuzz.checkpoint(tmp_path / "c")
    state = tmp_path / "c" / fuzz.PLACE / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"log_norm": 10**400}))
    with pytest.raises(InputError, match="log_norm: found a number that is too large"):
        fuzz.use_checkpoint(tmp_path / "c")


def test_an_id_that_the_library_would_count_up_to(tmp_path):
    """To write a tokenizer down, it makes a list of all ids below the largest that have no piece: 8 GB and more."""
    fuzz.tokenizer(tmp_path)
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    for place in (2**31, 2**32 - 1):
        described["model"]["vocab"]["tea"] = place
        (tmp_path / "tokenizer.json").write_text(json.dumps(described))
        for vocabulary in (len(fuzz.WORDS), None):
            with pytest.raises(InputError, match=f"has an id {place}, the model has"):
                load_tokenizer(tmp_path, vocabulary)
