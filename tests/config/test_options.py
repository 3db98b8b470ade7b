"""Options: defaults < --config TOML < flags, and what is wrong with them in one line."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from nanospike import InputError
from nanospike.config.models import BertConfig, StudentConfig, read_config
from nanospike.config.options import option, parse, plain
from nanospike.distill import Distill
from nanospike.evaluate import Evaluate
from nanospike.finetune import Finetune
from nanospike.predict import Predict

COMMANDS = [Distill, Evaluate, Finetune, Predict]
SHAPE = {"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every type."""

    out: Path = option("a required path")
    steps: int = option("a whole number, 50 % of it", 10)
    rate: float = option("a number", 0.5)
    name: str | None = option("one of two names", None, choices=("left", "right"))
    flag: bool = option("a switch", False)
    counts: tuple[int, ...] = option("whole numbers", (1, 2))
    rates: tuple[float, ...] = option("numbers", (0.1,))
    parts: tuple[str, ...] = option("names", (), choices=("a", "b", "c"))
    files: tuple[Path, ...] = option("files", ())

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f"--steps: found {self.steps}, expected at least 1")


def parsed(*argv, record=Options):
    return parse(record, list(argv), prog="prog")


def refused(capsys, *argv, record=Options):
    """What the one line on standard error says."""
    with pytest.raises(SystemExit) as stop:
        parsed(*argv, record=record)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("prog: error: ")
    return printed.err.removeprefix("prog: error: ").strip()


def toml(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# ---- what wins ----------------------------------------------------------------------------------------------


def test_defaults_then_file_then_flags(tmp_path):
    path = toml(tmp_path, "steps = 7\nrate = 2\nflag = true\ncounts = [3, 4]\n")
    assert parsed("--out", "x") == Options(out=Path("x"))
    assert parsed("--out", "x", "--config", path) == Options(out=Path("x"), steps=7, rate=2.0, flag=True, counts=(3, 4))
    given = parsed("--config", path, "--out", "x", "--steps", "9", "--no-flag", "--counts", "5")
    assert given == Options(out=Path("x"), steps=9, rate=2.0, flag=False, counts=(5,))
    assert isinstance(given.rate, float)


def test_a_file_may_give_what_is_required_and_spell_with_hyphens(tmp_path):
    assert parsed("--config", toml(tmp_path, 'out = "y"\n')) == Options(out=Path("y"))
    path = toml(tmp_path, 'output-dir = "y"\nlearning_rate = [1e-3, 1e-4]\nstages = ["internal", "prediction"]\n')
    assert parsed("--config", path, record=Distill).learning_rate == (1e-3, 1e-4)


def test_every_type_from_flags():
    given = parsed(
        *("--out", "a/b", "--steps", "3", "--rate", "1e-3", "--name", "right", "--flag", "--counts", "8,16,32"),
        *("--rates", "1e-3,2", "--parts", "b,a", "--files", "x.txt", "y,z.txt"),
    )
    expected = {"steps": 3, "rate": 1e-3, "name": "right", "flag": True, "counts": (8, 16, 32), "rates": (1e-3, 2.0)}
    files = (Path("x.txt"), Path("y,z.txt"))
    assert given == Options(out=Path("a/b"), **expected, parts=("b", "a"), files=files)
    assert all(isinstance(r, float) for r in given.rates)


def test_every_type_from_a_file(tmp_path):
    text = 'out = "o"\nname = "left"\nrates = [1, 2.5]\nparts = ["c"]\nfiles = ["x", "y"]\ncounts = 5\n'
    given = parsed("--config", toml(tmp_path, text))
    assert given.rates == (1.0, 2.5) and given.parts == ("c",) and given.files == (Path("x"), Path("y"))
    assert given.counts == (5,) and given.name == "left"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Two places, one of which is called otherwise."""

    source: Path = option("where from", shown="IN")
    out: Path = option("where to")
    rest: tuple[str, ...] = option("what else", (), shown="MORE")


def test_positionals_are_given_once_and_named(capsys, tmp_path):
    placed = lambda *argv: parse(Places, list(argv), prog="prog", positional=("source", "out", "rest"))  # noqa: E731
    found = placed("a", "b", "c", "d")
    assert (found.source, found.out, found.rest) == (Path("a"), Path("b"), ("c", "d"))
    from_file = placed("--config", toml(tmp_path, "out = 'there'\n"), "a")
    assert (from_file.source, from_file.out, from_file.rest) == (Path("a"), Path("there"), ())
    for argv, said in ((["a"], "required: OUT"), ([], "required: IN, OUT")):
        with pytest.raises(SystemExit) as stop:
            placed(*argv)
        printed = capsys.readouterr().err
        assert stop.value.code == 2 and said in printed and printed.count("\n") == 1
    with pytest.raises(SystemExit):
        placed("--help")
    assert "prog [-h] [--config CONFIG] IN OUT [MORE ...]" in " ".join(capsys.readouterr().out.split())


def test_an_empty_text_is_kept_as_a_positional():
    assert parse(Predict, ["", "b,c"], prog="prog", positional=("texts",)).texts == ("", "b,c")


# ---- what is refused ----------------------------------------------------------------------------------------


def test_unknown_option(capsys):
    assert "unrecognized arguments: --stepz 3" in refused(capsys, "--out", "x", "--stepz", "3")
    assert "--step" in refused(capsys, "--out", "x", "--step", "3")  # no abbreviations


def test_unknown_name_in_a_file_lists_the_known_ones(capsys, tmp_path):
    path = toml(tmp_path, 'stepz = 3\nouts = "x"\n')
    said = refused(capsys, "--out", "x", "--config", path)
    known = ", ".join(f.name for f in fields(Options))
    assert said == f"--config {path}: unknown outs, stepz; known: {known}"


def test_missing_required_options_are_named(capsys):
    assert refused(capsys) == "missing --out"
    assert refused(capsys, record=Finetune) == "missing --output-dir, --model"


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--steps", "x"], "--steps: found 'x', expected a whole number"),
        (["--steps", "1.5"], "--steps: found '1.5', expected a whole number"),
        (["--steps", ""], "--steps: found '', expected a whole number"),
        (["--rate", "fast"], "--rate: found 'fast', expected a number"),
        (["--counts", "1,x"], "--counts: found '1,x', expected whole numbers"),
        (["--rates", "1;2"], "--rates: found '1;2', expected numbers"),
        (["--name", "up"], "--name: found 'up', expected one of left, right"),
        (["--parts", "a,z"], "--parts: found 'z', expected one of a, b, c"),
        (["--steps", "0"], "--steps: found 0, expected at least 1"),
        (["--steps"], "argument --steps: expected one argument"),
        (["stray"], "unrecognized arguments: stray"),
        (["--flag=yes"], "argument --flag/--no-flag: ignored explicit argument 'yes'"),
    ],
)
def test_bad_flags(argv, said, capsys):
    assert refused(capsys, "--out", "x", *argv) == said


@pytest.mark.parametrize(
    "line, said",
    [
        ("steps = 1.5", "--steps: found 1.5, expected a whole number"),
        ("steps = true", "--steps: found True, expected a whole number"),
        ("steps = [3]", "--steps: found [3], expected a whole number"),
        ("rate = true", "--rate: found True, expected a number"),
        ("flag = 1", "--flag: found 1, expected true or false"),
        ('flag = "yes"', "--flag: found 'yes', expected true or false"),
        ("counts = [1, 2.5]", "--counts: found [1, 2.5], expected whole numbers"),
        ("counts = [true]", "--counts: found [True], expected whole numbers"),
        ("name = 3", "--name: found 3, expected text"),
        ("out = 3", "--out: found 3, expected a path"),
        ("files = [3]", "--files: found [3], expected paths"),
        ('name = "up"', "--name: found 'up', expected one of left, right"),
        ("steps = 0", "--steps: found 0, expected at least 1"),
    ],
)
def test_bad_values_in_a_file(line, said, capsys, tmp_path):
    argv = () if line.startswith("out") else ("--out", "x")
    assert refused(capsys, *argv, "--config", toml(tmp_path, line)) == said


def test_files_of_options_that_cannot_be_read(capsys, tmp_path):
    path = str(tmp_path / "absent.toml")
    assert refused(capsys, "--out", "x", "--config", path) == f"--config {path}: No such file or directory"
    assert f"--config {tmp_path}: Is a directory" in refused(capsys, "--out", "x", "--config", str(tmp_path))
    path = toml(tmp_path, "steps = \n")
    assert refused(capsys, "--out", "x", "--config", path).startswith(f"--config {path}: ")
    Path(path).write_bytes(b'out = "caf\xe9"')
    assert "--config" in refused(capsys, "--config", path)


def test_a_file_of_options_is_utf_8(tmp_path):
    assert parsed("--config", toml(tmp_path, 'out = "dreißig"\n')).out == Path("dreißig")


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--time-steps", "0"], "--time-steps: found [0], expected whole numbers of at least 1"),
        (["--time-steps", "4,-1"], "--time-steps: found [4, -1]"),
        (["--time-steps", ""], "--time-steps: found [], expected whole numbers"),
        (["--time-steps", "x"], "--time-steps: found 'x', expected whole numbers"),
        (["--batch-size", "0"], "--batch-size: found 0, expected at least 1"),
        (["--max-length", "2"], "--max-length: found 2, expected at least 3"),
        (["--log-every", "0"], "--log-every: found 0, expected at least 1"),
        (["--learning-rate", "nan"], "--learning-rate: found nan, expected at least 0"),
        (["--weight-decay", "-0.1"], "--weight-decay: found -0.1, expected at least 0"),
        (["--clip-norm", "-1"], "--clip-norm: found -1.0, expected at least 0"),
        (["--workers", "-1"], "--workers: found -1, expected at least 0"),
        (["--max-steps", "-1"], "--max-steps: found -1, expected at least 0"),
        (["--save-every", "-1"], "--save-every: found -1, expected at least 0"),
        (
            ["--learning-rate", "1,2,3,4"],
            "--learning-rate: found 4 values, expected 1 or one for each stage (internal, pre",
        ),
        (["--epochs", "0"], "--epochs: found (0.0,), expected above 0"),
        (["--warmup", "1.5"], "--warmup: found 1.5, expected a share between 0 and 1"),
        (["--temperature", "0"], "--temperature: found 0.0, expected above 0"),
        (["--temperature", "nan"], "--temperature: found nan, expected above 0"),
        (["--hidden", "-1"], "--hidden: found -1.0, expected at least 0"),
        (["--labels", "inf"], "--labels: found inf, expected at least 0"),
        (["--encoders", "-1"], "--encoders: found -1, expected at least 0"),
        (["--seed", "-1"], "--seed: found -1, expected at least 0"),
        (["--leak", "0.9", "--drive", "differential"], "--drive differential: for neurons without a leak"),
        (["--stages", "general"], "--corpus: needed for the stage general"),
        (["--stages", "internal,internal"], "--stages: found internal,internal, expected each stage once"),
        (
            ["--corpus", "a", "--stages", "internal"],
            "--corpus: is read by the stage general, which --stages leaves out",
        ),
        (["--task", "sst-2"], "--data-dir: needed for --task sst-2"),
        (["--forward", "spikes", "--student", "ann"], "--forward: an ann student has no spiking neurons"),
        (
            ["--jacobian-penalty", "0.1"],
            "--jacobian-penalty: there is no loop without --feedback, --looped or --lateral",
        ),
        (["--forward-solver", "damped"], "--forward-solver: there is no loop without --feedback, --looped or --lat"),
        (["--adjoint-rtol", "0.1"], "--adjoint-rtol: there is no loop without --feedback, --looped or --lateral"),
        (["--forward-solver", "newton"], "--forward-solver: found 'newton', expected one of anderson, broyden, damped"),
        (["--adjoint-rtol", "-1", "--feedback"], "--adjoint-rtol: found -1.0, expected at least 0"),
        (["--adjoint-rtol", "1", "--feedback"], "--adjoint-rtol: found 1.0, expected below 1"),
        (
            ["--adjoint-rtol", "0.1", "--adjoint-solver", "spide", "--feedback"],
            "--adjoint-rtol: --adjoint-solver spide looks at no tolerance",
        ),
        (
            ["--feedback-rank", "2"],
            "--feedback-rank, --feedback-from: they shape the weight of --feedback, which is not",
        ),
        (["--feedback-from", "cls"], "--feedback-rank, --feedback-from: they shape the weight of --feedback, which is"),
        (["--feedback-from", "all"], "--feedback-from: found 'all', expected one of tokens, cls"),
        (["--feedback-rank", "-1", "--feedback"], "--feedback-rank: found -1, expected at least 0"),
        (["--looped", "--feedback"], "--looped, --feedback: a loop is a feedback of its own"),
        (["--looped", "--encoders", "3"], "--looped: found --encoders 3, expected 1 or 2"),
        (["--jacobian-penalty", "-1", "--feedback"], "--jacobian-penalty: found -1.0, expected at least 0"),
        (["--v-th", "2", "--leak", "0.9", "--student", "ann"], "--v-th, --leak: an ann student"),
        (
            ["--stages", "internal", "--hidden", "0", "--attention", "0"],
            "--stages internal: every weight of its loss is 0",
        ),
        (["--logits", "0"], "--stages prediction: every weight of its loss is 0"),
        (["--stages", "internal", "--labels", "1"], "--labels, --keep-internal"),
        (["--few-steps", "0"], "--few-steps: found 0, expected at least 1"),
        (["--operators", "float", "--few-steps", "2"], "--few-steps, --settled-share: for the stage few-steps"),
        (["--stages", "few-steps", "--student", "ann"], "--stages few-steps: an ann student has no spiking neurons"),
        (["--thresholds", "learnt", "--student", "ann"], "--thresholds: an ann student"),
        (["--adjoint-solver", "spide"], "--adjoint-solver: there is no loop without --feedback, --looped or --lateral"),
        (["--mask", "1"], "--mask: found 1.0, expected a share, at least 0 and below 1"),
        (["--dropout", "-0.1"], "--dropout: found -0.1, expected a share"),
        (["--mask", "0.1", "--teacher-cache", "2"], "--teacher-cache: with --mask no text comes twice"),
        (["--mask", "0.1", "--cache-dir", "cache"], "--cache-dir: with --mask no text comes twice"),
        (["--settled-share", "1.5"], "--settled-share: found 1.5, expected a share between 0 and 1"),
        (["--thresholds", "own"], "--thresholds: found 'own', expected one of fixed, learnt"),
        (["--device", "gpu"], "--device: found 'gpu', expected one of cpu, cuda"),
    ],
)
def test_nonsense_that_distill_refuses(argv, said, capsys):
    assert refused(capsys, *argv, record=Distill).startswith(said)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--time-steps", "0"], "--time-steps: found [0]"),
        (["--time-steps", "2.5"], "--time-steps: found '2.5', expected whole numbers"),
        (["--batch-size", "-2"], "--batch-size: found -2, expected at least 0"),
        (["--initial", "1"], "--initial: found 1.0, expected at least 0 and below 1"),
        (["--split", "test"], "--output-dir: needed for the predictions of --split test"),
        (["--margin-decay", "1"], "--margin-decay: without --margin there is nothing that decays"),
        (["--margin", "1", "--margin-decay", "-1"], "--margin-decay: found -1.0, expected at least 0"),
    ],
)
def test_nonsense_that_evaluate_refuses(argv, said, capsys):
    assert refused(capsys, *argv, record=Evaluate).startswith(said)


@pytest.mark.parametrize("value", ["0", "-1"])
def test_nonsense_that_predict_refuses(value, capsys):
    said = refused(capsys, "--time-steps", value, record=Predict)
    assert said == f"--time-steps: found {value}, expected at least 1"


def test_a_number_that_may_be_a_word(tmp_path, capsys):
    assert parsed("--time-steps", "auto", record=Predict).time_steps == "auto"
    assert parsed("--time-steps", "7", record=Predict).time_steps == 7
    assert parsed(record=Predict).time_steps is None
    path = toml(tmp_path, 'time-steps = "auto"\n')
    assert parsed("--config", path, record=Predict).time_steps == "auto"
    said = refused(capsys, "--time-steps", "Auto", record=Predict)
    assert said == "--time-steps: found 'Auto', expected a whole number or auto"


# ---- help, and saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [*COMMANDS, Options])
def test_help_explains_every_option(record, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("--help", record=record)
    said = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and record.__doc__.split(".")[0].split()[0] in said
    for f in fields(record):
        assert "--" + f.name.replace("_", "-") in said and " ".join(f.metadata["help"].split()[:2]) in said, f.name


@pytest.mark.parametrize("record", COMMANDS)
def test_every_command_takes_a_device_a_seed_and_a_file(record):
    names = {f.name for f in fields(record)}
    assert {"device", "seed"} <= names and "config" not in names
    assert all(f.metadata["help"] for f in fields(record))


def test_a_record_as_json():
    options = parsed("--out", "a/b", "--files", "x", "y", "--parts", "b")
    values = json.loads(json.dumps(plain(options)))
    assert values["out"] == "a/b" and values["files"] == ["x", "y"] and values["parts"] == ["b"]
    assert values["counts"] == [1, 2] and values["name"] is None and list(values) == [f.name for f in fields(Options)]


# ---- the shape of a model -----------------------------------------------------------------------------------


def test_keys_of_others_are_let_be_and_labels_are_counted():
    config = read_config(
        BertConfig, SHAPE | {"architectures": ["X"], "id2label": {"0": "a", "1": "b", "2": "c"}}, "here"
    )
    assert config.num_labels == 3 and config.hidden_size == 4 and config.layer_norm_eps == 1e-12
    assert read_config(BertConfig, SHAPE, "here").num_labels == 2


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"hidden_size": 0}, "here: config: hidden_size: found 0, expected a whole number of at least 1"),
        ({"vocab_size": 2.0}, "vocab_size: found 2.0, expected a whole number"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob: found '0.1', expected a number"),
        ({"v_th": -1.0}, "v_th: found -1.0, expected a number of at least 0"),
        ({"v_th": 0.0}, "v_th: found 0.0, expected a positive threshold"),
        ({"leak": 0.0}, "leak: found 0.0, expected above 0 and at most 1"),
        ({"activation": "relu"}, "activation: found 'relu', expected one of spiking, ann"),
        ({"feedback": 1}, "feedback: found 1, expected true or false"),
        ({"feedback": True, "feedback_rank": -1}, "feedback_rank: found -1, expected a whole number"),
        ({"feedback": True, "feedback_rank": False}, "feedback_rank: found False, expected a whole number"),
        ({"feedback": True, "feedback_rank": 5}, "feedback_rank: found 5, hidden_size is 4"),
        ({"feedback_rank": 2}, "feedback_rank, feedback_from: without effect"),
        ({"feedback_from": "cls"}, "feedback_rank, feedback_from: without effect"),
        ({"feedback": True, "feedback_from": "all"}, "feedback_from: found 'all', expected one of tokens, cls"),
        ({"looped": True, "feedback": True}, "looped, feedback: found both, expected one"),
        ({"looped": True, "num_hidden_layers": 3}, "looped: found 3 encoders, expected 1 or 2"),
        ({"teacher_hidden_size": 0}, "teacher_hidden_size: found 0, expected a whole number"),
    ],
)
def test_student_shapes_that_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        read_config(StudentConfig, SHAPE | changes, "here")
    assert read_config(StudentConfig, SHAPE | {"leak": 1, "v_th": 2, "teacher_hidden_size": None}, "here").v_th == 2
