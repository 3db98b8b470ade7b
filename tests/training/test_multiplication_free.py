"""distill with shift operators and low-bit weights: options, calibrated thresholds, students that teach students."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import check_owner
from models import SHAPE, random_batch, random_student, random_teacher
from tiny import edit_json, interrupt, run, write_sst2, write_teacher

import nanospike
from nanospike import distill, evaluate
from nanospike.arrays.backend import to_device, to_host
from nanospike.config.errors import InputError
from nanospike.data.text import Encoded
from nanospike.distill_options import Distill
from nanospike.model.fresh import init_student, with_operators
from nanospike.model.quantise import low_bit, low_bit_activation, low_bit_names
from nanospike.model.student import Student
from nanospike.model.student_teacher import StudentTeacher
from nanospike.training.pruning import Pruning, intermediate_rates, silent, without_silent
from nanospike.training.query_thresholds import with_calibrated_thresholds

SHORT = ("--batch-size", 14, "--epochs", 1, "--log-every", 1, "--time-steps", "1,2", "--workers", 1)
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("multiplication-free")
    write_sst2(root / "data")
    write_teacher(root / "teacher", pooler=False, mixing=4, **STILL)
    return root


def distilled(places, out, *options, teacher="teacher", status=0):
    """The student of a short run, loaded."""
    where = ("--teacher", places / teacher, "--task", "sst-2", "--data-dir", places / "data", "--output-dir", out)
    assert run(distill.main, *where, *SHORT, *options) == status
    return nanospike.load_student(out) if status == 0 else None


def saved(out, name="training_args"):
    return json.loads((out / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def shift(places):
    options = ("--operators", "shift", "--weights", "ternary", "--embedding-weights", "binary", "--spikes", "signed")
    distilled(places, places / "shift", *options, "--half-steps")
    return places / "shift"


def test_a_student_of_shifts_and_low_bit_weights(shift):
    student, args = nanospike.load_student(shift), saved(shift)
    assert (student.config.operators, student.config.half_steps) == ("shift", True) and student.low_bit
    assert (args["operators"], args["weights"], args["thresholds"]) == ("shift", "ternary", "calibrated")
    for name, kind in low_bit_names(student.config).items():
        assert kind == ("ternary" if name.startswith("encoder") else "binary")
        assert np.array_equal(low_bit(student.parameters()[name], kind), student.parameters()[name])
    own = {n for n in student.parameters() if n.startswith("thresholds.")}
    assert own == {f"thresholds.encoder.{i}.{p}" for i in (0, 1) for p in ("query", "key")}
    results = saved(shift, "eval_results")
    assert set(results["spiking"]) == {"1", "2"} and 0 < results["mean_rate"] < 1


def test_training_moves_masters_that_the_checkpoint_has(shift):
    from nanospike.files.model_files import read_tensors

    last = sorted((shift / "checkpoints").iterdir())[-1]
    masters, student = read_tensors(last / "model.safetensors"), nanospike.load_student(shift)
    weight = "encoder.layer.1.output.dense.weight"
    assert len(np.unique(np.abs(masters[weight][0]))) > 3
    assert np.array_equal(low_bit(masters[weight], "ternary"), student.parameters()[weight])


@pytest.mark.parametrize("update", [1, 3])
def test_it_resumes_to_the_same_bits(places, shift, update, tmp_path, monkeypatch):
    options = ("--operators", "shift", "--weights", "ternary", "--embedding-weights", "binary", "--spikes", "signed")
    more = (*options, "--half-steps", "--save-every", 1)
    with monkeypatch.context() as patch:
        interrupt(patch, update)
        distilled(places, tmp_path / "run", *more, status=130)
    if update > 1:
        distilled(places, tmp_path / "run", *more, "--resume")
        whole, again = (nanospike.load_student(d).parameters() for d in (shift, tmp_path / "run"))
        assert all(np.array_equal(again[n], p) for n, p in whole.items()) and again.keys() == whole.keys()


def test_a_run_begun_before_these_options_were_there_goes_on(places, tmp_path):
    distilled(places, tmp_path / "run", "--max-steps", 1)
    state = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "state.json"
    options = json.loads(state.read_text())["options"]
    for name in ("operators", "half_steps", "weights", "embedding_weights", "activation_bits"):
        del options[name]
    edit_json(state, options=options)
    distilled(places, tmp_path / "run", "--max-steps", 1, "--resume")
    distilled(places, tmp_path / "run", "--max-steps", 1, "--resume", "--weights", "binary", status=2)


def test_down_in_bits_step_by_step_with_a_student_as_teacher(places, tmp_path):
    """float, then ternary taught by it, then binary taught by that."""
    first = distilled(places, tmp_path / "float", "--operators", "float", "--spikes", "signed")
    teach = ("--init", tmp_path / "float", "--weights", "ternary")
    second = distilled(places, tmp_path / "ternary", *teach, teacher=tmp_path / "float")
    third = distilled(
        places, tmp_path / "binary", "--init", tmp_path / "ternary", "--weights", "binary", "--operators", "relu,norm",
        teacher=tmp_path / "ternary",
    )  # fmt: skip
    assert [s.config.weights for s in (first, second, third)] == ["float", "ternary", "binary"]
    assert third.config.operators == "norm,relu" and third.config.spikes == "signed"
    kept = distilled(places, tmp_path / "kept", "--init", tmp_path / "ternary", teacher=tmp_path / "ternary")
    assert kept.config.weights == "ternary" and saved(tmp_path / "kept")["weights"] == "ternary"


def test_a_student_teaches_what_it_settles_at(places):
    student, inputs = random_student(3, weights="ternary", operators="shift"), random_batch(3)
    teacher, settled = StudentTeacher(student), student.equilibrium(*inputs)
    out, _ = teacher.forward(inputs)
    for found, wanted in zip(
        [*out.hidden_states, *out.attention_scores, out.logits],
        [*settled.hidden_states, *settled.attention_scores, settled.logits], strict=True,
    ):  # fmt: skip
        assert np.array_equal(found, wanted)
    value, _ = student.distill_gradients(*inputs[:2], out, inputs[2], logits=0.0)
    student.tree["distill_map"]["weight"][...] = np.eye(8)
    student.tree["distill_map"]["bias"][...] = 0
    again, _ = student.distill_gradients(*inputs[:2], out, inputs[2], logits=0.0)
    assert value > 0.1 and again == 0  # it has nothing to learn from itself


def test_an_ordinary_bert_of_few_bits(places, tmp_path):
    options = ("--student", "ann", "--weights", "ternary", "--activation-bits", "3", "--operators", "softmax,relu")
    student = distilled(places, tmp_path, *options)
    config = student.config
    assert (config.activation, config.activation_bits, config.weights) == ("ann", 3, "ternary")
    assert saved(tmp_path, "eval_results")["spiking"] == {}


# ---- few steps, few spikes ------------------------------------------------------------------------------------


def lines_of(out):
    return [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]


def test_few_steps_of_several_lengths(places, tmp_path, monkeypatch):
    seen, gradients = [], Student.gradients

    def watched(student, inputs, targets, weights, loop, run, *more):
        seen.append(run)
        return gradients(student, inputs, targets, weights, loop, run, *more)

    monkeypatch.setattr(Student, "gradients", watched)
    distilled(places, tmp_path / "run", "--stages", "few-steps", "--few-steps", "1,4,2", "--max-steps", 1)
    assert [(s.time_steps, s.record) for s in seen] == [(4, (1, 4, 2))]


def test_a_run_begun_with_one_number_of_few_steps_goes_on(places, tmp_path):
    options = ("--stages", "few-steps", "--few-steps", "2", "--max-steps", 1)
    distilled(places, tmp_path / "run", *options)
    state = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "state.json"
    edit_json(state, options=json.loads(state.read_text())["options"] | {"few_steps": 2})
    distilled(places, tmp_path / "run", *options, "--resume")
    distilled(places, tmp_path / "run", *options, "--resume", "--few-steps", "2,3", status=2)


def test_a_spike_penalty_lowers_the_rate_where_it_is_asked(places, tmp_path):
    base = ("--epochs", 4, "--learning-rate", 3e-3, "--spikes", "signed", "--operators", "shift")
    for name, more in (("none", ()), ("all", ("--spike-penalty", "3")), ("late", ("--spike-penalty", "0,3"))):
        distilled(places, tmp_path / name, *base, *more)
    none, everywhere, late = (lines_of(tmp_path / n) for n in ("none", "all", "late"))
    assert everywhere[-1]["mean_rate"] < 0.95 * none[-1]["mean_rate"] and late[-1]["mean_rate"] < none[-1]["mean_rate"]
    assert all("loss_spikes" in line for line in everywhere) and not any("loss_spikes" in line for line in none)
    assert {line["stage"] for line in late if "loss_spikes" in line} == {"prediction"}


def test_a_window_is_part_of_the_student(places, tmp_path):
    wide = distilled(places, tmp_path / "wide", "--window", "0.25", "--spikes", "signed")
    assert wide.config.window == 0.25
    again = distilled(
        places, tmp_path / "again", "--init", tmp_path / "wide", "--stages", "few-steps", "--max-steps", 1
    )
    assert again.config.window == 0.25
    changed = distilled(places, tmp_path / "changed", "--init", tmp_path / "wide", "--window", "0.5", "--max-steps", 1)
    assert changed.config.window == 0.5
    scores = ("--model", tmp_path / "wide", "--task", "sst-2", "--data-dir", places / "data", "--time-steps", 1)
    for window in ((), ("--window", "0"), ("--window", "40")):
        out = tmp_path / f"scored{len(window)}{window[-1:]}"
        assert run(evaluate.main, *scores, *window, "--output-dir", out) == 0
    rates = [saved(out, "eval_results")["spiking_mean_rate"] for out in sorted(tmp_path.glob("scored*"))]
    assert rates[0] > 0 and rates[2] == 0 and rates[1] > rates[0]  # its own, 0, 40


# ---- removing neurons -----------------------------------------------------------------------------------------

PRUNED = ("--stages", "internal,prediction", "--prune", "0.2", "--spikes", "signed", "--save-every", 1)


@pytest.fixture(scope="module")
def pruned(places):
    distilled(places, places / "pruned", *PRUNED, "--weights", "binary", "--thresholds", "learnt")
    return places / "pruned"


def test_neurons_that_hardly_fire_are_removed(places, pruned):
    student = nanospike.load_student(pruned)
    widths = student.config.intermediate_widths
    assert student.config.intermediate_size == 12 and len(widths) == 2 and 2 <= sum(widths) < 24
    for i, width in enumerate(widths):
        assert student.parameters()[f"encoder.layer.{i}.intermediate.dense.weight"].shape == (width, 8)
        assert student.parameters()[f"encoder.layer.{i}.output.dense.weight"].shape == (8, width)
    assert student.equilibrium(*random_batch(1)).rates["encoder.1.intermediate"].shape[2] == widths[1]
    whole = distilled(
        places, places / "whole", *PRUNED[:2], *PRUNED[4:], "--weights", "binary", "--thresholds", "learnt"
    )
    assert whole.config.intermediate_sizes is None
    size = lambda d: (d / "model.safetensors").stat().st_size  # noqa: E731
    assert size(pruned) < size(places / "whole")
    more = distilled(places, places / "more", "--init", pruned, "--max-steps", 1)
    assert more.config.intermediate_widths == widths


def test_what_is_removed_had_been_kept_at_zero(pruned):
    """The last checkpoint, whole, computes what the smaller student does."""
    from nanospike.arrays.tree import nest
    from nanospike.files.model_files import read_tensors

    student, inputs = nanospike.load_student(pruned), random_batch(3)
    last = sorted((pruned / "checkpoints").iterdir())[-1]
    config = replace(student.config, intermediate_sizes=None)
    masters = Student(config, nest(read_tensors(last / "model.safetensors")))
    gone = silent(masters)
    assert [int((~g).sum()) for g in gone] == list(student.config.intermediate_widths)
    found, wanted = (s.equilibrium(*inputs) for s in (student, masters))
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    for i, g in enumerate(gone):
        assert not wanted.rates[f"encoder.{i}.intermediate"][..., g].any()


@pytest.mark.parametrize("update", [3, 4])
def test_a_pruned_run_resumes_to_the_same_bits(places, pruned, update, tmp_path, monkeypatch):
    """Stopped in its last stage, which has two updates: after the first, and after the second."""
    options = (*PRUNED, "--weights", "binary", "--thresholds", "learnt")
    with monkeypatch.context() as patch:
        interrupt(patch, update)
        distilled(places, tmp_path / "run", *options, status=130)
    distilled(places, tmp_path / "run", *options, "--resume")
    whole, again = (nanospike.load_student(d).parameters() for d in (pruned, tmp_path / "run"))
    assert again.keys() == whole.keys() and all(np.array_equal(again[n], p) for n, p in whole.items())


def test_rates_of_intermediate_neurons_are_means_over_real_tokens():
    student, texts = random_student(4, spikes="signed"), some_texts()
    ids = np.array(texts.ids)
    rates = student.equilibrium(ids).rates
    for i, found in enumerate(intermediate_rates(student, texts)):
        wanted = np.abs(rates[f"encoder.{i}.intermediate"]).mean(axis=(0, 1))
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("sizes", [[12], [12, 0], [13, 5], "ab", 3, [True, 5]])
def test_sizes_that_cannot_be_are_named(sizes):
    config = SHAPE.__dict__ | {"intermediate_sizes": sizes}
    with pytest.raises(InputError, match="intermediate_sizes: found"):
        nanospike.init_student(config)


# ---- thresholds of queries and keys ---------------------------------------------------------------------------


def some_texts(n=6, length=5):
    rng = np.random.default_rng(1)
    return Encoded([rng.integers(0, 40, length) for _ in range(n)], [np.zeros(length, np.int64)] * n)


@pytest.mark.parametrize("quantile", [0.5, 1.0])
def test_calibrated_thresholds_are_quantiles_of_the_teachers_currents(quantile):
    teacher, texts = random_teacher(5), some_texts()
    config = teacher.config.__dict__ | {"operators": "shift", "spikes": "signed", "num_hidden_layers": 1}
    student = with_calibrated_thresholds(
        init_student(config, teacher, dtype="float64", layer_map=[2]), teacher, texts, [2], quantile
    )
    ids = np.array(texts.ids)
    entering = teacher(ids, None, ids * 0).hidden_states[1]
    for kind in ("query", "key"):
        this = teacher.tree["encoder"]["layer"][1]["attention"]["self"][kind]
        wanted = np.quantile(np.abs(entering @ this["weight"].T + this["bias"]), quantile)
        np.testing.assert_allclose(student.parameters()[f"thresholds.encoder.0.{kind}"], [wanted], rtol=1e-12)


def test_at_the_largest_currents_no_query_is_clipped():
    """Scores are then those of the teacher's operators: the thresholds change nothing."""
    teacher, texts = random_teacher(5, labels=0), some_texts()
    base = teacher.config.__dict__ | {"spikes": "signed", "v_th": 64.0}
    ids = np.array(texts.ids)
    wanted = init_student(base, teacher, dtype="float64").equilibrium(ids).attention_scores
    student = init_student(base | {"operators": "query"}, teacher, dtype="float64")
    for fitted in (student, with_calibrated_thresholds(student, teacher, texts, quantile=1.0)):
        for found, score in zip(fitted.equilibrium(ids).attention_scores, wanted, strict=True):
            np.testing.assert_allclose(found, score, rtol=1e-9, atol=1e-10)
    assert not np.allclose(
        with_calibrated_thresholds(student, teacher, texts, quantile=0.5).equilibrium(ids).attention_scores[0],
        wanted[0],
    )


@pytest.mark.parametrize("v_th", [1.0, 3.0])
def test_a_student_whose_queries_become_spikes_has_the_same_scores(v_th):
    """Where nothing is clipped; and back again."""
    inputs = random_batch(2)
    student = random_student(2, spikes="signed", v_th=v_th)
    for p in (student.tree["encoder"]["layer"][i]["attention"]["self"][n] for i in (0, 1) for n in ("query", "key")):
        p["weight"] *= 0.02
        p["bias"] *= 0.02
    other = with_operators(student, {"operators": "query"})
    assert other.config.operators == "query"
    for changed in (other, with_operators(other, {"operators": "float"})):
        for found, wanted in zip(*(s.equilibrium(*inputs).attention_scores for s in (changed, student)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


# ---- what does not go together --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message, options",
    [
        ("--operators: found 'gelu', expected float, shift", {"operators": "gelu"}),
        ("found --leak 0.9", {"operators": "shift", "leak": 0.9}),
        ("found --drive instant", {"operators": "softmax", "drive": "instant"}),
        ("--operators norm: not with --feedback", {"operators": "norm", "feedback": True}),
        ("--operators norm: not with --feedback", {"operators": "norm", "looped": True, "encoders": 2}),
        ("--operators norm: not with --feedback", {"operators": "norm", "lateral": True}),
        ("an ann student has no spiking queries", {"operators": "shift", "student": "ann"}),
        ("--thresholds: an ann student has no spiking neurons", {"thresholds": "calibrated", "student": "ann"}),
        ("--activation-bits: of --student ann", {"activation_bits": 3, "student": "spiking"}),
        ("--activation-bits: found -1", {"activation_bits": -1}),
        ("--spike-penalty: found -1", {"spike_penalty": (-1.0,)}),
        ("--spike-penalty: found 2 values, expected 1 or one for each stage", {"spike_penalty": (0.0, 1.0)}),
        ("--spike-penalty: an ann student", {"spike_penalty": (1.0,), "student": "ann"}),
        ("--window, --prune: an ann student", {"window": 1.0, "prune": 0.1, "student": "ann"}),
        ("--window: for neurons without a leak", {"window": 1.0, "leak": 0.9}),
        ("--prune: found -1", {"prune": -1.0}),
        ("--few-steps: found .2, 2., expected time steps, each once", {"few_steps": (2, 2)}),
    ],
)
def test_what_does_not_go_together_is_refused(message, options):
    with pytest.raises(InputError, match=message):
        Distill(**options)


@pytest.mark.parametrize(
    "message, options",
    [
        ("--thresholds calibrated: for spiking queries, found --operators norm", ("--thresholds", "calibrated")),
        ("half_steps: without effect", ("--half-steps", "--operators", "query")),
        ("--activation-bits: of --student ann", ("--activation-bits", 2)),
    ],
)
def test_what_shows_later_is_one_line_and_leaves_nothing(places, message, options, tmp_path, capsys):
    distilled(places, tmp_path / "out", "--operators", "norm", *options, status=2)
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_student_with_thresholds_of_its_own_teaches_only_those_that_start_from_it(places, shift, tmp_path, capsys):
    distilled(places, tmp_path / "out", teacher=shift, status=2)
    assert "start from it with --init DIR" in capsys.readouterr().err
    again = distilled(places, tmp_path / "again", "--init", shift, "--max-steps", 1, teacher=shift)
    assert again.config.operators == "shift"


def test_pruning_and_calibration_run_on_the_device(xp, device):
    """The same neurons go, and the same thresholds come, as on the host."""
    texts, found = some_texts(), {}
    for place in {device, "cpu"}:
        teacher = random_teacher(6, dtype="float32", device=place)
        config = teacher.config.__dict__ | {"operators": "shift", "spikes": "signed", "weights": "ternary"}
        student = init_student(config, teacher, device=place)
        student = with_calibrated_thresholds(student, teacher, texts)
        Pruning(student, texts, 0.3).begin(0)
        small = without_silent(student)
        assert 2 <= sum(small.config.intermediate_widths) < 24
        check_owner(np if place == "cpu" else xp, small.parameters())
        found[place] = small.config, {n: to_host(p) for n, p in small.parameters().items() if "thresholds" in n}
    assert found[device][0] == found["cpu"][0]
    for name, value in found["cpu"][1].items():
        np.testing.assert_allclose(found[device][1][name], value, rtol=1e-4)


@pytest.mark.parametrize("bits", [1, 3])
def test_rounded_activations_run_on_the_device(bits, xp, device):
    x = np.random.default_rng(bits).standard_normal((3, 7)).astype(np.float32)
    found = low_bit_activation(to_device(x, device), bits)
    check_owner(xp, found)
    np.testing.assert_allclose(to_host(found), low_bit_activation(x, bits), rtol=1e-6)
