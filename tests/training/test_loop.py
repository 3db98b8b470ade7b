"""The training loop: a resumed run is the same run, bit for bit; what stops a run leaves its checkpoints."""

import json
import shutil
import signal
import weakref
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import CORPUS, contents, edit_json, interrupt, log_lines, run, write_sst2, write_teacher

from nanospike import InputError, distill, finetune, init_student, load_teacher
from nanospike.arrays import workers
from nanospike.data.corpus import read_corpus
from nanospike.data.text import Encoded, collate
from nanospike.data.tokenizer import load_tokenizer
from nanospike.training import resume, stability, teaching
from nanospike.training.loop import Run, Stage
from nanospike.training.optim import AdamW
from nanospike.training.options import TrainingOptions, part_of


@pytest.fixture(autouse=True)
def listening():
    """A shell that started these tests in the background may have told them to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model (its dropout on), a task's data and a corpus."""
    root = tmp_path_factory.mktemp("places")
    (root / "corpus.txt").write_text(CORPUS)
    return {"model": write_teacher(root / "bert"), "data": write_sst2(root / "data"), "corpus": root / "corpus.txt"}


def finetune_argv(places, out, *more):
    where = ("--model", places["model"], "--task", "sst-2", "--data-dir", places["data"], "--output-dir", out)
    return *where, "--batch-size", 8, "--epochs", 2, "--learning-rate", 1e-3, "--log-every", 2, "--save-every", 3, *more


def distill_argv(places, out, *more):
    where = ("--teacher", places["model"], "--task", "sst-2", "--data-dir", places["data"], "--output-dir", out)
    steps = ("--batch-size", 8, "--epochs", 1.5, "--time-steps", "2,4", "--log-every", 2, "--save-every", 4)
    return *where, *steps, "--learning-rate", "1e-3,5e-4", "--v-th", 2, "--feedback", *more


COMMANDS = {"finetune": (finetune, finetune_argv), "distill": (distill, distill_argv)}


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    """{command: the directory of a run that was not interrupted}."""
    made = {}
    for name, (command, argv) in COMMANDS.items():
        made[name] = tmp_path_factory.mktemp("whole") / name
        assert run(command.main, *argv(places, made[name])) == 0
    return made


# ---- a resumed run is the same run --------------------------------------------------------------------------


# finetune: 28 texts, 4 updates an epoch, 8 in all, checkpoints at 3, 6, 8. distill: 6 updates a stage, checkpoints at
# 4 and 6 of each.
@pytest.mark.parametrize(
    "name, update, at",
    [
        ("finetune", 4, "finetune-0000003"),
        ("finetune", 6, "finetune-0000003"),  # steps 4 and 5 are done again
        ("finetune", 8, "finetune-0000006"),
        ("distill", 6, "internal-0000004"),
        ("distill", 7, "internal-0000006"),  # between the stages
        ("distill", 9, "internal-0000006"),
        ("distill", 12, "prediction-0000004"),
    ],
)
def test_resuming_equals_never_stopping_bit_for_bit(name, update, at, places, whole, tmp_path, monkeypatch, capsys):
    command, argv = COMMANDS[name]
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, update)
        assert run(command.main, *argv(places, out)) == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == "interrupted"
    assert sorted(p.name for p in (out / "checkpoints").iterdir())[-1] == at
    assert not (out / "model.safetensors").exists()
    assert run(command.main, *argv(places, out, "--resume")) == 0
    stage, _, step = at.partition("-")
    assert f"resuming {stage} after step {int(step)}" in capsys.readouterr().err
    expected = contents(whole[name])
    assert (out / "model.safetensors").read_bytes() == expected["model.safetensors"]
    assert log_lines(out) == log_lines(whole[name])
    last = max(p for p in expected if p.endswith("optimizer.safetensors"))
    assert (out / last).read_bytes() == expected[last]
    assert sorted(contents(out)) == sorted(expected)
    if name == "distill":
        a, b = (json.loads((d / "train_results.json").read_text()) for d in (out, whole[name]))
        for stage in ("internal", "prediction"):
            assert [a[stage][k] for k in ("steps", "loss")] == [b[stage][k] for k in ("steps", "loss")]


def test_resuming_while_the_feedback_is_rescaled_and_penalised(places, tmp_path, monkeypatch):
    monkeypatch.setattr(stability, "TARGET", 1e-3)  # which learning passes again and again
    done, stopped = tmp_path / "whole", tmp_path / "stopped"
    more = ("--jacobian-penalty", 0.01)
    assert run(distill.main, *distill_argv(places, done, *more)) == 0
    lines = log_lines(done)
    assert sum(line["rescaled"] for line in lines) > 1 and lines[0]["loop_gain"] > 1e-3 > lines[-1]["loop_gain"] / 2
    assert all(line["loss_jacobian"] > 0 and line["failed"] == 0 for line in lines)
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        assert run(distill.main, *distill_argv(places, stopped, *more)) == 130
    assert run(distill.main, *distill_argv(places, stopped, *more, "--resume")) == 0
    ours, theirs = (load_file(d / "model.safetensors") for d in (stopped, done))
    assert all(np.array_equal(ours[n], t) for n, t in theirs.items())


@pytest.mark.parametrize(
    "more, field, fewer",
    [
        (("--forward-solver", "damped"), "equilibrium_sweeps", False),
        (("--adjoint-rtol", 0.5), "adjoint_sweeps", True),
    ],
)
def test_the_solvers_options_reach_the_solvers(more, field, fewer, places, whole, tmp_path):
    out = tmp_path / "out"
    assert run(distill.main, *distill_argv(places, out, *more)) == 0
    theirs, ours = (sum(line[field] for line in log_lines(d)) for d in (whole["distill"], out))
    assert ours < theirs if fewer else ours > theirs
    assert all(line["failed"] == 0 for line in log_lines(out))


def test_resuming_with_masks_and_dropout_is_the_same_run_too(places, tmp_path, monkeypatch):
    """And another than without one of them; the teacher's activations are never kept."""
    weights = set()
    monkeypatch.setattr(teaching, "targets", None)  # which keeps them
    for more in (("--mask", 0.3), ("--dropout", 0.1, "--teacher-cache", 0), ("--mask", 0.3, "--dropout", 0.1)):
        done = tmp_path / "-".join(map(str, more))
        assert run(distill.main, *distill_argv(places, done, *more)) == 0
        weights.add((done / "model.safetensors").read_bytes())
    assert len(weights) == 3
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        assert run(distill.main, *distill_argv(places, out, *more)) == 130
    assert run(distill.main, *distill_argv(places, out, *more, "--resume")) == 0
    assert (out / "model.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()


def test_a_run_begun_before_an_option_was_there_goes_on(places, whole, tmp_path, capsys):
    out = tmp_path / "old"
    shutil.copytree(whole["distill"], out)
    for path in out.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        for name in ("mask", "layer_map", "corpus"):  # tuples too, which are lists in JSON
            del state["options"][name]
        edit_json(path, options=state["options"])
    assert run(distill.main, *distill_argv(places, out, "--resume", "--mask", 0.1)) == 2
    assert "other values of --mask than" in capsys.readouterr().err
    assert run(distill.main, *distill_argv(places, out, "--resume")) == 0


def test_resuming_a_run_that_was_done_changes_no_weight(places, whole, tmp_path):
    out = tmp_path / "out"
    assert run(finetune.main, *finetune_argv(places, out)) == 0
    before = contents(out)
    assert run(finetune.main, *finetune_argv(places, out, "--resume")) == 0
    after = contents(out)
    for name in ("model.safetensors", "config.json", "train_log.jsonl"):
        assert after[name] == before[name], name
    assert before["model.safetensors"] == contents(whole["finetune"])["model.safetensors"]


def test_dropout_and_the_seed_matter(places, whole, tmp_path):
    weights = {"whole": contents(whole["finetune"])["model.safetensors"]}
    assert run(finetune.main, *finetune_argv(places, tmp_path / "seed", "--seed", 1)) == 0
    still = {"model": tmp_path / "still", "data": places["data"]}
    write_teacher(still["model"])
    edit_json(still["model"] / "config.json", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    assert run(finetune.main, *finetune_argv(still, tmp_path / "no dropout")) == 0
    weights |= {n: (tmp_path / n / "model.safetensors").read_bytes() for n in ("seed", "no dropout")}
    assert len(set(weights.values())) == 3


def test_a_log_line_that_was_cut_short_is_dropped(places, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        run(finetune.main, *finetune_argv(places, out))
    with open(out / "train_log.jsonl", "a") as file:
        file.write('{"stage": "finetune", "st')
    assert run(finetune.main, *finetune_argv(places, out, "--resume")) == 0
    assert log_lines(out) == log_lines(whole["finetune"])


def test_a_checkpoint_that_was_cut_short_is_passed_over(places, whole, tmp_path, monkeypatch):
    out, write = tmp_path / "out", resume.write_json

    def full(path, value):
        if path.name == "state.json" and value["step"] == 6:
            raise OSError(28, "No space left on device", str(path))
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "write_json", full)
        assert run(finetune.main, *finetune_argv(places, out)) == 2
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["finetune-0000003"]
    assert run(finetune.main, *finetune_argv(places, out, "--resume")) == 0
    assert (out / "model.safetensors").read_bytes() == contents(whole["finetune"])["model.safetensors"]


def torn(path, body):
    path.write_bytes(body)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda p: torn(p / "state.json", b""), "state.json: not JSON"),
        (lambda p: torn(p / "state.json", b"{}"), "state.json: no options, saved, stage, step, summary, updates in it"),
        (lambda p: torn(p / "state.json", b"[]"), "state.json: found a JSON list, expected an object"),
        (lambda p: (p / "state.json").unlink(), "state.json: No such file"),
        (lambda p: torn(p / "model.safetensors", b""), "model.safetensors: not a whole safetensors file"),
        (
            lambda p: torn(p / "optimizer.safetensors", (p / "optimizer.safetensors").read_bytes()[:-1]),
            "optimizer.safetensors: not a whole",
        ),
    ],
    ids=["empty", "no keys", "a list", "gone", "no weights", "short moments"],
)
def test_a_damaged_checkpoint_is_passed_over_and_said(spoil, said, places, whole, tmp_path, monkeypatch, capsys):
    """What a power cut may leave: the one before it is whole."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, 8)
        run(finetune.main, *finetune_argv(places, out))
    spoil(out / "checkpoints" / "finetune-0000006")
    (out / "checkpoints" / ".finetune-0000008.0123456789abcdef.tmp").mkdir()  # begun, and killed
    (out / ".train_log.jsonl.0123456789abcdef.tmp").write_text("half")
    capsys.readouterr()
    assert run(finetune.main, *finetune_argv(places, out, "--resume")) == 0
    printed = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert len(printed) == 1 and said in printed[0] and "finetune-0000006" in printed[0]
    assert (out / "model.safetensors").read_bytes() == contents(whole["finetune"])["model.safetensors"]
    assert sorted(contents(out)) == sorted(contents(whole["finetune"]))
    for path in (out / "checkpoints").glob("*/state.json"):
        path.write_text("{}")
    assert run(finetune.main, *finetune_argv(places, out, "--resume")) == 2
    assert "has no checkpoint that is whole: " in capsys.readouterr().err


def test_a_run_that_was_moved_goes_on(places, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        run(finetune.main, *finetune_argv(places, tmp_path / "out"))
    (tmp_path / "out").rename(tmp_path / "moved")
    assert run(finetune.main, *finetune_argv(places, tmp_path / "moved", "--resume")) == 0
    assert log_lines(tmp_path / "moved") == log_lines(whole["finetune"])


@pytest.mark.parametrize(
    "name, changed, said",
    [
        ("finetune", ("--batch-size", 4), "--batch-size"),
        ("finetune", ("--learning-rate", 2e-3, "--seed", 5), "--learning-rate, --seed"),
        ("distill", ("--no-feedback",), "--feedback"),
        ("distill", ("--stages", "prediction", "--learning-rate", 1e-3), "--learning-rate, --stages, --epochs"),
        ("distill", ("--time-steps", "2,8"), "--time-steps"),
        ("distill", ("--cache-dir", "cache"), "--cache-dir"),
        ("distill", ("--mask", 0.1, "--dropout", 0.1), "--mask, --dropout"),
    ],
)
def test_another_option_on_resume_is_named_and_changes_nothing(name, changed, said, places, whole, capsys):
    command, argv = COMMANDS[name]
    before = contents(whole[name])
    capsys.readouterr()
    assert run(command.main, *argv(places, whole[name], "--resume", *changed)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and printed.out == ""
    named = printed.err.partition("other values of ")[2].partition(" than in the run")[0]
    assert set(named.split(", ")) == set(said.split(", "))
    assert contents(whole[name]) == before


def test_how_often_to_log_and_save_may_change_on_resume(places, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        run(finetune.main, *finetune_argv(places, out))
    assert run(finetune.main, *finetune_argv(places, out, "--resume", "--log-every", 1, "--save-every", 0)) == 0
    assert [line["step"] for line in log_lines(out)] == [2, 4, 5, 6, 7, 8]
    assert (out / "model.safetensors").read_bytes() == contents(whole["finetune"])["model.safetensors"]


def test_nothing_to_resume(places, tmp_path, capsys):
    assert run(finetune.main, *finetune_argv(places, tmp_path / "out", "--resume")) == 2
    assert capsys.readouterr().err == f"error: --resume: {tmp_path / 'out'} has no checkpoint\n"
    assert not (tmp_path / "out").exists()


# ---- what stops a run, and what is written ------------------------------------------------------------------


def toy(directory, gradients, epochs=3.0, **options):
    """A run with two parameters on 8 one-token examples, batches of 2: 4 updates an epoch."""
    directory.mkdir(exist_ok=True)
    given = {"batch_size": 2, "log_every": 3, "save_every": 2, "warmup": 0.0} | options
    parameters = {"a.weight": np.ones((2, 2)), "b.bias": np.zeros(3)}
    data = Encoded([np.array([i]) for i in range(8)], [np.array([0])] * 8)
    job = Run(TrainingOptions(output_dir=directory, **given), parameters)
    return job, Stage("finetune", data, gradients, epochs, 0.1)


def ones(batches, seed, totals, bad=None):
    value = 1.0 if bad is None or seed[2] + 1 != bad[0] else bad[1]
    grads = {"a.weight": np.ones((2, 2)), "b.bias": np.array([1.0, value, 1.0])}
    return {"toy": np.float64(seed[2])}, grads, lambda: {"mean_rate": 0.5}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_stops_before_the_update(bad, tmp_path):
    good, stage = toy(tmp_path / "good", ones, max_steps=4, learning_rate=0.1)
    good.train([stage])
    job, stage = toy(tmp_path / "bad", lambda *step: ones(*step, bad=(7, bad)))
    stopped = {n: p for n, p in job.parameters.items()}
    with pytest.raises(InputError, match="stage finetune, step 7: gradient norm is .* saved as of step 6"):
        job.train([stage])
    assert all(np.isfinite(p).all() for p in stopped.values())
    kept = sorted(p.name for p in (tmp_path / "bad" / "checkpoints").iterdir())
    assert kept == ["finetune-0000004", "finetune-0000006"]
    saved = load_file(tmp_path / "bad" / "checkpoints" / kept[-1] / "model.safetensors")
    assert all(np.array_equal(saved[n], p) for n, p in stopped.items())  # nothing moved after the last good update
    assert [line["step"] for line in log_lines(tmp_path / "bad")] == [3, 6]


def test_after_a_divergence_the_run_goes_on_at_a_lower_rate(tmp_path):
    """From the last checkpoint: the weights since then are those that went wrong."""
    job, stage = toy(tmp_path / "out", lambda *step: ones(*step, bad=(7, np.nan)), save_every=4)
    with pytest.raises(InputError, match="step 7: .*; saved as of step 4, from where --resume goes on"):
        job.train([stage])
    assert [p.name for p in (tmp_path / "out" / "checkpoints").iterdir()] == ["finetune-0000004"]
    for options in ({"seed": 1}, {"batch_size": 4}):
        job, stage = toy(tmp_path / "out", ones, save_every=4, resume=True, learning_rate=1e-6, **options)
        with pytest.raises(InputError, match=f"other values of --{next(iter(options)).replace('_', '-')} than in the"):
            job.train([stage])
    job, stage = toy(tmp_path / "out", ones, save_every=4, resume=True, learning_rate=1e-6, clip_norm=0.5)
    job.train([stage])
    assert [line["step"] for line in log_lines(tmp_path / "out")] == [3, 6, 9, 12]
    job, stage = toy(tmp_path / "out", ones, save_every=4, resume=True)  # that was settled, and the run is another
    with pytest.raises(InputError, match="other values of --clip-norm, --learning-rate than|--learning-rate, --clip"):
        job.train([stage])


def test_a_divergence_before_the_first_checkpoint_is_saved(tmp_path):
    """And not scored: what has gone wrong is not the best."""
    job, stage = toy(tmp_path, lambda *step: ones(*step, bad=(3, np.inf)), save_every=0)
    asked = []
    with pytest.raises(
        InputError, match="step 3: gradient norm is inf .*; saved as of step 2, .* no earlier checkpoint"
    ):
        job.train([replace(stage, score=lambda: asked.append(1) or 0.5)])
    assert not asked


def test_a_resumed_run_remembers_the_usual_norm(tmp_path):
    def explodes(batches, seed, totals):
        return ones(batches, seed, totals, bad=(seed[2] + 1 if seed[2] >= 10 else 0, 1e5))

    job, stage = toy(tmp_path / "whole", explodes, 5.0)
    with pytest.raises(InputError, match="step 15: ") as whole:
        job.train([stage])
    job, stage = toy(tmp_path / "out", explodes, 5.0, max_steps=11)
    job.train([stage])
    tmp_path = tmp_path / "out"
    for path in (tmp_path / "checkpoints").glob("*/state.json"):
        options = json.loads(path.read_text())["options"] | {"max_steps": 0}
        edit_json(path, options=options, summary={})  # as if it had been interrupted there
    job, stage = toy(tmp_path, explodes, 5.0, resume=True)
    with pytest.raises(InputError, match="gradient norm is 1e[+]05 at update 15, the 5th .*, 2.65 before") as resumed:
        job.train([stage])
    assert str(resumed.value) == str(whole.value)


def test_another_number_of_workers_on_resume_is_said(tmp_path):
    job, stage = toy(tmp_path, ones, max_steps=4, workers=1)
    job.train([stage])
    job, stage = toy(tmp_path, ones, max_steps=4, workers=2, resume=True)
    with pytest.warns(UserWarning, match="--workers: another than before"):
        job.train([stage])


def test_what_no_workers_stood_for_is_compared_on_resume(tmp_path, monkeypatch):
    """0 is one per core: with other cores sums are rounded in another order."""
    monkeypatch.setattr(workers, "cores", lambda: 1)
    job, stage = toy(tmp_path, ones, max_steps=4)
    job.train([stage])
    job, stage = toy(tmp_path, ones, max_steps=4, resume=True, workers=1)
    job.train([stage])  # the same number: nothing to say
    monkeypatch.setattr(workers, "cores", lambda: 2)
    job, stage = toy(tmp_path, ones, max_steps=4, resume=True)
    with pytest.warns(UserWarning, match="--workers: another than before"):
        job.train([stage])


@pytest.mark.parametrize("update", [4, 8])  # between two checkpoints; the last of all
def test_ctrl_c_finishes_the_step_and_saves(update, places, whole, tmp_path, monkeypatch, capsys):
    """A real SIGINT within an update: nothing is lost, and the run goes on from there."""
    whole_update, calls = AdamW.update, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == update:
            signal.raise_signal(signal.SIGINT)
        return whole_update(self, *args)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "update", interrupted)
        assert run(finetune.main, *finetune_argv(places, tmp_path / "out")) == 130
    assert f"saved as of finetune step {update};" in capsys.readouterr().err and len(calls) == update
    assert signal.getsignal(signal.SIGINT) is before
    assert run(finetune.main, *finetune_argv(places, tmp_path / "out", "--resume")) == 0
    expected = contents(whole["finetune"])["model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    assert log_lines(tmp_path / "out") == log_lines(whole["finetune"])


def test_an_interrupt_that_was_ignored_stays_ignored(tmp_path):
    """A shell starts its background jobs so."""

    def interrupted(batches, seed, totals):
        signal.raise_signal(signal.SIGINT)
        return ones(batches, seed, totals)

    job, stage = toy(tmp_path, interrupted, 1.0)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert job.train([stage])["finetune"]["steps"] == 4
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_something_is_prepared_stops_there(tmp_path):
    done = []

    def prepare():
        signal.raise_signal(signal.SIGINT)
        done.append("the minutes after it")

    job, stage = toy(tmp_path, ones)
    with pytest.raises(KeyboardInterrupt):
        job.train([replace(stage, prepare=prepare)])
    assert not done and not (tmp_path / "checkpoints").exists()


def test_a_step_does_not_keep_the_last_ones_arrays(tmp_path):
    """What a step computed is gone when the next one begins."""
    alive = []

    def gradients(batches, seed, totals):
        assert all(reference() is None for reference in alive)
        terms, grads, _ = ones(batches, seed, totals)
        alive.extend(weakref.ref(g) for g in grads.values())
        return terms, grads, lambda: {"mean_rate": float(grads["b.bias"][0])}

    job, stage = toy(tmp_path, gradients)
    job.train([stage])
    assert len(alive) == 24


def test_log_lines_and_the_last_one_is_always_written(tmp_path):
    job, stage = toy(tmp_path, ones, epochs=2.0)
    summary = job.train([stage])
    lines = log_lines(tmp_path, timed=True)
    assert [line["step"] for line in lines] == [3, 6, 8]
    required = {"stage", "step", "loss", "learning_rate", "step_ms", "examples_per_second", "mean_rate"}
    assert all(required <= line.keys() for line in lines)
    assert [line["loss"] for line in lines] == [2, 5, 7] == [line["loss_toy"] for line in lines]
    np.testing.assert_allclose([line["learning_rate"] for line in lines], [0.1 * k / 8 for k in (6, 3, 1)], rtol=1e-5)
    assert lines[0]["gradient_norm"] == pytest.approx(np.sqrt(7), rel=1e-5)
    assert summary["finetune"]["steps"] == 8 and summary["finetune"]["loss"] == 7


@pytest.mark.parametrize("epochs, most, steps", [(1.0, 0, 4), (0.3, 0, 2), (2.0, 5, 5), (1.0, 100, 4), (1e-9, 0, 1)])
def test_number_of_updates(epochs, most, steps, tmp_path):
    job, stage = toy(tmp_path, ones, epochs, max_steps=most)
    assert job.train([stage])["finetune"]["steps"] == steps == log_lines(tmp_path)[-1]["step"]


def test_a_share_of_an_epoch_is_as_many_updates_as_it_says(tmp_path):
    """0.28 * 25 is a little more than 7 in binary fractions, 0.29 * 100 a little less than 29."""
    job, stage = toy(tmp_path, ones)
    for batches in range(1, 101):
        data = Encoded([np.array([0])] * (2 * batches), [np.array([0])] * (2 * batches))
        for percent in range(1, 101):
            of = replace(stage, data=data, epochs=percent / 100)
            assert of.steps(job.options) == -(-percent * batches // 100), (percent, batches)
            assert int(part_of(percent / 100, batches)) == percent * batches // 100, (percent, batches)


def test_warm_up_is_a_share_of_the_updates(tmp_path):
    job, stage = toy(tmp_path, ones, 25.0, warmup=0.29, log_every=1)  # of 100
    job.train([stage])
    rates = [line["learning_rate"] for line in log_lines(tmp_path)]
    np.testing.assert_allclose(rates[:29], 0.1 * np.arange(1, 30) / 29, rtol=1e-5)
    np.testing.assert_allclose(rates[29:], 0.1 * np.arange(71, 0, -1) / 71, rtol=1e-5)


def test_totals_of_long_windows(places, tmp_path):
    """The lengths of a store are of a short type, whose squares wrap from 256 on."""
    model = write_teacher(tmp_path / "bert", labels=0, max_position_embeddings=300)
    (tmp_path / "corpus.txt").write_text("the tea was hot and the cake was fresh . " * 80)
    argv = ("--teacher", model, "--corpus", tmp_path / "corpus.txt", "--stages", "general", "--max-length", 300)
    argv += ("--max-steps", 1, "--v-th", 2, "--time-steps", 2, "--operators", "float", "--output-dir", tmp_path / "out")
    assert run(distill.main, *argv) == 0
    teacher = load_teacher(model)
    store = read_corpus([tmp_path / "corpus.txt"], load_tokenizer(model), 300).tokenised(tmp_path / "cache")
    batch = collate(store, np.arange(len(store)))
    assert sorted(store.lengths.tolist())[-2:] == [300, 300] and store.lengths.dtype == np.uint16
    student = init_student(asdict(teacher.config) | {"v_th": 2.0}, teacher)
    out = teacher(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    for name, weights in (("hidden", (1.0, 0.0)), ("attention", (0.0, 0.01))):
        terms = dict(zip(("hidden", "attention"), weights, strict=True)) | {"logits": 0.0}
        loss, _ = student.distill_gradients(batch.input_ids, batch.attention_mask, out, batch.token_type_ids, **terms)
        assert log_lines(tmp_path / "out")[0][f"loss_{name}"] == pytest.approx(loss, rel=1e-4), name


def test_every_example_once_an_epoch_and_another_order_in_the_next(tmp_path):
    seen = []

    def record(batches, seed, totals):
        seen.extend(i for b in batches for i in b.index.tolist())
        return ones(batches, seed, totals)

    job, stage = toy(tmp_path, record, 2.0)
    job.train([stage])
    assert sorted(seen[:8]) == sorted(seen[8:]) == list(range(8)) and seen[:8] != seen[8:]
    again = [int(i) for _, b in zip(range(3), stage.batches(job.options, 5), strict=False) for i in b]
    assert again == seen[10:16]  # from the sixth update on


def test_two_checkpoints_are_kept(tmp_path):
    job, stage = toy(tmp_path, ones, save_every=1)
    job.train([stage])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["finetune-0000011", "finetune-0000012"]
    state = json.loads((tmp_path / "checkpoints" / "finetune-0000012" / "state.json").read_text())
    assert state["stage"] == "finetune" and state["step"] == state["updates"] == 12


def test_stages_begin_with_fresh_moments(tmp_path):
    job, stage = toy(tmp_path, ones, 1.0, save_every=0)
    moments = []

    def record(batches, seed, totals):
        moments.append(optimizers[-1].step)
        return ones(batches, seed, totals)

    optimizers, make = [], job._optimizer
    job._optimizer = lambda: optimizers.append(make()) or optimizers[-1]
    job.train([Stage(n, stage.data, record, 1.0, 0.1) for n in ("internal", "prediction")])
    assert moments == [0, 1, 2, 3] * 2


# ---- it learns ----------------------------------------------------------------------------------------------


def losses(directory):
    return np.array([line["loss"] for line in log_lines(directory)])


TEN_STEPS = ("--batch-size", 4, "--epochs", 10, "--log-every", 1, "--save-every", 0, "--warmup", 0, "--seed", 2)


def four_texts(tmp_path):
    lines = "1\ta joy .\n0\ta bore .\n1\tgreat tea .\n0\tcold soup .\n"
    return write_sst2(tmp_path / "four", lines, lines)


def test_ten_steps_of_finetuning_fall(tmp_path):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = write_teacher(tmp_path / "bert", hidden_size=32, intermediate_size=64, **still)
    where = ("--model", model, "--task", "sst-2", "--data-dir", four_texts(tmp_path), "--output-dir", tmp_path / "out")
    assert run(finetune.main, *where, *TEN_STEPS, "--learning-rate", 1e-3) == 0
    curve = losses(tmp_path / "out")
    assert len(curve) == 10 and (np.diff(curve) < 0).all() and curve[-1] < 0.1 * curve[0]


@pytest.mark.parametrize(
    "variant",
    [
        ("--feedback",),
        ("--looped", "--encoders", 1),
        ("--lateral",),
        ("--operators", "float"),
        ("--operators", "float", "--spikes", "signed"),
        ("--student", "ann", "--init", "random"),
    ],
    ids=lambda v: " ".join(map(str, v)),
)
def test_ten_steps_of_distillation_fall(variant, places, tmp_path):
    rate = 3e-3 if "ann" in variant else 1e-2
    where = ("--teacher", places["model"], "--task", "sst-2", "--data-dir", four_texts(tmp_path))
    options = ("--time-steps", 2, "--learning-rate", rate, "--classifier", "learnt", *variant)
    assert run(distill.main, *where, "--output-dir", tmp_path / "out", *TEN_STEPS, *options) == 0
    curves = losses(tmp_path / "out").reshape(2, 10)
    assert (np.diff(curves) < 0).all() and (curves[:, -1] < 0.95 * curves[:, 0]).all(), curves


def test_lateral_weights_stay_inhibiting_and_resume(places, tmp_path, monkeypatch):
    done, stopped = tmp_path / "whole", tmp_path / "stopped"
    argv = [a for a in distill_argv(places, "out", "--lateral") if a != "--feedback"]
    argv += ["--learning-rate", "1e-2", "--classifier", "learnt"]  # some weights then arrive at 0
    assert run(distill.main, *argv, "--output-dir", done) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        assert run(distill.main, *argv, "--output-dir", stopped) == 130
    assert run(distill.main, *argv, "--output-dir", stopped, "--resume") == 0
    ours, theirs = (load_file(d / "model.safetensors") for d in (stopped, done))
    assert all(np.array_equal(ours[n], t) for n, t in theirs.items())
    weight = theirs["lateral.weight"]
    assert (weight >= 0).all() and not np.diagonal(weight).any() and (weight == 0).sum() > len(weight)


def test_an_ordinary_copy_of_the_teacher_has_nothing_to_learn_from_its_states(places, tmp_path):
    where = ("--teacher", places["model"], "--task", "sst-2", "--data-dir", four_texts(tmp_path))
    options = ("--student", "ann", "--stages", "internal", "--output-dir", tmp_path / "out", "--teacher-cache", 0)
    assert run(distill.main, *where, *TEN_STEPS, *options) == 0
    assert losses(tmp_path / "out")[0] < 1e-9
