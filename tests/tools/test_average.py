"""tools/average.py: means of weights, scored; BERTs of other shapes have none."""

import json

import average
import numpy as np
from tiny import run, write_sst2, write_teacher

from nanospike import load_teacher


def test_the_mean_of_weights_and_its_score(tmp_path):
    one, other = (write_teacher(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    data, out = write_sst2(tmp_path / "data"), tmp_path / "mean"
    where = ("--task", "sst-2", "--data-dir", data)
    assert run(average.main, "--models", f"{one},{other}", *where, "--output-dir", out) == 0
    a, b, mean = (load_teacher(d).parameters() for d in (one, other, out))
    assert mean.keys() == a.keys() and any(np.abs(a[n] - b[n]).max() > 0.01 for n in a)
    for name in mean:
        np.testing.assert_allclose(mean[name], (a[name] + b[name]) / 2, atol=1e-7, err_msg=name)
    assert (out / "vocab.txt").read_bytes() == (one / "vocab.txt").read_bytes()
    found = json.loads((out / "eval_results.json").read_text())
    assert found["examples"] == 12 and 0 <= found["teacher"] <= 1 and found["task"] == "sst-2"
    assert run(average.main, "--models", f"{one},{one}", *where, "--output-dir", out) == 2  # not empty


def test_another_shape_is_named(tmp_path, capsys):
    one, other = write_teacher(tmp_path / "one"), write_teacher(tmp_path / "other", num_hidden_layers=1)
    where = ("--task", "sst-2", "--data-dir", write_sst2(tmp_path / "data"), "--output-dir", tmp_path / "mean")
    assert run(average.main, "--models", f"{one},{other}", *where) == 2
    said = capsys.readouterr().err
    assert "other" in said and "encoder.layer.1" in said and "expected" in said
