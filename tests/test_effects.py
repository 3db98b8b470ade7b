"""Every option of every command has an effect that is seen here, from the command line to the arithmetic.

A new option needs a row in the table of its command, or test_every_option_has_a_row fails. A row (effects.Row) is

    "temperature": Row(1.0, 3.0, "weights", given=PREDICTION, check=losses("temperature")),

two values, what of the two outcomes must differ (attributes of effects.Outcome), and perhaps what must be alike, what
else both runs are given, and a check that computes the effect by another way. The runs take a tiny BERT, 28 texts and
one update an epoch; outcomes of the same command line are computed once.
"""

import importlib.util
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from effects import Row, batch_of, options_of, outcome, tensors_of
from tiny import CORPUS, DEV, TRAIN, run, write_sst2, write_teacher

import nanospike
from nanospike.__main__ import commands

NUMBA = importlib.util.find_spec("numba") is not None
RATE = 0.01
OWN = {"task": None, "data_dir": None, "train_file": "{p}/own.csv"}
PREDICTION = {"stages": "prediction", "classifier": "learnt"}
FEW = {"stages": "few-steps", "epochs": 4}
LOOP = {"feedback": True}
FRESH = {"max_steps": 1}


def dev_by_hand(p):
    lines = [line.partition("\t") for line in DEV.splitlines()]
    return batch_of(p / "teacher", [text for *_, text in lines], [int(label) for label, *_ in lines])


def train_by_hand(p):
    lines = [line.partition("\t") for line in TRAIN.splitlines()]
    return batch_of(p / "teacher", [text for *_, text in lines], [int(label) for label, *_ in lines])


# ---- checks of known effects ------------------------------------------------------------------------------------


def rates(one, other, p):
    """Warm-up of 0 and of half of 4 updates, then down to 0."""
    for found, shares in ((one, (1, 0.75, 0.5, 0.25)), (other, (0.5, 1, 1, 0.5))):
        stages = len(found.log) // 4
        np.testing.assert_allclose(found.logged("learning_rate"), RATE * np.tile(shares, stages), rtol=1e-5)


def decayed(one, other, p):
    """The first update with decay is the one without it, less rate * decay * what was there, of matrices only."""
    before, batch = tensors_of(p / "teacher"), train_by_hand(p)
    ids, length = batch.inputs[0], batch.inputs[0].shape[1]
    rows = {"word_embeddings": np.unique(ids), "position_embeddings": np.arange(length), "token_type_embeddings": [0]}
    for name, start in before.items():
        lost = RATE * 0.5 * start * (name.endswith("weight") and "LayerNorm" not in name)
        if (table := name.split(".")[1]) in rows:  # what no text has stays as it is
            lost[np.setdiff1d(np.arange(len(lost)), rows[table])] = 0
        np.testing.assert_allclose(other.tensors[name], one.tensors[name] - lost, rtol=1e-5, atol=1e-6, err_msg=name)


def clipped(one, other, p):
    """A gradient cut far below AdamW's epsilon hardly moves anything."""
    before = tensors_of(p / "teacher")
    moved = [max(np.abs(run.tensors[n] - b).max() for n, b in before.items()) for run in (one, other)]
    assert moved[1] < 0.2 * moved[0] and np.array_equal(
        one.logged("gradient_norm")[0], other.logged("gradient_norm")[0]
    )


def losses(option):
    """The first terms of the log are those of the library's gradient at the weights that a run starts with."""

    def check(first, second, p):
        teacher, batch = nanospike.load_teacher(p / "teacher"), train_by_hand(p)
        student = nanospike.init_student(asdict(teacher.config), teacher)
        out = teacher(*batch.inputs)
        row = DISTILL[option]
        for found, value in ((first, row.one), (second, row.other)):
            options = {"hidden": 1.0, "attention": 0.01, "logits": 1.0, "labels": 0.0, "keep_internal": 0.0}
            options |= {"temperature": 1.0} | {k: v for k, v in row.given.items() if k in options} | {option: value}
            internal = options["keep_internal"] if "stages" in row.given else 1.0
            weights = {"hidden": options["hidden"] * internal, "attention": options["attention"] * internal}
            weights |= {"logits": options["logits"] * ("stages" in row.given), "labels": options["labels"]}
            line, terms = found.log[0], {k for k, w in weights.items() if w}
            assert {k[5:] for k in line if k.startswith("loss_")} == terms
            for name in terms:
                alone = {n: float(n == name) for n in ("hidden", "attention", "logits")}
                labels = batch.labels if name == "labels" else None
                ids, mask, types = batch.inputs
                value, _ = student.distill_gradients(
                    ids, mask, out, types, labels=labels, temperature=options["temperature"], **alone
                )
                assert line[f"loss_{name}"] == pytest.approx(weights[name] * value, rel=1e-3), name

    return check


def simulated(option):
    """Gaps and spikes of both runs are those of the library's simulation with this option."""

    def check(first, second, p):
        batch, row = dev_by_hand(p), EVALUATE[option]
        student = nanospike.load_student(row.given.get("model", "{p}/student").format(p=p))
        settled = student.equilibrium(*batch.inputs).hidden_states[-1]
        real = batch.mask[:, :, None]
        for found, value in ((first, row.one), (second, row.other)):
            how = {"drive": "differential"} | {k: v for k, v in row.given.items() if k != "model"} | {option: value}
            run = student.simulate(*batch.inputs, time_steps=4, record=[2, 4], **how)
            for t in (2, 4):
                gap = (np.abs(run.output_rates[t] - settled) * real).sum() / (real.sum() * settled.shape[2])
                assert found.scores["equilibrium_gap"][str(t)] == pytest.approx(gap, rel=1e-4)
                right = (run.logits[t].argmax(axis=1) == batch.labels).mean()
                assert found.scores["spiking"][str(t)] == pytest.approx(right)

    return check


def thresholds_start(one, other, p):
    """Learnt thresholds start where the fixed ones are: at --v-th."""
    own = {n: v for n, v in other.tensors.items() if n.startswith("thresholds.")}
    assert len(own) == 13 and all(v.tolist() == [1.5] for v in own.values())
    assert all(np.array_equal(other.tensors[n], v) for n, v in one.tensors.items())


def resumed(one, other, p):
    assert one.status == 2 and "not empty" in one.said and other.status == 0 and "resuming" in other.said


def done_before(command):
    """A finished run in the folder already."""

    def before(out, p):
        main = importlib.import_module(f"nanospike.{command}").main
        argv = [str(x).format(p=p, out=out) for k, v in BASE[command].items() for x in ("--" + k.replace("_", "-"), v)]
        assert run(main, *argv) == 0

    return before


def refused(words):
    def check(one, other, p):
        assert other.status == 2 and words in other.said and other.said.count("\n") == 1

    return check


def longer_by(times):
    """The log of the other run has so many times the lines."""

    def check(one, other, p):
        assert len(other.log) == times * len(one.log)

    return check


def said(words):
    """The other run says so on standard error."""

    def check(one, other, p):
        assert words in other.said and words not in one.said

    return check


def left(name):
    """The other run leaves a file whose name has this in it."""

    def check(one, other, p):
        assert not any(name in x for x in one.files) and any(name in x for x in other.files)

    return check


def logs(name, than):
    """A field of the log, whose largest value of the other run compares so with that of the first."""

    def check(one, other, p):
        assert than(other.logged(name).max(), one.logged(name).max())

    return check


def in_config(name):
    """config.json has the two values of the option."""

    def check(one, other, p):
        row = DISTILL[name]
        assert (one.config[name], other.config[name]) == (row.one, row.other)

    return check


def stopped_at(one, other, p):
    assert one.scores["mean_time_steps"] == 4 and other.scores["mean_time_steps"] == 2


def first_five(one, other, p):
    """Scores of the first five lines of the dev file, by hand."""
    batch = dev_by_hand(p)
    ids, mask, types = (part[:5] for part in batch.inputs)
    logits = nanospike.load_student(p / "student").equilibrium(ids, mask, types).logits
    right = (logits.argmax(axis=1) == batch.labels[:5]).mean()
    assert (one.scores["examples"], other.scores["examples"]) == (12, 5)
    assert other.scores["equilibrium"] == pytest.approx(right)


def halved(one, other, p):
    sizes = [(run.out / "model.safetensors").stat().st_size for run in (one, other)]
    assert sizes[1] < 0.7 * sizes[0]


NO_GPU = Row("cpu", "cuda", "status", check=refused("device cuda: CuPy is not installed"))
FAST = Row(False, True, "said")  # without numba it is the words alone: what both compute is the same
GRAPHS = Row(True, False, "status", check=refused("--no-graphs: for --device cuda, found cpu"))
PRECISION = Row("float32", "tf32", "status", check=refused("for --device cuda, found cpu"))


# ---- the tables -------------------------------------------------------------------------------------------------

BASE = {
    "finetune": {
        "model": "{p}/teacher", "task": "sst-2", "data_dir": "{p}/glue", "output_dir": "{out}", "batch_size": 28,
        "epochs": 2, "learning_rate": RATE, "warmup": 0, "log_every": 1, "workers": 1,
    },
    "distill": {
        "teacher": "{p}/teacher", "task": "sst-2", "data_dir": "{p}/glue", "output_dir": "{out}", "batch_size": 28,
        "epochs": 1, "learning_rate": RATE, "warmup": 0, "log_every": 1, "workers": 1, "time_steps": "2,4",
        "operators": "float",
    },
    "evaluate": {
        "model": "{p}/student", "task": "sst-2", "data_dir": "{p}/glue", "output_dir": "{out}", "time_steps": "2,4",
        "workers": 1,
    },
    "energy": {
        "model": "{p}/student", "task": "sst-2", "data_dir": "{p}/glue", "output_dir": "{out}", "time_steps": "2",
        "workers": 1,
    },
    "predict": {"model": "{p}/student", "texts": ("a joy", "the tea was cold ."), "time_steps": 4, "workers": 1},
    "export": {"model": "{p}/shift", "format": "integer", "out": "{out}/a"},
    "report": {"directory": "{out}/student", "time_steps": "1,2", "text": "the soup was warm"},
    "convert": {"source": "{p}/teacher", "out": "{out}"},
    "doctor": {"seconds": 0},
}  # fmt: skip

TRAINING = {
    "batch_size": Row(28, 7, "log weights", check=longer_by(4)),
    "learning_rate": Row(RATE, 2 * RATE, "log weights"),
    "warmup": Row(0, 0.5, "weights", given={"epochs": 4}, check=rates),
    "epochs": Row(1, 2, "log weights", check=longer_by(2)),
    "max_steps": Row(0, 1, "log weights", given={"epochs": 2}),
    "max_length": Row(128, 5, "weights said"),
    "log_every": Row(1, 2, "log", alike="weights", given={"epochs": 2}),
    "save_every": Row(0, 1, "checkpoints", alike="weights log", given={"epochs": 2}),
    "seed": Row(0, 1, "weights", given={"batch_size": 7}),
    "device": NO_GPU,
    "fast": FAST,
    "precision": PRECISION,
}

FINETUNE = TRAINING | {
    "model": Row("{p}/teacher", "{p}/other", "weights"),
    "task": Row("sst-2", "rte", "weights scores"),
    "data_dir": Row("{p}/glue", "{p}/fewer", "weights"),
    "train_file": Row("{p}/own.csv", "{p}/own_dev.csv", "weights", given=OWN),
    "dev_file": Row(None, "{p}/own_dev.csv", "weights scores", given=OWN),
    "text_column": Row(None, "comment", "weights", given=OWN),
    "pair_column": Row(None, "comment", "weights", given=OWN),
    "label_column": Row(None, "kind", "weights", given=OWN),
    "regression": Row(False, True, "shapes config scores", given=OWN),
    "keep": Row("last", "best", "said", given={"epochs": 4}, check=said("kept finetune step")),
    "class_weights": Row(None, "1,3", "log weights"),
    "output_dir": Row("{out}/a", "{out}/b", "files"),
    "weight_decay": Row(0, 0.5, "weights", given=FRESH, check=decayed),
    "clip_norm": Row(0, 1e-12, "weights", check=clipped),
    "resume": Row(False, True, "status", before=done_before("finetune"), check=resumed),
    "workers": Row(1, 2, "pools weights"),
}

DISTILL = TRAINING | {
    "teacher": Row("{p}/teacher", "{p}/other", "weights scores"),
    "task": Row("sst-2", "rte", "weights scores"),
    "data_dir": Row("{p}/glue", "{p}/fewer", "weights"),
    "train_file": Row("{p}/own.csv", "{p}/own_dev.csv", "weights", given=OWN),
    "dev_file": Row(None, "{p}/own_dev.csv", "weights scores", given=OWN),
    "text_column": Row(None, "comment", "weights", given=OWN),
    "pair_column": Row(None, "comment", "weights", given=OWN),
    "label_column": Row(None, "kind", "weights", given=OWN | {"labels": 1}),
    "regression": Row(False, True, "status", given=OWN, check=refused("--regression: ")),
    "output_dir": Row(None, "{out}/mine", "files", check=left("mine/model.safetensors")),
    "resume": Row(False, True, "status", before=done_before("distill"), check=resumed),
    "weight_decay": Row(0, 0.5, "weights"),
    "clip_norm": Row(0, 1e-12, "weights"),
    "class_weights": Row(None, "1,3", "log weights", given=PREDICTION | {"labels": 1}),
    "workers": Row(1, 2, "pools weights", given={"dropout": 0.2}),
    "stages": Row("internal", "prediction", "log weights"),
    "corpus": Row(["{p}/corpus.txt"], ["{p}/more.txt"], "weights log", given={"stages": "general"}),
    "encoders": Row(1, 2, "shapes"),
    "init": Row("teacher", "random", "weights"),
    "layer_map": Row("1", "2", "weights", given={"encoders": 1}),
    "student": Row("spiking", "ann", "weights scores"),
    "feedback": Row(False, True, "shapes log"),
    "feedback_rank": Row(0, 2, "shapes", given=LOOP),
    "feedback_from": Row("tokens", "cls", "weights config", given=LOOP),
    "looped": Row(False, True, "shapes log"),
    "lateral": Row(False, True, "shapes log"),
    "v_th": Row(1, 2, "weights log", check=in_config("v_th")),
    "leak": Row(1, 0.9, "scores", check=in_config("leak")),
    "spikes": Row("binary", "signed", "weights scores", check=in_config("spikes")),
    "spike_penalty": Row(0, 0.5, "weights log"),
    "thresholds": Row("fixed", "learnt", "shapes", given={"v_th": 1.5, "learning_rate": 0}, check=thresholds_start),
    "hidden": Row(1.0, 3.0, "weights log", check=losses("hidden")),
    "attention": Row(0.01, 1.0, "weights log", check=losses("attention")),
    "logits": Row(1.0, 3.0, "log", given=PREDICTION, check=losses("logits")),
    "labels": Row(0.0, 2.0, "weights log", given=PREDICTION, check=losses("labels")),
    "classifier": Row("fitted", "learnt", "weights log", given={"stages": "prediction"}),
    "keep_internal": Row(0.0, 0.5, "weights log", given=PREDICTION, check=losses("keep_internal")),
    "temperature": Row(1.0, 3.0, "weights log", given=PREDICTION, check=losses("temperature")),
    "mask": Row(0, 0.3, "weights"),
    "dropout": Row(0, 0.3, "weights"),
    "forward": Row("equilibrium", "spikes", "weights log"),
    "drive": Row("differential", "instant", "weights scores", given={"forward": "spikes"}),
    "time_steps": Row("2,4", "2", "scores", alike="weights log"),
    "few_steps": Row(2, 6, "weights log", given=FEW),
    "settled_share": Row(0, 0.5, "weights", given=FEW),
    "probe_every": Row(0, 1, "log", alike="weights", check=lambda one, other, p: other.logged("equilibrium_gap")),
    "forward_solver": Row("anderson", "damped", "log", given=LOOP, check=logs("equilibrium_sweeps", np.greater)),
    "adjoint_solver": Row("gmres", "one-step", "weights log", given=LOOP),
    "adjoint_rtol": Row(0, 0.5, "weights log", given=LOOP, check=logs("adjoint_sweeps", np.less)),
    "jacobian_penalty": Row(0, 0.5, "weights log", given=LOOP),
    "graphs": GRAPHS,
    "teacher_cache": Row(0, 4, "weights said", given={"epochs": 2}, check=said("keeping the teacher's activations")),
    "cache_dir": Row(None, "{out}/kept", "files", check=left("kept/teacher-")),
    "operators": Row("float", "softmax,norm", "weights log", check=in_config("operators")),
    "half_steps": Row(False, True, "weights log", given={"operators": "norm"}),
    "weights": Row("float", "ternary", "log", check=in_config("weights")),
    "embedding_weights": Row("float", "ternary", "log", check=in_config("embedding_weights")),
    "activation_bits": Row(0, 3, "log", given={"student": "ann", "init": "random"}, check=in_config("activation_bits")),
    "window": Row(0, 0.4, "scores", alike="weights", check=in_config("window")),
    "prune": Row(0, 0.3, "shapes"),
}

EVALUATE = {
    "model": Row("{p}/student", "{p}/loop", "scores"),
    "teacher": Row(None, "{p}/other", "scores", check=lambda one, other, p: other.scores["teacher"]),
    "task": Row("sst-2", "rte", "scores"),
    "data_dir": Row("{p}/glue", "{p}/fewer", "scores"),
    "train_file": Row("{p}/own.csv", "{p}/own_dev.csv", "scores", given=OWN),
    "dev_file": Row(None, "{p}/own_dev.csv", "scores", given=OWN),
    "test_file": Row("{p}/own.csv", "{p}/own_dev.csv", "predictions", given=OWN | {"train_file": None}),
    "text_column": Row(None, "comment", "scores", given=OWN),
    "pair_column": Row(None, "comment", "scores", given=OWN),
    "label_column": Row(None, "kind", "scores", given=OWN),
    "regression": Row(False, True, "status", given=OWN, check=refused("--regression: ")),
    "split": Row("dev", "test", "files", check=left("predictions.tsv")),
    "time_steps": Row("2,4", "2,6", "scores"),
    "drive": Row("differential", "instant", "scores", check=simulated("drive")),
    "spikes": Row("binary", "corrective", "scores", check=simulated("spikes")),
    "initial": Row(0.5, 0.3, "scores", check=simulated("initial")),
    "window": Row(0, 0.4, "scores", check=simulated("window")),
    "arithmetic": Row("float", "integer", "scores", given={"model": "{p}/shift"}, check=simulated("arithmetic")),
    "examples": Row(0, 5, "scores", check=first_five),
    "max_length": Row(128, 4, "scores said"),
    "batch_size": Row(16, 3, "batches"),
    "output_dir": Row(None, "{out}/mine", "files", check=left("mine/eval_results.json")),
    "seed": Row(0, 1, alike="scores seeds"),  # nothing is drawn
    "device": NO_GPU,
    "workers": Row(1, 2, "pools", given={"batch_size": 3}),
    "fast": FAST,
    "precision": PRECISION,
    "energy": Row(False, True, "files printed", check=left("energy.json")),
    "margin": Row(100.0, 0.0, "scores", check=stopped_at),
    "margin_decay": Row(0.0, 20.0, "scores", given={"margin": 100.0}, check=stopped_at),
}


def students(out, p):
    """A report is written into the student's own directory."""
    for name in ("student", "loop"):
        shutil.copytree(p / name, out / name)


REPORT = {
    "directory": Row("{out}/student", "{out}/loop", "page", before=students),
    "text": Row("the soup was cold", "fresh fish , fair prices .", "page", before=students),
    "population": Row(None, "encoder.0.key", "page", before=students),
    "teacher": Row(None, "{p}/teacher", "page", before=students),
    "time_steps": Row("2", "1,2", "page", before=students),
    "seed": Row(0, 1, alike="page seeds", before=students),  # nothing is drawn
    "device": replace(NO_GPU, before=students),
}

ENERGY = {
    "model": Row("{p}/student", "{p}/loop", "costs"),
    "teacher": Row(None, "{p}/teacher", "costs"),
    "ann": Row(None, "{p}/ann", "costs"),
    "task": Row("sst-2", "rte", "costs"),
    "data_dir": Row("{p}/glue", "{p}/fewer", "costs"),
    "time_steps": Row("2", "2,3", "costs"),
    "constants": Row("float32", "int8", "costs"),
    "format": Row("table", "json", "printed", check=lambda one, other, p: json.loads(other.printed)["time_steps"]),
    "examples": Row(0, 5, "costs"),
    "max_length": Row(128, 4, "costs said"),
    "batch_size": Row(16, 3, "batches"),
    "output_dir": Row(None, "{out}/mine", "files", check=left("mine/energy.json")),
    "seed": Row(0, 1, alike="costs seeds"),  # nothing is drawn
    "device": NO_GPU,
    "workers": Row(1, 2, "pools", given={"batch_size": 3}),
}

PREDICT = {
    "texts": Row(("a joy",), ("a bore",), "lines"),
    "model": Row("{p}/student", "{p}/loop", "lines"),
    "time_steps": Row(1, 8, "lines"),
    "json": Row(False, True, "lines", check=lambda one, other, p: json.loads(other.lines[0])["label"]),
    "arithmetic": Row("float", "integer", "lines", given={"model": "{p}/shift"}),
    "fast": Row(False, True, alike="lines") if NUMBA else Row(False, True, "status", check=refused("--fast: numba is")),
    "seed": Row(0, 1, alike="lines seeds"),  # nothing is drawn
    "device": NO_GPU,
    "workers": Row(1, 2, "pools", given={"texts": ("a joy",) * 40}),
    "encoding": Row(
        "utf-8",
        "latin-1",
        "status lines",
        given={"texts": None},
        stdin="das Café\n".encode("latin-1"),
        check=lambda one, other, p: "not UTF-8" in one.said and other.lines[0].endswith("das Café"),
    ),
}

EXPORT = {
    "out": Row("{out}/a", "{out}/b", "files", check=left("b/integers.npz")),
    "model": Row("{p}/shift", "{p}/student", "status", check=refused("arithmetic integer: for operators shift")),
    "format": Row("integer", "spice", "status", check=refused("--format: found 'spice'")),
    "seed": Row(0, 1, alike="files seeds"),  # nothing is drawn
    "device": NO_GPU,
}

CONVERT = {
    "source": Row("{p}/teacher", "{p}/other", "weights"),
    "out": Row("{out}/a", "{out}/b", "files", check=left("b/model.safetensors")),
    "dtype": Row("float32", "float16", "printed", check=halved),
    "seed": Row(0, 1, alike="files seeds"),  # nothing is drawn
    "device": NO_GPU,
}

DOCTOR = {
    "seconds": Row(0, 0.02, "printed", check=lambda one, other, p: "GFLOP/s" in other.printed),
    "json": Row(False, True, "printed", check=lambda one, other, p: json.loads(other.printed)["versions"]),
    "seed": Row(0, 1, "seeds", given={"seconds": 0.01}),
    "device": NO_GPU,
    "workers": Row(1, 2, "pools", given={"seconds": 0.01}),
}

TABLES = {
    "finetune": FINETUNE,
    "distill": DISTILL,
    "evaluate": EVALUATE,
    "energy": ENERGY,
    "report": REPORT,
    "predict": PREDICT,
    "convert": CONVERT,
    "export": EXPORT,
    "doctor": DOCTOR,
}


# ---- the runs ---------------------------------------------------------------------------------------------------


def write_own(path, lines):
    """A CSV with two columns of texts and two of labels."""
    rows = ["text,comment,label,kind"]
    for i, line in enumerate(lines):
        label, _, text = line.partition("\t")
        words = text.replace(",", " ").split()
        rows.append(f"{' '.join(words)},{' '.join(reversed(words[:-2]))},{label},{i % 3 == 0:d}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def p(tmp_path_factory):
    """The folder of inputs."""
    root = tmp_path_factory.mktemp("inputs")
    still = {"hidden_dropout_prob": 0.1, "pooler": False, "mixing": 4, "hidden_size": 16, "intermediate_size": 24}
    for name, seed in (("teacher", 4), ("other", 5)):
        write_teacher(root / name, seed=seed, **still)
    write_sst2(root / "glue" / "SST-2")
    write_sst2(root / "fewer" / "SST-2", *("\n".join(text.splitlines()[:9]) for text in (TRAIN, DEV)))
    texts = [line.partition("\t")[2] for line in DEV.splitlines()]
    test = [f"{i}\t{text}" for i, text in enumerate(texts)]
    (root / "glue" / "SST-2" / "test.tsv").write_text("\n".join(["index\tsentence", *test]) + "\n")
    (root / "glue" / "RTE").mkdir()
    pairs = [f"{i}\t{a[:20]}\t{b[:20]}\tentailment" for i, (a, b) in enumerate(zip(texts, texts[1:], strict=False))]
    for name in ("train.tsv", "dev.tsv"):
        (root / "glue" / "RTE" / name).write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *pairs]) + "\n")
    write_own(root / "own.csv", TRAIN.splitlines())
    write_own(root / "own_dev.csv", DEV.splitlines())
    (root / "corpus.txt").write_text(CORPUS)
    (root / "more.txt").write_text("\n".join(CORPUS.splitlines()[2:]) + "\n")
    teacher = nanospike.load_teacher(root / "teacher")
    low_bit = {"operators": "shift", "weights": "ternary"}
    for name, more in (("student", {}), ("loop", LOOP), ("ann", {"activation": "ann"}), ("shift", low_bit)):
        student = nanospike.init_student(asdict(teacher.config) | more, teacher, seed=1)
        student.save(root / name)
    return root


@pytest.fixture(scope="module")
def outcome_of(p, tmp_path_factory):
    """The Outcome of a command with {option: value}; of the same once."""
    known = {}

    def found(command, options, **more):
        key = json.dumps([command, {k: v for k, v in options.items() if v is not None}], sort_keys=True, default=list)
        if key not in known or more:
            known[key] = outcome(command, options, p, tmp_path_factory.mktemp(command) / "out", **more)
        return known[key]

    return found


@pytest.mark.parametrize("command", commands())
def test_every_option_has_a_row(command):
    """One that is missing here has no effect that anything looks at; one too many is gone."""
    assert sorted(TABLES[command]) == sorted(options_of(command))


@pytest.mark.parametrize("command, option", [(c, o) for c, rows in TABLES.items() for o in rows])
def test_an_option_has_its_effect(command, option, outcome_of, p):
    row = TABLES[command][option]
    more = {name: value for name in ("before", "stdin") if (value := getattr(row, name))}
    given = BASE[command] | row.given
    one, other = (outcome_of(command, given | {option: value}, **more) for value in (row.one, row.other))
    if "status" not in row.differ:
        assert (one.status, other.status) == (0, 0), one.said + other.said
    assert row.differ or row.alike
    for name in row.differ.split():
        assert getattr(one, name) != getattr(other, name), f"{name} is the same with {row.one} and {row.other}"
    for name in row.alike.split():
        assert getattr(one, name) == getattr(other, name), f"{name} differs with {row.one} and {row.other}"
    if row.check:
        assert row.check(one, other, p) is not False


def test_a_new_option_without_a_row_is_noticed(monkeypatch):
    monkeypatch.setitem(TABLES, "predict", {k: v for k, v in PREDICT.items() if k != "json"})
    with pytest.raises(AssertionError):
        test_every_option_has_a_row("predict")
