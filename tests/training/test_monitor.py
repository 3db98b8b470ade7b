"""Dead and saturated neurons are counted and warned of, the gap is measured when it should be, progress is one line."""

import sys

import numpy as np
import pytest
from models import random_student
from tiny import log_lines, run, write_sst2, write_teacher

from nanospike import distill
from nanospike.data.text import Encoded
from nanospike.results.report import write_report
from nanospike.training.monitor import LEAST_TOKENS, PROBE_STEPS, WINDOW, Monitor, gap_probe, silent_and_full
from nanospike.training.progress import counted, progress, progress_text


def test_shares_worked_out_by_hand():
    """Two examples of two tokens, the last of them padding, whose rates count for nothing."""
    rates = np.zeros((2, 2, 4))
    rates[..., 1], rates[..., 2] = 1, [[1, 1], [1, 0]]
    rates[0, 0, 3] = 0.25
    rates[1, 1] = 0.5
    mask = np.array([[1, 1], [1, 0]])
    dead, full = silent_and_full({"a": rates}, mask)["a"]
    assert dead.tolist() == [True, False, False, False] and full.tolist() == [False, True, True, False]
    values = Monitor("internal").notes([({"a": rates}, mask)], 1)
    assert values == {"dead": {"a": 0.25}, "saturated": {"a": 0.5}}


def test_signed_neurons_are_saturated_at_both_ends():
    rates = np.array([[[-1.0, 0.0, -0.5]]])
    dead, full = silent_and_full({"a": rates}, np.ones((1, 1), int))["a"]
    assert dead.tolist() == [False, True, False] and full.tolist() == [True, False, False]


def one_neuron_fires(n, which, tokens=2):
    rates = np.zeros((1, tokens, n))
    rates[..., which] = 0.5
    return {"a": rates}, np.ones((1, tokens), int)


def test_a_neuron_that_fired_within_the_window_is_not_dead():
    monitor = Monitor("internal")
    for step in range(4):
        values = monitor.notes([one_neuron_fires(8, step, LEAST_TOKENS // WINDOW)], step)
    assert values["dead"] == {"a": 0.5}
    for step in range(WINDOW):
        values = monitor.notes([one_neuron_fires(8, 0, LEAST_TOKENS // WINDOW)], step)
    assert values["dead"] == {"a": 0.875}  # the first four batches have left the window


def test_one_warning_per_stage_and_kind_once_there_are_enough_tokens(capsys):
    monitor = Monitor("internal")
    monitor.notes([one_neuron_fires(8, 0, LEAST_TOKENS - 1)], 1)
    assert capsys.readouterr().err == ""
    for _ in range(3):
        monitor.notes([one_neuron_fires(8, 0, LEAST_TOKENS)], 1)
    said = f"most neurons were dead (rate 0) at each of {2 * LEAST_TOKENS - 1} tokens: a 88 %"
    assert capsys.readouterr().err == f"warning: stage internal: {said}\n"
    other = Monitor("prediction")
    other.notes([({"b": np.ones((1, LEAST_TOKENS, 2))}, np.ones((1, LEAST_TOKENS), int))], 1)
    assert "saturated (rate 1) at each of 1000 tokens: b 100 %\n" in capsys.readouterr().err


def test_small_batches_are_looked_at_together_until_they_have_enough_tokens(capsys):
    monitor, tokens = Monitor("internal"), LEAST_TOKENS // WINDOW // 2
    for step in range(2 * WINDOW):
        assert capsys.readouterr().err == ""
        monitor.notes([one_neuron_fires(8, 0, tokens)], step)
    assert f"dead (rate 0) at each of {LEAST_TOKENS} tokens: a 88 %" in capsys.readouterr().err


def test_a_population_that_is_partly_dead_and_partly_saturated(capsys):
    rates = {"a": np.array([0, 0, 1, 1, 0.5]) * np.ones((1, LEAST_TOKENS, 5))}
    Monitor("internal").notes([(rates, np.ones((1, LEAST_TOKENS), int))], 1)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "most neurons were dead or saturated at each of 1000 tokens: a 80 %" in err


def test_half_of_a_population_is_not_most_of_it(capsys):
    rates = {"a": np.array([0, 0.5]) * np.ones((1, LEAST_TOKENS, 2))}
    Monitor("internal").notes([(rates, np.ones((1, LEAST_TOKENS), int))], 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("bias, kind", [(-50.0, 0), (50.0, 1)])
def test_a_population_forced_by_its_bias(bias, kind, xp, device):
    student = random_student(device=device)
    student.parameters()["encoder.layer.1.attention.self.key.bias"][...] = bias
    ids, mask = xp.asarray([[2, 5, 6, 3], [2, 7, 3, 0]]), xp.asarray([[1, 1, 1, 1], [1, 1, 1, 0]])
    monitor = Monitor("internal")
    monitor.notes([(student.equilibrium(ids, mask).rates, mask)], 1)
    shares = monitor.shares()
    assert shares[kind]["encoder.1.key"] == 1 and shares[1 - kind]["encoder.1.key"] == 0
    assert shares[0].keys() == shares[1].keys() == student.equilibrium(ids, mask).rates.keys()


def test_the_probe_is_the_gap_of_the_last_encoder_s_output():
    student = random_student()
    ids = [np.array([2, 5, 6, 3]), np.array([2, 7, 3])]
    measured = gap_probe(student, Encoded(ids, [i * 0 for i in ids]), "differential")()
    tokens, total = 0, 0.0
    for example in ids:
        rates = student.equilibrium(example[None]).rates["encoder.1.output"]
        ran = student.simulate(example[None], time_steps=PROBE_STEPS).rates["encoder.1.output"]
        total, tokens = total + np.abs(rates - ran).mean(axis=2).sum(), tokens + len(example)
    assert measured == pytest.approx(total / tokens, rel=1e-5) and measured > 0


@pytest.mark.parametrize("every, log_every, steps", [(4, 2, [4, 8]), (3, 2, [4, 6, 10]), (1, 5, [5, 10]), (0, 1, [])])
def test_the_gap_is_measured_after_every_so_many_updates(every, log_every, steps):
    monitor = Monitor("internal", lambda: 0.5, every, log_every)
    lines = {s: monitor.notes([one_neuron_fires(2, 0)], s) for s in range(log_every, 11, log_every)}
    assert [s for s, values in lines.items() if "equilibrium_gap" in values] == steps


def test_distill_logs_all_of_it_and_the_report_shows_it(tmp_path, capsys):
    write_teacher(tmp_path / "teacher")
    where = ("--task", "sst-2", "--data-dir", write_sst2(tmp_path / "data"), "--teacher", tmp_path / "teacher")
    short = ("--batch-size", 7, "--log-every", 2, "--time-steps", 2, "--epochs", 1)
    assert run(distill.main, *where, *short, "--probe-every", 4, "--output-dir", tmp_path / "out") == 0
    lines = log_lines(tmp_path / "out", timed=True)
    assert [("equilibrium_gap" in x) for x in lines] == [False, True] * 3
    for line in lines:
        assert len(line["dead"]) == 15 and line["dead"].keys() == line["saturated"].keys()
        assert all(0 <= v <= 1 for kind in ("dead", "saturated") for v in line[kind].values())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Dead and saturated neurons" in page and "<th>encoder.1.intermediate</th>" in page
    assert run(distill.main, *where, *short, "--probe-every", -1, "--output-dir", tmp_path / "bad") == 2
    assert "--probe-every: found -1, expected at least 0" in capsys.readouterr().err
    assert run(distill.main, *where, *short, "--student", "ann", "--output-dir", tmp_path / "ann") == 0
    assert all("dead" not in x for x in log_lines(tmp_path / "ann", timed=True))
    write_report(tmp_path / "ann", {"task": "sst-2"})
    assert "Dead and saturated" not in (tmp_path / "ann" / "report.html").read_text(encoding="utf-8")


def test_the_probe_changes_nothing_of_the_training(tmp_path):
    write_teacher(tmp_path / "teacher")
    where = ("--task", "sst-2", "--data-dir", write_sst2(tmp_path / "data"), "--teacher", tmp_path / "teacher")
    for every in (0, 1):
        argv = (*where, "--batch-size", 7, "--log-every", 1, "--epochs", 1, "--time-steps", 2, "--probe-every", every)
        assert run(distill.main, *argv, "--output-dir", tmp_path / str(every)) == 0
    weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in "01"]
    assert weights[0] == weights[1]


def test_progress_in_a_file_is_a_line_at_times(capsys, monkeypatch):
    line = {"loss": 0.5, "examples_per_second": 9, "step_ms": 1000}
    bar = progress("internal", 90, 0)
    bar.show(30, line)
    assert capsys.readouterr().err == ""  # it is too soon
    monkeypatch.setattr("nanospike.training.progress.SECONDS", 0.0)
    bar.show(30, line)
    assert capsys.readouterr().err == "internal 30/90: loss 0.5000, 9 examples/s, 1:00 left\n"


def test_progress_on_a_terminal_is_a_line_that_is_written_over(capsys, monkeypatch):
    """Without tqdm; all of it beside what the command prints."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    bar = progress("internal", 90, 0)
    bar.show(30, {"loss": 0.5, "examples_per_second": 9, "step_ms": 1000})
    bar.close()
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("\rinternal 30/90: loss 0.5000") and printed.err[-1] == "\n"


def test_a_count_is_shown_on_a_terminal_where_it_takes_long(capsys, monkeypatch):
    """And wiped at the end; a pipe gets nothing, and an error stands on a line of its own."""
    work, batches = (lambda items: sum(items)), [[1, 2, 3], [4, 5], [6]]
    assert counted("evaluating", 6, work) is work
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert [counted("evaluating", 6, work)(b) for b in batches] == [6, 9, 6]
    assert capsys.readouterr().err == ""  # too soon
    monkeypatch.setattr("nanospike.training.progress.PATIENCE", 0.0)
    shown = counted("evaluating", 6, work)
    assert [shown(b) for b in batches] == [6, 9, 6]
    wiped = "\r" + " " * len("evaluating 5/6") + "\r"
    assert capsys.readouterr().err == "\revaluating 3/6\revaluating 5/6" + wiped
    shown = counted("evaluating", 6, work)
    shown(batches[0])
    with pytest.raises(TypeError):
        shown(["text"])
    assert capsys.readouterr().err.endswith("evaluating 3/6\n")


def test_progress_is_one_line():
    line = {"loss": 1.25, "loss_hidden": 1.0, "loss_attention": 0.25, "examples_per_second": 123.4}
    more = {"dead": {"a": 0.1, "b": 0.25}, "saturated": {"a": 0.0}, "equilibrium_gap": 0.04321}
    expected = "loss 1.2500 (hidden 1.0000, attention 0.2500), dead up to 25 %, saturated up to 0 %, gap 0.0432"
    assert progress_text(line | more, 95.4) == expected + ", 123 examples/s, 1:35 left"
    assert progress_text({"loss": 0.5, "loss_labels": 0.5, "examples_per_second": 9}, 3700) == (
        "loss 0.5000, 9 examples/s, 61:40 left"
    )
